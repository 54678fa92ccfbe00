//! Reading pages as far as the tests need it: their forms.

/// The text between two others, the first time that it occurs.
pub fn text_between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

/// A form that posts, with its hidden fields.
#[derive(Debug, Clone)]
pub struct PostedForm {
    pub action: String,
    pub hidden: Vec<(String, String)>,
}

/// The forms of a page that are sent by POST, in order.
pub fn forms(html: &str) -> Vec<PostedForm> {
    let mut found = Vec::new();
    for form in html.split("<form").skip(1) {
        let form = form.split("</form>").next().unwrap_or("");
        let (tag, inside) = form.split_once('>').unwrap_or((form, ""));
        if attribute(tag, "method").as_deref() != Some("post") {
            continue;
        }
        let inputs = inside.split("<input").skip(1).filter_map(|input| {
            let tag = input.split('>').next().unwrap_or("");
            let hidden = attribute(tag, "type").as_deref() == Some("hidden");
            hidden.then(|| Some((attribute(tag, "name")?, attribute(tag, "value")?))).flatten()
        });
        found.push(PostedForm { action: attribute(tag, "action").unwrap_or_default(), hidden: inputs.collect() });
    }
    found
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    text_between(tag, &format!(" {name}=\""), "\"").map(unescaped)
}

fn unescaped(text: &str) -> String {
    let mut text = text.to_owned();
    for (escaped, plain) in [("&#34;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">"), ("&#38;", "&")] {
        text = text.replace(escaped, plain);
    }
    text
}

//! Pages rendered with what people really type.

use super::*;

const LONG: &str = "Wissenschaftliche Verlagsgesellschaft mbH & Co. KG";

fn sign_in(form: FormState) -> String {
    let page = SignIn {
        frame: Frame::of("Sign in", LONG, "/o/acme"),
        csrf: "token".to_owned(),
        form,
        request: Some("sealed+/=".to_owned()),
        app_name: Some("<Demo>".to_owned()),
    };
    page.render().unwrap()
}

#[test]
fn what_was_typed_is_escaped_and_survives_and_secrets_do_not() {
    let form =
        FormState::default().keep("email", "\"><script>@x").keep("password", "hunter2").wrong("password", MISMATCH);
    let html = sign_in(form);
    assert!(!html.contains("<script>@x") && !html.contains("<Demo>") && !html.contains("hunter2"));
    assert!(html.contains("&#60;script&#62;@x") || html.contains("&lt;script&gt;@x"), "{html}");
    assert!(html.contains("Verlagsgesellschaft mbH &#38; Co. KG"), "{html}");
}

#[test]
fn an_error_is_told_at_the_top_and_at_the_field() {
    let html = sign_in(FormState::default().keep("email", "ada@example.com").wrong("password", MISMATCH));
    assert_eq!(html.matches("That e-mail and password don").count(), 2);
    assert!(html.contains("role=\"alert\"") && html.contains("<a href=\"#password\">"));
    assert!(html.contains("id=\"password-error\"") && html.contains("aria-invalid=\"true\""));
    assert!(html.contains("<title>Problem: Sign in · "), "{html}");
    let (_, password) = html.split_once("<input id=\"password\"").unwrap();
    let (password, _) = password.split_once('>').unwrap();
    assert!(password.contains("aria-describedby=\" password-error\"") && password.contains("autofocus"), "{password}");
    assert_eq!(html.matches("autofocus").count(), 1);
}

#[test]
fn links_and_forms_keep_the_prefix_and_the_waiting_request() {
    let html = sign_in(FormState::default());
    assert!(html.contains("action=\"/o/acme/sign-in\""));
    assert!(html.contains("href=\"/o/acme/recovery?request=sealed%2B%2F%3D\""), "{html}");
    assert!(html.contains("name=\"request\" value=\"sealed+/=\""));
    assert!(html.contains("name=\"csrf\" value=\"token\""));
}

#[test]
fn nothing_is_inline() {
    let html = sign_in(FormState::default().tell(NoticeKind::Success, "Done."));
    assert!(!html.contains(" style=") && !html.contains("<style") && !html.contains(" onclick="));
    assert_eq!(html.matches("<script").count(), 1);
    assert!(html.contains("role=\"status\""));
}

#[test]
fn problems_follow_the_page_and_unknown_fields_are_still_told() {
    use crate::base::error::FieldError;
    let error = |field: &'static str, message: &'static str| FieldError {
        field: field.into(),
        code: "invalid",
        message: message.into(),
    };
    let form = FormState::default().wrong_fields(&[
        error("password", "Too short."),
        error("name", "Say its name."),
        error("name", "Second."),
        error("metadata", "Too large."),
    ]);
    let fields: Vec<_> = form.problems().iter().map(|problem| problem.field).collect();
    assert_eq!(fields, ["name", "password"]);
    assert_eq!(form.error("name"), Some("Say its name."));
    assert_eq!(form.notice, Some(Notice { kind: NoticeKind::Error, text: "Too large.".to_owned() }));
    assert!(form.focus("name", "") && !form.focus("password", "password"));
}

#[test]
fn a_name_without_letters_still_has_a_monogram() {
    assert_eq!(Frame::of("x", "«élan»", "").monogram(), "É");
    assert_eq!(Frame::of("x", "---", "").monogram(), "·");
}

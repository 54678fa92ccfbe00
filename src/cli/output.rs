//! What people and programs read: one JSON document, or text in columns.

use std::io::{self, Write};

use serde_json::Value;

use super::failure::Failure;

/// Where answers go.
pub(super) struct Output {
    pub json: bool,
}

impl Output {
    /// The answer of a command: the document itself, or the text that `human` makes of it.
    pub fn answer(&self, document: &Value, human: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = if self.json { format!("{document:#}\n") } else { human() };
        write_quietly(&mut io::stdout().lock(), &text).map_err(Failure::from)
    }

    /// Text beside the answer, for people.
    pub fn remark(&self, text: &str) {
        if !self.json {
            note(text);
        }
    }

    /// A failure, where answers don't go.
    pub fn complain(&self, failure: &Failure) {
        let text = if self.json { format!("{:#}\n", failure.document()) } else { clean_lines(&failure.text()) };
        note(&text);
    }
}

/// Text beside the answer. If nobody can read it, there is nobody to tell.
pub(super) fn note(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// A reader that has seen enough (`| head`) is no failure.
fn write_quietly(to: &mut impl Write, text: &str) -> io::Result<()> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// One line for people: a title, and the values of an object under it.
pub(super) fn titled(title: &str, object: &Value) -> String {
    format!("{}\n\n{}", clean(title), details(object))
}

/// `key: value` lines in columns; nested objects become `outer.inner`, and what is shown once comes last.
pub(super) fn details(object: &Value) -> String {
    let (mut lines, mut secrets) = (Vec::new(), Vec::new());
    flatten("", object, &mut |key, value| {
        let line = (clean(&key.replace('_', " ")), shown(value));
        if is_secret(key) { secrets.push(line) } else { lines.push(line) }
    });
    let width = lines.iter().chain(&secrets).map(|(key, _)| key.chars().count() + 1).max().unwrap_or(0);
    let mut text = String::new();
    let mut write = |lines: &[(String, String)]| {
        for (key, value) in lines {
            text.push_str(format!("{:width$}  {value}", format!("{key}:")).trim_end());
            text.push('\n');
        }
    };
    write(&lines);
    write(&secrets);
    if !secrets.is_empty() {
        text.push_str("\nThe secret is shown this once. Keep it where its user can read it, and nobody else.\n");
    }
    text
}

fn flatten(prefix: &str, value: &Value, line: &mut dyn FnMut(&str, &Value)) {
    for (key, value) in value.as_object().into_iter().flatten() {
        if key == "object" {
            continue;
        }
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(inner) if !inner.is_empty() => flatten(&key, value, line),
            // One line each.
            Value::Array(values) if values.iter().any(Value::is_object) => {
                for value in values {
                    line(&key, value);
                }
            }
            _ => line(&key, value),
        }
    }
}

fn is_secret(key: &str) -> bool {
    matches!(key, "secret" | "client_secret")
}

/// Rows under headings; `empty` if there are none.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>], empty: &str) -> String {
    if rows.is_empty() {
        return format!("{empty}\n");
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    };
    line(&mut headings.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// The objects of a list as rows: one cell for each key, where `a.b` is `b` of `a`.
pub(super) fn rows(list: &Value, keys: &[&str]) -> Vec<Vec<String>> {
    let objects = list["data"].as_array().into_iter().flatten();
    objects.map(|object| keys.iter().map(|key| cell(object, key)).collect()).collect()
}

/// One value of an object, as text.
pub(super) fn cell(object: &Value, key: &str) -> String {
    shown(key.split('.').fold(object, |value, key| &value[key]))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => clean(text),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Object(object) if object.is_empty() => "-".to_owned(),
        Value::Object(object) => {
            let parts = object.iter().map(|(key, value)| format!("{} {}", clean(&key.replace('_', " ")), shown(value)));
            parts.collect::<Vec<_>>().join(", ")
        }
        Value::Number(_) => clean(&value.to_string()),
    }
}

/// Names come from strangers: what would steer the terminal or turn the text around becomes visible.
pub(super) fn clean(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

fn clean_lines(text: &str) -> String {
    text.lines().map(|line| clean(line) + "\n").collect()
}

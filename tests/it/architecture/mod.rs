//! The house rules that the compiler does not know: who may import whom (docs/ARCHITECTURE.md has the reasons).
//!
//! `source.rs` reads a file into paths and texts, `rules.rs` says which of them are forbidden, and `proof.rs` feeds the
//! rules offending snippets, because a checker that never fails proves nothing.

mod proof;
mod rules;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use rules::Violation;
use source::Source;

/// Past this a file is to be split.
const MOST_LINES: usize = 600;

#[test]
fn imports_point_down() {
    let mut violations = Vec::new();
    for (path, text) in sources() {
        violations.extend(rules::check(&Source::read(&path, &text)));
    }
    assert!(violations.is_empty(), "{}", listed(&violations));
}

#[test]
fn no_file_is_too_long() {
    let mut violations = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > MOST_LINES {
            let rule = format!("has {lines} lines, and the most is {MOST_LINES}: split it");
            violations.push(Violation { path, line: MOST_LINES + 1, rule });
        }
    }
    assert!(violations.is_empty(), "{}", listed(&violations));
}

#[test]
fn every_room_says_what_it_owns() {
    let mut violations = Vec::new();
    for (path, text) in sources() {
        if path.ends_with("mod.rs") && !text.starts_with("//!") {
            let rule = "a mod.rs opens with a //! comment: what it owns, may touch and leaves alone".to_owned();
            violations.push(Violation { path, line: 1, rule });
        }
    }
    assert!(violations.is_empty(), "{}", listed(&violations));
}

/// A setting that nothing reads is a promise that is not kept.
#[test]
fn every_setting_is_read_by_something() {
    let config = bulkhead::config::Config::embedded().expect("the defaults are sound").show();
    let readers: String = sources()
        .into_iter()
        .filter(|(path, _)| !path.starts_with("src/config/") || path == "src/config/mod.rs")
        .map(|(_, text)| text)
        .collect();
    let mut unread = Vec::new();
    for (section, settings) in &config {
        for key in settings.as_table().expect("a section").keys() {
            if !contains_word(&readers, key) {
                unread.push(format!("{section}.{key}"));
            }
        }
    }
    assert!(unread.is_empty(), "nothing reads these settings; use them or remove them: {}", unread.join(", "));
}

fn contains_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

fn listed(violations: &[Violation]) -> String {
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    format!("{} broken rules of the house:\n{}", violations.len(), lines.join("\n"))
}

/// Every file of `src`, by its path in the repository.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of src") {
            let path = entry.expect("an entry of src").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("a path below the root").display().to_string();
                found.push((name, fs::read_to_string(&path).expect("readable source")));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

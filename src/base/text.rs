//! Text that people give: what may stand in a name.

/// Whether text can be shown in a line without doing something to it: no control characters, and none of
/// the invisible ones that turn the direction of what follows or hide between letters (Unicode UTS #39
/// section 3.3), with which one name can be made to look like another.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    !text.chars().any(|c| {
        c.is_control()
            || matches!(c,
                '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    })
}

/// A name of 1 to `most` characters that can be shown as it is.
#[must_use]
pub fn is_name(text: &str, most: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= most && is_plain(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_script_and_no_tricks() {
        for name in ["Acme", "Wissenschaftliche Verlagsgesellschaft mbH & Co. KG", "日本", "עברית", "Zoë 🚀"]
        {
            assert!(is_name(name, 120), "{name}");
        }
        for name in ["", "  ", "a\nb", "a\u{202e}b", "a\u{200b}b", "\u{2066}a", "\0"] {
            assert!(!is_name(name, 120), "{name:?}");
        }
        assert!(!is_name("abc", 2));
    }
}

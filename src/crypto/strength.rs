//! How easily a password is guessed, and what to say about it.
//!
//! No rules of composition ("one digit, one symbol"), which NIST SP 800-63B section 5.1.1.2 advises
//! against: an estimate of the guesses needed instead, which knows of leaked passwords, of keyboard
//! rows and of the words that have to do with the person.

use zxcvbn::feedback::Warning;

use crate::base::Secret;

/// In characters.
const SHORTEST: usize = 8;
const LONGEST: usize = 128;
/// In bytes; what the hasher takes at most.
const LONGEST_BYTES: usize = 1024;
/// 10^8 guesses or more (zxcvbn's scale is 0 to 4).
const NEEDED: u8 = 3;

const ADVICE: &str = "Three or four uncommon words are hard to guess and easy to remember.";

/// An estimate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strength {
    /// 0 (guessed at once) to 4 (more than 10^10 guesses).
    pub score: u8,
    /// One or two sentences for the person.
    pub advice: String,
}

/// Whether the password may be used; if not, one or two sentences that say what to do.
///
/// `about` is what others know of the person: e-mail address, names, the organization's name.
pub fn check(password: &Secret, about: &[&str]) -> Result<(), String> {
    let length = password.expose().chars().count();
    if length < SHORTEST {
        return Err(format!("Use at least {SHORTEST} characters. {ADVICE}"));
    }
    if length > LONGEST || password.expose().len() > LONGEST_BYTES {
        return Err(format!("Use at most {LONGEST} characters."));
    }
    let strength = estimate(password, about);
    if strength.score < NEEDED { Err(strength.advice) } else { Ok(()) }
}

/// The estimate alone, for a password of any length.
#[must_use]
pub fn estimate(password: &Secret, about: &[&str]) -> Strength {
    let words = words(about);
    let inputs: Vec<&str> = words.iter().map(String::as_str).collect();
    let entropy = zxcvbn::zxcvbn(password.expose(), &inputs);
    let lower = password.expose().to_lowercase();
    let reason = if words.iter().any(|word| word.chars().count() >= 4 && lower.contains(word.as_str())) {
        "It contains something that others know about you."
    } else {
        reason(entropy.feedback().and_then(zxcvbn::feedback::Feedback::warning))
    };
    Strength { score: entropy.score().into(), advice: format!("{reason} {ADVICE}") }
}

/// Whole values and the words in them, since "ada.lovelace@acme.com" is guessed in pieces.
fn words(about: &[&str]) -> Vec<String> {
    let mut words = vec!["bulkhead".to_owned()];
    for value in about {
        let value: String = value.to_lowercase().chars().take(200).collect();
        words.extend(value.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() >= 3).map(str::to_owned));
        words.push(value);
    }
    // An empty word would be found in every password.
    words.retain(|word| !word.is_empty());
    words.truncate(64);
    words
}

fn reason(warning: Option<Warning>) -> &'static str {
    use Warning as W;
    match warning {
        Some(W::StraightRowsOfKeysAreEasyToGuess | W::ShortKeyboardPatternsAreEasyToGuess) => {
            "Rows of neighbouring keys are among the first guesses."
        }
        Some(W::RepeatsLikeAaaAreEasyToGuess | W::RepeatsLikeAbcAbcAreOnlySlightlyHarderToGuess) => {
            "Repeating something adds very little."
        }
        Some(W::ThisIsATop10Password | W::ThisIsATop100Password | W::ThisIsACommonPassword) => {
            "Many people use this password, so it is guessed first."
        }
        Some(W::ThisIsSimilarToACommonlyUsedPassword) => "This is very close to a password that many people use.",
        Some(W::SequencesLikeAbcAreEasyToGuess) => "Sequences such as abc or 6543 are easy to guess.",
        Some(W::RecentYearsAreEasyToGuess | W::DatesAreOftenEasyToGuess) => "Years and dates are easy to guess.",
        Some(W::AWordByItselfIsEasyToGuess) => "A single word is easy to guess.",
        Some(W::NamesAndSurnamesByThemselvesAreEasyToGuess | W::CommonNamesAndSurnamesAreEasyToGuess) => {
            "Names are easy to guess."
        }
        None => "This password is too easy to guess.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn what_is_good_enough() {
        for good in ["correct horse battery staple", "plum-otter-cabinet-9", "Zg7!pQ2v#Lx", "ähre möwe kürbis löffel"]
        {
            assert_eq!(check(&secret(good), &["ada@acme.example"]), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_not_and_what_is_said_about_it() {
        for (bad, said) in [
            ("short", "at least 8"),
            ("password", "Many people"),
            ("P@ssw0rd1", "password"),
            ("qwertyuiop", "Many people"),
            ("aaaaaaaaaaaa", "Repeating"),
            ("bulkhead2026", "others know"),
        ] {
            let refusal = check(&secret(bad), &[]).unwrap_err();
            assert!(refusal.contains(said), "{bad}: {refusal}");
        }
        assert!(check(&secret(&"correct horse ".repeat(20)), &[]).unwrap_err().contains("at most"));
        assert!(check(&secret(&"🐎".repeat(129)), &[]).unwrap_err().contains("at most"));
    }

    #[test]
    fn what_others_know_does_not_count() {
        let about = ["wilhelmina.okonkwo@northwind.example", "Wilhelmina Okonkwo", "Northwind Traders"];
        let password = secret("okonkwonorthwind");
        assert_eq!(check(&password, &[]), Ok(()));
        assert!(check(&password, &about).unwrap_err().contains("others know about you"));
        // Empty values are not in every password.
        assert_eq!(check(&password, &["", ""]), Ok(()));
    }
}

//! Crockford's base 32 in lower case: no `i`, `l`, `o`, `u`, so that ids survive being read aloud.
//!
//! Only the canonical spelling is accepted back: two texts never name one value.

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// 128 bits as 26 characters, most significant first (the text form of a ULID, in lower case).
#[must_use]
pub fn encode_u128(value: u128) -> String {
    digits_of(value).into_iter().map(char::from).collect()
}

/// The characters of [`encode_u128`], for whoever has a place for them already.
#[must_use]
pub fn digits_of(value: u128) -> [u8; 26] {
    let mut digits = [0; 26];
    let mut rest = value;
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest & 31) as usize];
        rest >>= 5;
    }
    digits
}

/// The inverse of [`encode_u128`]; `None` for any other spelling.
#[must_use]
pub fn decode_u128(text: &str) -> Option<u128> {
    let bytes = text.as_bytes();
    // 26 characters hold 130 bits: the first may only carry three.
    if bytes.len() != 26 || digit(bytes[0])? > 7 {
        return None;
    }
    bytes.iter().try_fold(0_u128, |value, &byte| Some(value << 5 | u128::from(digit(byte)?)))
}

/// Any bytes, five bits a character, the last padded with zero bits.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut buffer, mut bits) = (0_u32, 0_u32);
    for &byte in bytes {
        buffer = buffer << 8 | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(char::from(ALPHABET[(buffer >> bits & 31) as usize]));
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        out.push(char::from(ALPHABET[(buffer << (5 - bits) & 31) as usize]));
    }
    out
}

/// Whether every character belongs to the alphabet.
#[must_use]
pub fn is_canonical(text: &str) -> bool {
    text.bytes().all(|byte| digit(byte).is_some())
}

/// What each byte stands for: ids are read from every row of every answer.
const VALUES: [Option<u8>; 256] = {
    let mut values = [None; 256];
    let mut at = 0;
    while at < 32 {
        values[ALPHABET[at as usize] as usize] = Some(at);
        at += 1;
    }
    values
};

fn digit(byte: u8) -> Option<u8> {
    VALUES[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_survives_the_round_trip(value: u128) {
            prop_assert_eq!(decode_u128(&encode_u128(value)), Some(value));
        }

        #[test]
        fn only_one_spelling_is_accepted(text in "[0-9a-zA-Z]{26}") {
            if let Some(value) = decode_u128(&text) {
                prop_assert_eq!(encode_u128(value), text);
            }
        }
    }

    #[test]
    fn a_number_of_more_than_128_bits_is_refused() {
        assert_eq!(decode_u128("7zzzzzzzzzzzzzzzzzzzzzzzzz"), Some(u128::MAX));
        assert_eq!(decode_u128("80000000000000000000000000"), None);
    }

    #[test]
    fn bytes_are_written_five_bits_at_a_time() {
        assert_eq!(encode(&[]), "");
        assert_eq!(encode(&[0xff]), "zw");
        assert_eq!(encode(&[0; 32]).len(), 52);
    }
}

//! Transaction ids and the names of files made of them.

use std::fmt;
use std::str::FromStr;

use super::{Error, Result};

/// A transaction of the replica, counted from 1. Text form: 16 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(pub u64);

impl Txid {
    pub const FIRST: Self = Self(1);

    /// The one after; stays at `u64::MAX`, which no database reaches.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Txid {
    type Err = Error;

    /// Stricter than `from_str_radix`, which takes a sign and capitals: a key has one spelling.
    fn from_str(text: &str) -> Result<Self> {
        let refused = || Error::Txid(text.to_owned());
        if text.len() != 16 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(refused());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| refused())
    }
}

/// `<min>-<max>.ltx`: the transactions that a file holds, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    pub min: Txid,
    pub max: Txid,
}

impl FileName {
    pub const LEN: usize = 37;
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.ltx", self.min, self.max)
    }
}

impl FromStr for FileName {
    type Err = Error;

    /// As litestream's `^([0-9a-f]{16})-([0-9a-f]{16})\.ltx$`, and the range must be one.
    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (min, max) = text.strip_suffix(".ltx")?.split_once('-')?;
            let name = Self { min: min.parse().ok()?, max: max.parse().ok()? };
            (Txid::FIRST <= name.min && name.min <= name.max).then_some(name)
        };
        parse().ok_or_else(|| Error::FileName(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        let name = FileName { min: Txid(1), max: Txid(0xabc) };
        assert_eq!(name.to_string(), "0000000000000001-0000000000000abc.ltx");
        assert_eq!(name.to_string().len(), FileName::LEN);
        assert_eq!(name.to_string().parse::<FileName>().unwrap(), name);
        for bad in [
            "",
            "0000000000000001-0000000000000ABC.ltx",
            "0000000000000001-0000000000000abc.LTX",
            "0000000000000001-0000000000000abc.ltx.tmp",
            " 0000000000000001-0000000000000abc.ltx",
            "+000000000000001-0000000000000abc.ltx",
            "000000000000001-0000000000000abc.ltx",
            "0000000000000000-0000000000000001.ltx",
            "0000000000000002-0000000000000001.ltx",
            "0000000000000001_0000000000000001.ltx",
            "0000000000000001-0000000000000001-0000000000000001.ltx",
            "000000000000000é-0000000000000001.ltx",
        ] {
            assert!(bad.parse::<FileName>().is_err(), "{bad:?}");
        }
        assert!("00000000000000é".parse::<Txid>().is_err());
        assert_eq!(Txid(u64::MAX).next(), Txid(u64::MAX));
    }
}

//! How one value is read from the file or the environment, and how it is shown.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;
use toml::Value;
use url::Url;

use crate::base::Secret;

use super::PREFIX;
use super::problem::Problem;

/// A type that a setting can have.
pub(super) trait Setting: Sized {
    /// Continues the sentence "server.listen must be ...".
    const WANTED: &'static str;

    fn from_toml(value: &Value) -> Option<Self>;
    fn from_text(text: &str) -> Option<Self>;
    /// The value as it would be written, with secrets replaced.
    fn show(&self) -> Value;
}

/// Everything that was said about the settings, taken section by section; what remains is unknown.
pub(super) struct Source {
    file: toml::Table,
    env: BTreeMap<String, String>,
}

/// One section while it is read.
pub(super) struct Section<'a> {
    name: &'static str,
    file: toml::Table,
    env: &'a mut BTreeMap<String, String>,
    problems: &'a mut Vec<Problem>,
}

impl Source {
    pub(super) fn new(file: toml::Table, env: BTreeMap<String, String>) -> Self {
        Self { file, env }
    }

    pub(super) fn section<'a>(&'a mut self, name: &'static str, problems: &'a mut Vec<Problem>) -> Section<'a> {
        let file = match self.file.remove(name) {
            None => toml::Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                problems.push(Problem::new(name, format!("must be a section: write [{name}] on a line of its own")));
                toml::Table::new()
            }
        };
        Section { name, file, env: &mut self.env, problems }
    }

    /// Reports what no section has taken.
    pub(super) fn finish(self, sections: &[(&'static str, &'static [&'static str])], problems: &mut Vec<Problem>) {
        let names: Vec<&str> = sections.iter().map(|(name, _)| *name).collect();
        for key in self.file.keys() {
            problems.push(Problem::new(key, unknown("is not a section", key, &names, "[", "]")));
        }
        let variables: Vec<String> =
            sections.iter().flat_map(|(name, keys)| keys.iter().map(|key| variable(name, key))).collect();
        let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
        for name in self.env.keys() {
            problems.push(Problem::new(name, unknown("is not an environment variable", name, &variables, "", "")));
        }
    }
}

impl Section<'_> {
    /// The environment's value, else the file's, else the default; a bad value is reported and the default stands in,
    /// so that the remaining rules can still be checked.
    pub(super) fn take<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        let in_file = self.file.remove(key);
        let variable = variable(self.name, key);
        if let Some(text) = self.env.remove(&variable) {
            return T::from_text(&text).unwrap_or_else(|| {
                self.problem(&format!("{}.{key} ({variable})", self.name), format!("must be {}", T::WANTED));
                default
            });
        }
        let Some(value) = in_file else { return default };
        T::from_toml(&value).unwrap_or_else(|| {
            self.problem(&format!("{}.{key}", self.name), format!("must be {}", T::WANTED));
            default
        })
    }

    pub(super) fn within<T: PartialOrd + Display>(&mut self, key: &str, value: &T, range: &RangeInclusive<T>) {
        if !range.contains(value) {
            let message = format!("is {value}; choose a number from {} to {}", range.start(), range.end());
            self.problem(&format!("{}.{key}", self.name), message);
        }
    }

    pub(super) fn finish(self, keys: &[&str]) {
        for key in self.file.keys() {
            let message = unknown(&format!("is not a setting of [{}]", self.name), key, keys, "", "");
            self.problems.push(Problem::new(format!("{}.{key}", self.name), message));
        }
    }

    fn problem(&mut self, key: &str, message: String) {
        self.problems.push(Problem::new(key, message));
    }
}

fn variable(section: &str, key: &str) -> String {
    format!("{PREFIX}{section}_{key}").to_ascii_uppercase()
}

fn unknown(what: &str, got: &str, known: &[&str], before: &str, after: &str) -> String {
    let nearest = known.iter().map(|name| (distance(got, name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= 2 + got.len() / 4 => {
            format!("{what}; did you mean {before}{name}{after}? Otherwise remove it")
        }
        _ => format!("{what}; remove it, or see bulkhead.example.toml for every setting"),
    }
}

/// Levenshtein's distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            const WANTED: &'static str = "a whole number, written without quotes or units";

            fn from_toml(value: &Value) -> Option<Self> {
                value.as_integer().and_then(|number| Self::try_from(number).ok())
            }

            fn from_text(text: &str) -> Option<Self> {
                text.trim().parse().ok()
            }

            fn show(&self) -> Value {
                Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )*};
}

numbers!(u16, u32, u64, usize);

impl Setting for bool {
    const WANTED: &'static str = "true or false";

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_bool()
    }

    fn from_text(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }

    fn show(&self) -> Value {
        Value::Boolean(*self)
    }
}

impl Setting for String {
    const WANTED: &'static str = "a text in quotes";

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn show(&self) -> Value {
        Value::String(self.clone())
    }
}

impl Setting for Secret {
    const WANTED: &'static str = "a text in quotes";

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::from_text)
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(Self::new(text.to_owned()))
    }

    fn show(&self) -> Value {
        Value::String(if self.is_empty() { String::new() } else { "[set]".to_owned() })
    }
}

impl Setting for PathBuf {
    const WANTED: &'static str = "a path in quotes";

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::from_text)
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(Self::from(text))
    }

    fn show(&self) -> Value {
        Value::String(self.display().to_string())
    }
}

impl Setting for SocketAddr {
    const WANTED: &'static str = "an address and port in quotes, like \"127.0.0.1:8080\" or \"[::]:8080\"";

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::from_text)
    }

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> Value {
        Value::String(self.to_string())
    }
}

impl Setting for Option<SocketAddr> {
    const WANTED: &'static str = "an address and port in quotes, like \"127.0.0.1:9464\", or \"\" for none";

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str().and_then(<Self as Setting>::from_text)
    }

    fn from_text(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    }

    fn show(&self) -> Value {
        Value::String(self.map_or_else(String::new, |address| address.to_string()))
    }
}

impl Setting for Url {
    const WANTED: &'static str = "an address in quotes, like \"https://example.com\"";

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::from_text)
    }

    fn from_text(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }

    fn show(&self) -> Value {
        Value::String(self.as_str().trim_end_matches('/').to_owned())
    }
}

impl Setting for Vec<String> {
    const WANTED: &'static str = "a list of texts, like [\"/usr/local/bin/kms\", \"--region=eu\"]";

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect())
    }

    fn show(&self) -> Value {
        self.clone().into()
    }
}

impl Setting for Vec<IpNet> {
    const WANTED: &'static str = "a list of networks, like [\"10.0.0.0/8\", \"::1/128\"]";

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(|network| network.as_str()?.parse().ok()).collect()
    }

    fn from_text(text: &str) -> Option<Self> {
        text.split(',')
            .map(str::trim)
            .filter(|network| !network.is_empty())
            .map(|network| network.parse().ok())
            .collect()
    }

    fn show(&self) -> Value {
        self.iter().map(ToString::to_string).collect::<Vec<_>>().into()
    }
}

//! Instants in milliseconds, and the clock that everything asks.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An instant: milliseconds since the Unix epoch, as stored; RFC 3339 in UTC, as shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds, as the `exp`, `iat` and `auth_time` of a JWT (RFC 7519 section 2, NumericDate).
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// As the formats of others have it; one that chrono cannot hold is the epoch.
    #[must_use]
    pub fn to_utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).unwrap_or_default()
    }

    #[must_use]
    pub const fn from_utc(time: DateTime<Utc>) -> Self {
        Self(time.timestamp_millis())
    }

    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long ago `earlier` was; zero if it is in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Timestamp {
    /// `2026-11-22T09:30:00.000Z`, digit by digit: an answer holds many of them. `None` for a year of other
    /// than four digits.
    fn digits(self) -> Option<[u8; 24]> {
        let time = DateTime::<Utc>::from_timestamp_millis(self.0)?;
        let year = u32::try_from(time.year()).ok().filter(|year| *year <= 9999)?;
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let millis = time.timestamp_subsec_millis();
        for (end, mut value) in [
            (4, year),
            (7, time.month()),
            (10, time.day()),
            (13, time.hour()),
            (16, time.minute()),
            (19, time.second()),
            (23, millis),
        ] {
            let mut at = end;
            while value > 0 {
                at -= 1;
                text[at] = b'0' + (value % 10) as u8;
                value /= 10;
            }
        }
        Some(text)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(digits) = self.digits() {
            return f.write_str(std::str::from_utf8(&digits).unwrap_or_default());
        }
        match DateTime::<Utc>::from_timestamp_millis(self.0) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true)),
            None => write!(f, "{}ms", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.digits() {
            Some(digits) => serializer.serialize_str(std::str::from_utf8(&digits).unwrap_or_default()),
            None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        DateTime::parse_from_rfc3339(&text)
            .map(|time| Self(time.timestamp_millis()))
            .map_err(|_| de::Error::custom("expected a time in RFC 3339, such as 2026-11-22T09:30:00Z"))
    }
}

/// Where the time comes from: the system, or a test's own hand.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until [`Clock::advance`]; for tests.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.millis()))))
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp(Utc::now().timestamp_millis()),
            Source::Manual(millis) => Timestamp(millis.load(Ordering::SeqCst)),
        }
    }

    /// For measuring: how long it is since some moment of the past. It never goes back, whatever is done to the time
    /// of day.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        match &self.0 {
            Source::System => START.elapsed(),
            Source::Manual(millis) => Duration::from_millis(u64::try_from(millis.load(Ordering::SeqCst)).unwrap_or(0)),
        }
    }

    /// Moves a manual clock; the system's clock cannot be moved.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(millis) = &self.0 {
            millis.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// Lengths of time in words: `minutes(10)`.
pub mod length {
    use std::time::Duration;

    #[must_use]
    pub const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }
    #[must_use]
    pub const fn minutes(n: u64) -> Duration {
        Duration::from_secs(n * 60)
    }
    #[must_use]
    pub const fn hours(n: u64) -> Duration {
        minutes(n * 60)
    }
    #[must_use]
    pub const fn days(n: u64) -> Duration {
        hours(n * 24)
    }
}

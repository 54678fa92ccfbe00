//! One error for the whole house, without HTTP in it.
//!
//! What the client may read (`code`, `detail`, `fields`) and what only the log may hold (`internal`,
//! `source`) are different fields, so that a cause can be kept without being shown.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

pub use super::codes::{Code, Kind};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A refusal or a failure.
pub struct Error(Box<Inner>);

struct Inner {
    code: &'static Code,
    detail: Cow<'static, str>,
    fields: Vec<FieldError>,
    retry_after: Option<Duration>,
    quota: Option<Quota>,
    whole: Option<WholePoint>,
    internal: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A limit that was reached, for programs that want to stay below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// A stable word; the same as in `GET /v1/fleet/limited` where that knows it.
    pub name: &'static str,
    /// So many at once,
    pub amount: u64,
    /// of what; requests unless it is said: `content-bytes`, `concurrent-requests`,
    pub unit: Option<&'static str>,
    /// and as many again over this time; nothing where it is free again as soon as others have ended.
    pub window: Option<Duration>,
}

/// A point of a backup that can be had, where the one that was asked for cannot.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct WholePoint {
    /// 16 hexadecimal digits.
    pub txid: String,
    pub at: super::Timestamp,
}

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FieldError {
    /// The path of the field: `slug`, `redirect_uris[1]`.
    pub field: Cow<'static, str>,
    /// A stable word: `required`, `invalid`, `taken`, `too_long`, `too_weak`, ...
    pub code: &'static str,
    /// For people.
    pub message: Cow<'static, str>,
}

impl Error {
    #[must_use]
    pub fn new(code: &'static Code) -> Self {
        Self(Box::new(Inner {
            code,
            detail: Cow::Borrowed(code.summary),
            fields: Vec::new(),
            retry_after: None,
            quota: None,
            whole: None,
            internal: None,
            source: None,
        }))
    }

    /// A fault of ours: the client learns nothing but that.
    #[must_use]
    pub fn internal(what: impl Into<String>) -> Self {
        let mut error = Self::new(&super::codes::INTERNAL);
        error.0.internal = Some(what.into());
        error
    }

    /// Replaces the text that the client reads.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = detail.into();
        self
    }

    /// What the disk did not do. Whatever `code` it is otherwise: that the disk is full is told as that.
    #[must_use]
    pub fn of_disk(code: &'static Code, what: impl Into<String>, error: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let told = match error.kind() {
            StorageFull | QuotaExceeded => Self::new(&super::codes::STORAGE_FULL).retry_after(Duration::from_secs(10)),
            _ => Self::new(code),
        };
        told.because(what).source(error)
    }

    #[must_use]
    pub fn field(
        mut self,
        field: impl Into<Cow<'static, str>>,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.0.fields.push(FieldError { field: field.into(), code, message: message.into() });
        self
    }

    #[must_use]
    pub fn with_fields(mut self, fields: Vec<FieldError>) -> Self {
        self.0.fields = fields;
        self
    }

    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// The limit because of which it is refused.
    #[must_use]
    pub fn limited_by(mut self, quota: Quota) -> Self {
        self.0.quota = Some(quota);
        self
    }

    /// The point that can be had instead, for whoever decides to.
    #[must_use]
    pub fn or_whole(mut self, point: WholePoint) -> Self {
        self.0.whole = Some(point);
        self
    }

    /// Adds what only the log may hold.
    #[must_use]
    pub fn because(mut self, internal: impl Into<String>) -> Self {
        self.0.internal = Some(internal.into());
        self
    }

    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    #[must_use]
    pub fn code(&self) -> &'static Code {
        self.0.code
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.code.kind
    }

    #[must_use]
    pub fn is(&self, code: &Code) -> bool {
        self.0.code.name == code.name
    }

    /// Whether the disk, the file's bound or a limit of writing took nothing: what was there can still be read.
    #[must_use]
    pub fn is_of_storage(&self) -> bool {
        [
            &super::codes::STORAGE_FULL,
            &super::codes::STORAGE_FAILED,
            &super::codes::QUOTA_BYTES_EXCEEDED,
            &super::codes::ORGANIZATION_WRITES_LIMITED,
        ]
        .into_iter()
        .any(|code| self.is(code))
    }

    /// Whether nothing is written to this organization's file at all: what is there can still be read.
    #[must_use]
    pub fn is_of_a_shut_file(&self) -> bool {
        self.is(&super::codes::ORGANIZATION_FROZEN) || self.is(&super::codes::ORGANIZATION_LEAVING)
    }

    #[must_use]
    pub fn public_detail(&self) -> &str {
        &self.0.detail
    }

    #[must_use]
    pub fn fields(&self) -> &[FieldError] {
        &self.0.fields
    }

    #[must_use]
    pub fn quota(&self) -> Option<&Quota> {
        self.0.quota.as_ref()
    }

    #[must_use]
    pub fn whole_point(&self) -> Option<&WholePoint> {
        self.0.whole.as_ref()
    }

    #[must_use]
    pub fn retry(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// For the log: the cause in full.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        match (&self.0.internal, &self.0.source) {
            (None, None) => None,
            (Some(internal), None) => Some(internal.clone()),
            (None, Some(source)) => Some(source.to_string()),
            (Some(internal), Some(source)) => Some(format!("{internal}: {source}")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.name, self.0.detail)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.cause().map_or(Ok(()), |cause| write!(f, " ({cause})"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

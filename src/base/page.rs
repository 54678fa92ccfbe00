//! Cursor pagination, the same for every list.
//!
//! A cursor is the id of the last object seen, so a list that grows while it is read neither repeats
//! nor skips. `limit` is 1 to 100, 10 by default.

use serde::Serialize;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// 1 to 100.
    pub limit: u32,
    /// Objects after this id, in the order of the list.
    pub after: Option<String>,
    /// Objects before this id, nearest first when read backwards, but returned in list order.
    pub before: Option<String>,
    /// Newest first when true.
    pub descending: bool,
}

impl PageRequest {
    pub const DEFAULT_LIMIT: u32 = 10;
    pub const MAX_LIMIT: u32 = 100;

    #[must_use]
    pub const fn first(limit: u32) -> Self {
        Self { limit, after: None, before: None, descending: true }
    }

    /// The comparison and the direction of the query that answers this request, for SQL of the form
    /// `WHERE id {<|>} ?cursor ORDER BY id {ASC|DESC}`: whether ids must be greater, and whether rows
    /// come in ascending order.
    #[must_use]
    pub const fn forward(&self) -> bool {
        // Reading backwards from `before` walks against the order of the list.
        self.descending == self.before.is_some()
    }

    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.after.as_deref().or(self.before.as_deref())
    }
}

/// One page, with the cursors of its neighbours.
#[derive(Debug, Clone, Serialize)]
pub struct Page<T> {
    pub data: Vec<T>,
    pub before: Option<String>,
    pub after: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page of rows fetched with `limit + 1`, in the direction of [`PageRequest::forward`].
    #[must_use]
    pub fn from_rows(request: &PageRequest, mut rows: Vec<T>, id: impl Fn(&T) -> String) -> Self {
        let more = rows.len() > request.limit as usize;
        rows.truncate(request.limit as usize);
        if request.before.is_some() {
            rows.reverse();
        }
        let (first, last) = (rows.first().map(&id), rows.last().map(&id));
        let (more_before, more_after) =
            if request.before.is_some() { (more, true) } else { (request.after.is_some(), more) };
        Self { before: first.filter(|_| more_before), after: last.filter(|_| more_after), data: rows }
    }

    #[must_use]
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page { data: self.data.into_iter().map(f).collect(), before: self.before, after: self.after }
    }
}

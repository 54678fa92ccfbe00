//! The two handles: what may be done inside a transaction, and in which kind of database.

use std::marker::PhantomData;
use std::ops::Deref;

use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::RowResult;
use crate::base::{Result, Timestamp};

/// A kind of database: what its files are stamped with.
pub trait Kind: 'static {
    const NAME: &'static str;
    const APPLICATION_ID: i32;
}

/// Reads of one consistent state. It has no way to write, and its connection is opened read-only.
pub struct Read<'c, K: Kind> {
    connection: &'c Connection,
    now: Timestamp,
    kind: PhantomData<fn() -> K>,
}

/// One `BEGIN IMMEDIATE` transaction: everything [`Read`] can, and changes.
pub struct Write<'c, K: Kind>(Read<'c, K>);

impl<'c, K: Kind> Read<'c, K> {
    pub(super) fn new(connection: &'c Connection, now: Timestamp) -> Self {
        Self { connection, now, kind: PhantomData }
    }

    /// The one instant of this transaction.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The first row, if there is one.
    pub fn one<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> RowResult<T>,
    ) -> Result<Option<T>> {
        Ok(self.connection.prepare_cached(sql)?.query_row(params, map).optional()?)
    }

    /// The same for what is asked once while a file is open: the statement is not kept, and is made with memory that
    /// each connection has ready for what it soon gives back (sqlite.org/malloc.html, section 3.4).
    pub fn once<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> RowResult<T>,
    ) -> Result<Option<T>> {
        Ok(self.connection.query_row(sql, params, map).optional()?)
    }

    /// All rows, in order.
    pub fn all<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        map: impl FnMut(&Row<'_>) -> RowResult<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params, map)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Visits all rows without keeping them; for lists without a bound.
    pub fn each(
        &self,
        sql: &'static str,
        params: impl Params,
        mut visit: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        while let Some(row) = rows.next()? {
            visit(row)?;
        }
        Ok(())
    }

    /// A single number, such as a count.
    pub fn number(&self, sql: &'static str, params: impl Params) -> Result<i64> {
        Ok(self.one(sql, params, |row| row.get(0))?.unwrap_or(0))
    }
}

impl<'c, K: Kind> Write<'c, K> {
    pub(super) fn new(connection: &'c Connection, now: Timestamp) -> Self {
        Self(Read::new(connection, now))
    }

    pub(super) fn connection(&self) -> &'c Connection {
        self.0.connection
    }

    /// Runs one statement; returns how many rows it changed.
    pub fn execute(&self, sql: &'static str, params: impl Params) -> Result<usize> {
        Ok(self.0.connection.prepare_cached(sql)?.execute(params)?)
    }
}

impl<'c, K: Kind> Deref for Write<'c, K> {
    type Target = Read<'c, K>;

    fn deref(&self) -> &Read<'c, K> {
        &self.0
    }
}

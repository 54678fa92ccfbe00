//! Rows on their way from an archive into a new file: what the checking process writes, one JSON document a line, and
//! what the server makes of it. Neither believes the other's file to be well-formed.

use serde::{Deserialize, Serialize};

use crate::base::{Error, Result, codes};

/// A table that is taken over, with the columns in the order of a row.
pub(super) struct Table {
    pub name: &'static str,
    pub columns: &'static [&'static str],
}

/// In the order in which they are taken over. Sessions, codes, tokens and mail are not: people sign in again.
pub(super) const TABLES: [Table; 5] = [
    Table {
        name: "organization",
        columns: &[
            "id",
            "name",
            "slug",
            "external_id",
            "state",
            "metadata",
            "accent",
            "policy",
            "created_at",
            "updated_at",
        ],
    },
    Table {
        name: "member",
        columns: &[
            "id",
            "email",
            "name",
            "username",
            "phone",
            "title",
            "status",
            "roles",
            "email_verified",
            "password_set_at",
            "created_at",
            "updated_at",
        ],
    },
    Table {
        name: "signing_key",
        columns: &["id", "algorithm", "public_jwk", "created_at", "active_from", "retire_at"],
    },
    Table {
        name: "api_key",
        columns: &["id", "name", "suffix", "scopes", "created_at", "last_used_at", "expires_at", "revoked_at"],
    },
    Table {
        name: "audit_event",
        columns: &[
            "sequence",
            "id",
            "occurred_at",
            "action",
            "outcome",
            "payload",
            "payload_salt",
            "payload_digest",
            "prev_hash",
            "hash",
        ],
    },
];

/// A value with its type. There are no floating-point columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Text(String),
    Blob(Blob),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Blob {
    /// In hexadecimal.
    pub blob: String,
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub table: String,
    pub row: Vec<Cell>,
}

/// A row that is taken apart from its first column to its last.
pub(super) struct Fields {
    table: &'static str,
    cells: std::vec::IntoIter<Cell>,
    at: usize,
}

impl Fields {
    pub fn new(table: &'static Table, row: Vec<Cell>) -> Result<Self> {
        if row.len() != table.columns.len() {
            return Err(invalid(table.name, "row"));
        }
        Ok(Self { table: table.name, cells: row.into_iter(), at: 0 })
    }

    pub fn text(&mut self) -> Result<String> {
        match self.next() {
            Cell::Text(text) => Ok(text),
            _ => Err(self.unfit()),
        }
    }

    pub fn maybe_text(&mut self) -> Result<Option<String>> {
        match self.next() {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            _ => Err(self.unfit()),
        }
    }

    pub fn integer(&mut self) -> Result<i64> {
        match self.next() {
            Cell::Integer(number) => Ok(number),
            _ => Err(self.unfit()),
        }
    }

    pub fn maybe_integer(&mut self) -> Result<Option<i64>> {
        match self.next() {
            Cell::Null => Ok(None),
            Cell::Integer(number) => Ok(Some(number)),
            _ => Err(self.unfit()),
        }
    }

    pub fn maybe_blob(&mut self) -> Result<Option<Vec<u8>>> {
        match self.next() {
            Cell::Null => Ok(None),
            Cell::Blob(blob) => hex::decode(blob.blob).map(Some).map_err(|_| self.unfit()),
            _ => Err(self.unfit()),
        }
    }

    /// Exactly 32 bytes.
    pub fn hash(&mut self) -> Result<Vec<u8>> {
        self.maybe_blob()?.filter(|bytes| bytes.len() == 32).ok_or_else(|| self.unfit())
    }

    /// Text that is a value of the house, such as an id.
    pub fn parsed<T: std::str::FromStr>(&mut self) -> Result<T> {
        self.text()?.parse().map_err(|_| self.unfit())
    }

    /// Text that is JSON of a certain form.
    pub fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        serde_json::from_str(&self.text()?).map_err(|_| self.unfit())
    }

    /// What is wrong with the value that was read last.
    pub fn unfit(&self) -> Error {
        let columns = TABLES.iter().find(|table| table.name == self.table).map_or(&[][..], |table| table.columns);
        invalid(self.table, columns.get(self.at.wrapping_sub(1)).copied().unwrap_or("row"))
    }

    fn next(&mut self) -> Cell {
        self.at += 1;
        self.cells.next().unwrap_or(Cell::Null)
    }
}

/// A value that is not even read: text that is not UTF-8 (a file can hold any bytes as text, sqlite.org/datatype3.html),
/// or a number with a fraction. `place`: which row of the table it is, from 1.
pub(super) fn unreadable(table: &str, at: usize, place: u64) -> Error {
    let known = TABLES.iter().find(|known| known.name == table);
    let column = known.and_then(|table| table.columns.get(at)).copied().unwrap_or("row");
    Error::new(&codes::IMPORT_VALUE_INVALID)
        .detail(format!("A value in {table}.{column} (row {place}) cannot be read: it is not text in UTF-8."))
}

/// A value that no organization of ours could have.
pub(super) fn invalid(table: &str, column: &str) -> Error {
    Error::new(&codes::IMPORT_VALUE_INVALID).detail(format!("A value in {table}.{column} cannot be used."))
}

//! Getting the rows out of a file that may be damaged, into a new one of the same kind.

use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use serde::Serialize;

use super::handle::{Kind, Write};
use super::open::{Mode, check_stamp, open};
use crate::base::Result;

/// What became of the rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Salvaged {
    pub table: String,
    /// Rows that were copied.
    pub copied: u64,
    /// Rows that do not fit into the new file: they refer to what is not there, or are there already.
    pub left_out: u64,
    /// Why the rest of the table could not be read.
    pub lost: Option<String>,
}

impl<K: Kind> Write<'_, K> {
    /// Copies the rows of every table that this file has, but for `except`, from another file of this kind, as far
    /// as it can be read. Fails only if that one cannot be opened at all.
    pub fn salvage(&self, from: &Path, except: &[&str]) -> Result<Vec<Salvaged>> {
        let source = open(from, Mode::Read)?;
        check_stamp::<K>(&source)?;
        let mut salvaged = Vec::new();
        for table in tables(self.connection())? {
            if !except.contains(&table.as_str()) {
                salvaged.push(copy(&source, self.connection(), table)?);
            }
        }
        Ok(salvaged)
    }
}

/// In the order in which they were made: what others refer to comes first.
fn tables(connection: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid";
    let mut statement = connection.prepare(sql)?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?)")?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

fn copy(source: &Connection, target: &Connection, table: String) -> Result<Salvaged> {
    let mut salvaged = Salvaged { table, copied: 0, left_out: 0, lost: None };
    let known = columns(target, &salvaged.table)?;
    if let Err(error) = copy_rows(source, target, &known, &mut salvaged) {
        salvaged.lost = Some(error.to_string());
    }
    Ok(salvaged)
}

/// The names are those of our own schema, not anybody's input.
fn copy_rows(
    source: &Connection,
    target: &Connection,
    known: &[String],
    salvaged: &mut Salvaged,
) -> rusqlite::Result<()> {
    let quoted = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
    let shared: Vec<String> =
        columns(source, &salvaged.table)?.into_iter().filter(|name| known.contains(name)).collect();
    if shared.is_empty() {
        // An older file does not have this table.
        return Ok(());
    }
    let names = shared.iter().map(quoted).collect::<Vec<_>>().join(", ");
    let (table, marks) = (quoted(&salvaged.table), vec!["?"; shared.len()].join(", "));
    let mut read = source.prepare(&format!("SELECT {names} FROM {table}"))?;
    let mut insert = target.prepare(&format!("INSERT INTO {table} ({names}) VALUES ({marks})"))?;
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        let values: Vec<Value> = (0..shared.len()).map(|at| row.get(at)).collect::<rusqlite::Result<_>>()?;
        match insert.execute(params_from_iter(values)) {
            Ok(_) => salvaged.copied += 1,
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                salvaged.left_out += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

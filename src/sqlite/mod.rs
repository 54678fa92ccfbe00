//! F1. The only room that names rusqlite and r2d2. It knows no table and no tenant.
//!
//! It owns how a file is opened, tuned, read, written, migrated and checkpointed. A [`Database`] hands
//! out two handles and nothing else: [`Read`], which cannot write, and [`Write`], which lives inside one
//! `BEGIN IMMEDIATE` transaction. Both carry the kind of database they belong to, so that code for an
//! organization's file does not compile against the catalog, and take only `&'static str` as SQL, so
//! that no statement is ever put together from input.
//!
//! Never open a live file with anything but this room: closing any other descriptor of it in this
//! process drops SQLite's locks (sqlite.org/howtocorrupt.html section 2.2).

#![allow(clippy::disallowed_types, reason = "the one room that names rusqlite and r2d2")]

mod aside;
mod cipher;
mod compact;
mod database;
mod error;
mod first;
mod forward;
mod handle;
mod keep;
mod meter;
mod open;
mod recast;
mod salvage;
mod snapshot;
mod still;
mod untrusted;
mod values;

pub use aside::{Aside, Examination};
pub use cipher::{CAN_ENCRYPT, FileKey, Unlocked, unlock};
pub use compact::{Compacted, free_room, require_room};
pub use database::{Backup, Database, Opening};
pub use error::{is_damage, is_of_disk, is_of_file};
pub use forward::bring_forward;
pub use handle::{Kind, Read, Write};
pub use keep::{copy_file, kept_before};
pub use meter::Meter;
pub use open::{build, build_encrypted, bytes_of_new, place_file, sync_directory, version};
pub use recast::{recast, salt_in};
pub use rusqlite::types::Value;
pub use rusqlite::{Row, params};
pub use salvage::Salvaged;
pub use snapshot::{Content, Private};
pub use still::{Still, Unread, beside, has_unread, mark_unread, remove_wal, unfolded};
pub use untrusted::{Flaw, Untrusted};
pub use values::unfit;

/// What a row mapper returns: the first column that does not fit ends it.
pub type RowResult<T> = rusqlite::Result<T>;

/// The kind of an organization's file.
pub enum TenantDb {}
/// The kind of the one global directory.
pub enum CatalogDb {}
/// The kind of the ring of wrapped keys.
pub enum KeyringDb {}

impl Kind for TenantDb {
    const NAME: &'static str = "organization";
    // "BHt1", "BHc1", "BHk1": big-endian ASCII, so that `file` and a hex dump tell them apart.
    const APPLICATION_ID: i32 = 0x4248_7431;
}
impl Kind for CatalogDb {
    const NAME: &'static str = "catalog";
    const APPLICATION_ID: i32 = 0x4248_6331;
}
impl Kind for KeyringDb {
    const NAME: &'static str = "keyring";
    const APPLICATION_ID: i32 = 0x4248_6b31;
}

// The right to change comes with a transaction, which only `sqlite` begins, whatever connection one may have.

use bulkhead::base::Timestamp;
use bulkhead::sqlite::{TenantDb, Write};

fn begin<'c>(connection: &'c rusqlite::Connection, now: Timestamp) -> Write<'c, TenantDb> {
    Write::new(connection, now) //~ E0624
}

fn main() {}

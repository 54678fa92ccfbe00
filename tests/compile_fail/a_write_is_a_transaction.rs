// A read does not become a write: the right to change comes with a transaction.

use bulkhead::sqlite::{self, Read, TenantDb, Write};

fn promote<'c>(db: Read<'c, TenantDb>) -> Write<'c, TenantDb> {
    sqlite::Write(db)
}

fn main() {}

// A read does not become a write: the right to change comes with a transaction.

use bulkhead::sqlite::{Read, TenantDb, Write};

fn promote<'c>(db: Read<'c, TenantDb>) -> Write<'c, TenantDb> {
    Write(db)
}

fn main() {}

// A statement is a constant of the program, never put together from what somebody has sent.

use bulkhead::base::Result;
use bulkhead::sqlite::{Read, TenantDb};

fn by_text(db: &Read<'_, TenantDb>, name: &str) -> Result<i64> {
    db.number(name, [])
}

fn by_format(db: &Read<'_, TenantDb>, name: &str) -> Result<i64> {
    let sql = format!("SELECT count(*) FROM member WHERE name = '{name}'");
    db.number(&sql, [])
}

fn main() {}

// A statement is a constant of the program, never put together from what somebody has sent.

use bulkhead::base::Result;
use bulkhead::sqlite::{Read, TenantDb};

fn by_text(db: &Read<'_, TenantDb>, name: &str) -> Result<i64> {
    db.number(name, []) //~ E0521
}

fn by_format(db: &Read<'_, TenantDb>, name: &str) -> Result<i64> {
    let sql = format!("SELECT count(*) FROM member WHERE name = '{name}'");
    db.number(&sql, []) //~ E0597
}

fn main() {}

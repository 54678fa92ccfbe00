// What is given to a read has no way to change anything.

use bulkhead::base::Result;
use bulkhead::sqlite::{Read, TenantDb};

fn change(db: &Read<'_, TenantDb>) -> Result<usize> {
    db.execute("DELETE FROM member", []) //~ E0599
}

fn main() {}

// The handles carry the kind of file: an organization's statements do not run in the catalog.

use bulkhead::base::Result;
use bulkhead::catalog::Catalog;
use bulkhead::sqlite::{TenantDb, Write};

fn work(db: &Write<'_, TenantDb>) -> Result<usize> {
    db.execute("DELETE FROM session", [])
}

async fn run(catalog: &Catalog) -> Result<usize> {
    catalog.write(|db| work(db)).await //~ E0308
}

fn main() {}

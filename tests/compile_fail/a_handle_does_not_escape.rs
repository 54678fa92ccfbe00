// A handle ends with its transaction.

use bulkhead::base::Result;
use bulkhead::tenants::Tenant;

async fn keep(tenant: &Tenant) -> Result<i64> {
    let mut kept = None;
    tenant
        .read(|db| {
            kept = Some(db); //~ E0521
            Ok(())
        })
        .await?;
    kept.unwrap().number("SELECT 1", [])
}

fn main() {}

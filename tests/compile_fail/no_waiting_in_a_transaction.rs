// Nothing slow happens inside a transaction: what is given to it cannot wait.

use bulkhead::base::Result;
use bulkhead::tenants::Tenant;

async fn slow() -> Result<()> {
    Ok(())
}

async fn by_block(tenant: &Tenant) -> Result<()> {
    tenant.write(|_db| async { slow().await }).await //~ E0308
}

async fn by_await(tenant: &Tenant) -> Result<()> {
    tenant.write(|_db| slow().await).await //~ E0728
}

fn main() {}

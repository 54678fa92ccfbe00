// And the catalog's do not run in an organization's file.

use bulkhead::base::{OrganizationId, Result};
use bulkhead::catalog::organizations;
use bulkhead::tenants::Tenant;

async fn run(tenant: &Tenant, id: OrganizationId) -> Result<()> {
    tenant.write(|db| organizations::activate(db, id)).await //~ E0308
}

fn main() {}

// No file is made for an organization whose names the catalog has not reserved.

use bulkhead::base::{OrganizationId, Result};
use bulkhead::tenants::Tenants;

async fn make(tenants: &Tenants, id: OrganizationId) -> Result<()> {
    tenants.create(&id, |_, _| Ok(())).await //~ E0308
}

fn main() {}

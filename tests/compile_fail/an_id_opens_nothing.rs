// Knowing an id is not a way in.

use bulkhead::base::OrganizationId;
use bulkhead::tenants::{Tenant, Tenants};

async fn open(tenants: &Tenants, id: OrganizationId) -> Tenant {
    tenants.open(&id).await.unwrap() //~ E0308
}

fn main() {}

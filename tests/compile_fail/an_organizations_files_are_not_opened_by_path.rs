// The file behind an open organization is out of reach, whatever is known of it.

use bulkhead::sqlite::{Database, TenantDb};
use bulkhead::tenants::Tenant;

fn reach(tenant: &Tenant) -> &Database<TenantDb> {
    &tenant.0.database //~ E0616
}

fn main() {}

// An organization's data is reached by `Tenants::open` alone.

use bulkhead::tenants::Tenant;

fn conjure(inside: std::sync::Arc<()>) -> Tenant {
    Tenant(inside) //~ E0423
}

fn main() {}

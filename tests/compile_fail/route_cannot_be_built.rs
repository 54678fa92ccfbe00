// Only the directory says which organization a name leads to.

use bulkhead::catalog::{Entry, TenantRoute};

fn conjure(entry: Entry) -> TenantRoute {
    TenantRoute(std::sync::Arc::new(entry)) //~ E0423
}

fn main() {}

// What answers for one organization is given nothing that leads to another.

use bulkhead::features::TenantState;

fn reach(state: &TenantState) {
    let _ = &state.catalog; //~ E0609
    let _ = &state.directory; //~ E0609
    let _ = &state.tenants; //~ E0609
    // Nor by way of what it is given for other purposes.
    let _ = &state.operator_log.catalog; //~ E0616
    let _ = &state.operator_keys.catalog; //~ E0616
    let _ = &state.deployment_keys.catalog; //~ E0616
}

fn main() {}

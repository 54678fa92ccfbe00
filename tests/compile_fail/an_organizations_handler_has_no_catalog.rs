// What answers for one organization is given nothing that leads to another.

use bulkhead::features::TenantState;

fn reach(state: &TenantState) {
    let _ = &state.catalog;
    let _ = &state.directory;
    let _ = &state.tenants;
    // Nor by way of what it is given for other purposes.
    let _ = &state.operator_log.catalog;
    let _ = &state.operator_keys.catalog;
    let _ = &state.deployment_keys.catalog;
}

fn main() {}

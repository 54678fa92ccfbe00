// A claim is what reserving the names returns, and nothing else makes one.

use bulkhead::base::OrganizationId;
use bulkhead::catalog::Claim;

fn conjure(id: OrganizationId) -> Claim {
    Claim { id } //~ E0451
}

fn main() {}

// The right to call an operation comes from the request's credential.

use bulkhead::web::Caller;
use bulkhead::web::access::{Allowed, Operator, scope};

fn allow() -> Allowed<scope::MembersWrite> {
    Allowed(Caller::local(), std::marker::PhantomData) //~ E0423
}

fn promote() -> Operator<scope::MembersWrite> {
    Operator(Caller::local(), std::marker::PhantomData) //~ E0423
}

fn main() {}

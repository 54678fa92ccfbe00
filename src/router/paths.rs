//! What the path of a request says by itself, before anything is looked up.

use axum::extract::Request;
use axum::http::Uri;
use axum::http::request::Parts;

use crate::base::{Error, Result, codes};
use crate::web::extract::pairs_of;

/// Whether an answer says that something was done. A look leaves traces at most, and goes on while the store is down.
pub(super) fn acknowledges(request: &Request) -> bool {
    const LOOKS: [&str; 2] = ["/sessions/authenticate", "/oauth2/introspect"];
    // Where a browser is sent to and something is done nevertheless, as the protocols have it.
    const ACTS: [&str; 3] = ["/oauth2/logout", "/oauth2/authorize", "/oauth2/continue"];
    let among = |paths: &[&str]| paths.iter().any(|path| request.uri().path().ends_with(path));
    if request.method().is_safe() { among(&ACTS) } else { !among(&LOOKS) }
}

/// An upload goes to a file piece by piece, and no organization is opened for it.
pub(super) fn is_upload(request: &Request) -> bool {
    let path = request.uri().path();
    path == "/v1/imports" || path.starts_with("/v1/arrivals/") && path.ends_with("/content")
}

/// What works on a whole organization takes as long as that is large.
pub(super) fn takes_long(request: &Request) -> bool {
    const BELOW: [&str; 7] =
        ["copies", "backup/snapshot", "differences", "restorations", "recovery", "compaction", "departure/archive"];
    let below = request.uri().path().strip_prefix("/v1/organizations/").and_then(|rest| rest.split_once('/'));
    is_upload(request) || below.is_some_and(|(_, below)| BELOW.contains(&below))
}

/// What operators do about an organization whose file may be of no use. They are given no file; an organization's
/// own key is known only to that, and gets its refusal by way of it.
pub(super) fn needs_no_file(path: &str) -> bool {
    const BELOW: [&str; 16] = [
        "quarantine",
        "backup",
        "recovery",
        "migration_rollback",
        "erasure",
        "erasure/preview",
        "freeze",
        "freeze/verification",
        "freeze/file",
        "placement",
        "encryption",
        "file_key_rotations",
        "departure",
        "departure/archive",
        "departure/completion",
        "departure/return",
    ];
    let below = path.strip_prefix("/v1/organizations/").and_then(|rest| rest.split_once('/'));
    below.is_some_and(|(_, below)| BELOW.contains(&below))
}

/// The organization that a path of the API names.
pub(super) fn organization_in_api_path(path: &str) -> Option<String> {
    let rest = path.strip_prefix("/v1/organizations/")?;
    let name = rest.split('/').next().filter(|name| !name.is_empty())?;
    // As typed into an address: `%2E` and the like decode to what was meant.
    let pairs = pairs_of(format!("x={}", name.replace('+', "%2B")).as_bytes()).ok()?;
    pairs.into_iter().next().map(|(_, value)| value)
}

/// What stands below `/o/{org}` is the same as on the organization's own host.
pub(super) fn rewrite(parts: &mut Parts, path: &str) -> Result<()> {
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let uri: Uri = format!("{path}{query}").parse().map_err(|_| Error::new(&codes::MALFORMED_REQUEST))?;
    parts.uri = uri;
    Ok(())
}

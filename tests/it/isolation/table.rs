//! Everything that is mounted, and whose it is.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Scene;
use crate::world::{Call, HOST, World};

/// Who may call an operation of the API, given the scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Operators, and the organization's own keys.
    Both,
    /// Operators alone.
    Operators,
}

/// An operation of the API.
pub struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    pub scope: &'static str,
    pub callers: For,
    /// A body that is accepted; empty for none.
    pub body: &'static str,
}

impl Operation {
    /// Whether it is about one organization.
    pub fn is_of_an_organization(&self) -> bool {
        self.path.contains("{org}")
    }

    pub fn names_an_object(&self) -> bool {
        ["{member}", "{session}", "{key}", "{token}", "{export}"]
            .iter()
            .any(|name| self.path.contains(name) || self.body.contains(name))
    }
}

macro_rules! operations {
    ($($method:ident $path:literal $scope:literal $callers:ident $body:literal;)*) => {
        &[$(Operation { method: stringify!($method), path: $path, scope: $scope, callers: For::$callers, body: $body }),*]
    };
}

pub const OPERATIONS: &[Operation] = operations! {
    GET "/v1/organizations" "organizations:read" Operators "";
    POST "/v1/organizations" "organizations:write" Operators r#"{"name": "Initech"}"#;
    GET "/v1/organizations/{org}" "organizations:read" Both "";
    PATCH "/v1/organizations/{org}" "organizations:write" Both r#"{"name": "Renamed"}"#;
    PUT "/v1/organizations/{org}/suspension" "organizations:write" Operators r#"{"reason": "unpaid"}"#;
    DELETE "/v1/organizations/{org}/suspension" "organizations:write" Operators "";
    PUT "/v1/organizations/{org}/hosts/{host}" "organizations:write" Operators "";
    DELETE "/v1/organizations/{org}/hosts/{host}" "organizations:write" Operators "";
    GET "/v1/organizations/{org}/members" "members:read" Both "";
    POST "/v1/organizations/{org}/members" "members:write" Both r#"{"email": "new@acme.test"}"#;
    GET "/v1/organizations/{org}/members/{member}" "members:read" Both "";
    PATCH "/v1/organizations/{org}/members/{member}" "members:write" Both r#"{"title": "Countess"}"#;
    DELETE "/v1/organizations/{org}/members/{member}" "members:write" Both "";
    PUT "/v1/organizations/{org}/members/{member}/deactivation" "members:write" Both "";
    DELETE "/v1/organizations/{org}/members/{member}/deactivation" "members:write" Both "";
    PUT "/v1/organizations/{org}/members/{member}/password" "members:write" Both r#"{"password": "grove-cinder-meadow-51"}"#;
    DELETE "/v1/organizations/{org}/members/{member}/lock" "members:write" Both "";
    DELETE "/v1/organizations/{org}/members/{member}/sessions" "sessions:write" Both "";
    GET "/v1/organizations/{org}/sessions" "sessions:read" Both "";
    GET "/v1/organizations/{org}/sessions/{session}" "sessions:read" Both "";
    DELETE "/v1/organizations/{org}/sessions/{session}" "sessions:write" Both "";
    POST "/v1/organizations/{org}/sessions/authenticate" "sessions:read" Both r#"{"session_token": "{token}"}"#;
    GET "/v1/organizations/{org}/audit_events" "audit:read" Both "";
    GET "/v1/organizations/{org}/audit_events/verification" "audit:read" Both "";
    GET "/v1/organizations/{org}/api_keys" "keys:read" Both "";
    POST "/v1/organizations/{org}/api_keys" "keys:write" Both r#"{"name": "billing", "scopes": ["keys:write"]}"#;
    DELETE "/v1/organizations/{org}/api_keys/{key}" "keys:write" Both "";
    GET "/v1/organizations/{org}/signing_keys" "keys:read" Both "";
    POST "/v1/organizations/{org}/signing_keys/rotation" "keys:write" Both r#"{"algorithm": "ES256"}"#;
    GET "/v1/organizations/{org}/exports" "exports:read" Both "";
    POST "/v1/organizations/{org}/exports" "exports:write" Both r#"{"secrets": "omit"}"#;
    GET "/v1/organizations/{org}/exports/{export}" "exports:read" Both "";
    DELETE "/v1/organizations/{org}/exports/{export}" "exports:write" Both "";
    GET "/v1/organizations/{org}/exports/{export}/content" "exports:read" Both "";
    POST "/v1/imports" "organizations:write" Operators "{}";
    GET "/v1/applications" "applications:read" Operators "";
    POST "/v1/applications" "applications:write" Operators r#"{"name": "App", "type": "public", "redirect_uris": ["https://app.example.com/cb"]}"#;
    GET "/v1/applications/{application}" "applications:read" Operators "";
    PATCH "/v1/applications/{application}" "applications:write" Operators r#"{"name": "Renamed"}"#;
    DELETE "/v1/applications/{application}" "applications:write" Operators "";
    POST "/v1/applications/{application}/secret" "applications:write" Operators "";
    GET "/v1/api_keys" "keys:read" Operators "";
    POST "/v1/api_keys" "keys:write" Operators r#"{"name": "ops", "scopes": ["keys:write"]}"#;
    DELETE "/v1/api_keys/{key}" "keys:write" Operators "";
    GET "/v1/audit_events" "audit:read" Operators "";
    GET "/v1/audit_events/verification" "audit:read" Operators "";
    GET "/v1/backup" "organizations:read" Operators "";
    GET "/v1/organizations/{org}/backup" "organizations:read" Operators "";
    GET "/v1/organizations/{org}/differences" "organizations:read" Operators "";
    POST "/v1/organizations/{org}/copies" "organizations:write" Operators r#"{"dry_run": true}"#;
    GET "/v1/organizations/{org}/backup/snapshot" "backups:read" Operators "";
    POST "/v1/organizations/{org}/restorations" "organizations:write" Operators "{}";
    POST "/v1/organizations/{org}/recovery" "organizations:write" Operators "{}";
    GET "/v1/keys" "keys:read" Operators "";
    POST "/v1/keys/master_rotations" "keys:write" Operators r#"{"dry_run": true}"#;
    POST "/v1/keys/data_rotations" "keys:write" Operators r#"{"dry_run": true}"#;
    POST "/v1/organizations/{org}/data_key_rotations" "keys:write" Operators "";
    GET "/v1/organizations/{org}/quarantine" "organizations:read" Operators "";
    PUT "/v1/organizations/{org}/quarantine" "organizations:write" Operators r#"{"reason": "torn pages"}"#;
    DELETE "/v1/organizations/{org}/quarantine" "organizations:write" Operators "";
    POST "/v1/organizations/{org}/compaction" "organizations:write" Operators "";
    POST "/v1/organizations/{org}/migration_rollback" "organizations:write" Operators "";
    GET "/v1/fleet/migrations" "organizations:read" Operators "";
    POST "/v1/fleet/migrations" "organizations:write" Operators "{}";
    GET "/v1/fleet/migrations/{migration}" "organizations:read" Operators "";
    POST "/v1/fleet/checks" "organizations:write" Operators "{}";
    GET "/v1/fleet/checks/{check}" "organizations:read" Operators "";
    GET "/v1/fleet/stats" "organizations:read" Operators "";
    GET "/v1/fleet/limited" "organizations:read" Operators "";
    GET "/v1/catalog/check" "organizations:read" Operators "";
    PUT "/v1/organizations/{org}/erasure" "organizations:write" Operators r#"{"reason": "they asked for it"}"#;
    GET "/v1/organizations/{org}/erasure" "organizations:read" Operators "";
    DELETE "/v1/organizations/{org}/erasure" "organizations:write" Operators "";
    GET "/v1/organizations/{org}/erasure/preview" "organizations:read" Operators "";
    PUT "/v1/organizations/{org}/members/{member}/erasure" "members:write" Both "";
    GET "/v1/erasures" "organizations:read" Operators "";
    GET "/v1/erasures/{organization}" "organizations:read" Operators "";
    PUT "/v1/organizations/{org}/freeze" "organizations:write" Operators r#"{"reason": "case 4711"}"#;
    GET "/v1/organizations/{org}/freeze" "organizations:read" Operators "";
    DELETE "/v1/organizations/{org}/freeze" "organizations:write" Operators "";
    GET "/v1/organizations/{org}/freeze/verification" "organizations:read" Operators "";
    GET "/v1/organizations/{org}/freeze/file" "organizations:write" Operators "";
    GET "/v1/organizations/{org}/placement" "organizations:read" Operators "";
    PUT "/v1/organizations/{org}/placement" "organizations:write" Operators r#"{"volume": "local"}"#;
    GET "/v1/organizations/{org}/encryption" "keys:read" Operators "";
    PUT "/v1/organizations/{org}/encryption" "keys:write" Operators r#"{"encryption": "file"}"#;
    POST "/v1/organizations/{org}/file_key_rotations" "keys:write" Operators "{}";
    GET "/v1/organizations/{org}/departure" "organizations:read" Operators "";
    PUT "/v1/organizations/{org}/departure" "organizations:write" Operators r#"{"to": "https://id.example.com"}"#;
    DELETE "/v1/organizations/{org}/departure" "organizations:write" Operators "";
    PUT "/v1/organizations/{org}/departure/archive" "organizations:write" Operators r#"{"recipient": "age1", "waiver_sha256": "00"}"#;
    GET "/v1/organizations/{org}/departure/archive" "organizations:write" Operators "";
    PUT "/v1/organizations/{org}/departure/completion" "organizations:write" Operators r#"{"archive_sha256": "00", "audit": {"sequence": 1, "hash": "00"}}"#;
    PUT "/v1/organizations/{org}/departure/return" "organizations:write" Operators r#"{"waiver": "x"}"#;
    GET "/v1/departures/{transfer}" "organizations:read" Operators "";
    PUT "/v1/arrivals/{transfer}" "organizations:write" Operators "{}";
    GET "/v1/arrivals/{transfer}" "organizations:read" Operators "";
    DELETE "/v1/arrivals/{transfer}" "organizations:write" Operators "";
    POST "/v1/arrivals/{transfer}/content" "organizations:write" Operators "{}";
    PUT "/v1/arrivals/{transfer}/activation" "organizations:write" Operators r#"{"proof": "x"}"#;
    GET "/v1/status" "organizations:read" Operators "";
};

/// What stands at an address that is not the API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// For anybody; what it shows may depend on the session.
    Open,
    /// Only for whoever is signed in; others are sent to the sign-in page.
    Private,
    /// Takes a form of ours, for anybody.
    Form,
    /// Takes a form of ours, from whoever is signed in.
    PrivateForm,
    /// Where apps send browsers: a form from another site, which does nothing but lead on.
    Entry,
    /// For programs, which bring their own credentials.
    Program,
}

macro_rules! pages {
    ($($method:ident $path:literal $kind:ident;)*) => { &[$((stringify!($method), $path, Page::$kind)),*] };
}

pub const TENANT_PAGES: &[(&str, &str, Page)] = pages! {
    GET "/" Open;
    GET "/sign-in" Open;
    POST "/sign-in" Form;
    POST "/sign-out" Form;
    GET "/signed-out" Open;
    GET "/recovery" Open;
    POST "/recovery" Form;
    GET "/recovery/code" Open;
    POST "/recovery/code" Form;
    GET "/recovery/password" Open;
    POST "/recovery/password" Form;
    GET "/account" Private;
    POST "/account/password" PrivateForm;
    POST "/account/sessions/{session}/revoke" PrivateForm;
    GET "/account/export" Private;
    POST "/account/export" PrivateForm;
    POST "/account/export/{export}/content" PrivateForm;
    GET "/relay" Open;
    POST "/relay" Form;
    GET "/oauth2/authorize" Entry;
    POST "/oauth2/authorize" Entry;
    GET "/oauth2/continue" Open;
    POST "/oauth2/confirm" Form;
    GET "/oauth2/logout" Open;
    POST "/oauth2/logout" Entry;
    POST "/oauth2/logout/confirm" Form;
    GET "/v1/session" Program;
    POST "/oauth2/token" Program;
    POST "/oauth2/introspect" Program;
    POST "/oauth2/revoke" Program;
    GET "/oauth2/userinfo" Program;
    POST "/oauth2/userinfo" Program;
    GET "/oauth2/jwks" Program;
    GET "/.well-known/openid-configuration" Program;
    GET "/.well-known/oauth-authorization-server" Program;
    GET "/theme.css" Program;
};

pub const DEPLOYMENT_PAGES: &[(&str, &str, Page)] = pages! {
    GET "/" Open;
    GET "/find" Open;
    GET "/sign-up" Open;
    POST "/sign-up" Form;
    GET "/sign-up/code" Open;
    POST "/sign-up/code" Form;
    GET "/sign-up/organization" Open;
    POST "/sign-up/organization" Form;
    GET "/mailbox" Open;
    GET "/docs/api" Open;
    GET "/openapi.json" Program;
    GET "/oauth2/authorize" Entry;
    POST "/oauth2/authorize" Entry;
    GET "/oauth2/logout" Entry;
    POST "/oauth2/logout" Entry;
    POST "/oauth2/token" Program;
    POST "/oauth2/introspect" Program;
    POST "/oauth2/revoke" Program;
    GET "/oauth2/userinfo" Program;
    POST "/oauth2/userinfo" Program;
    GET "/oauth2/jwks" Program;
    GET "/.well-known/openid-configuration" Program;
    GET "/.well-known/oauth-authorization-server" Program;
};

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_mounted_is_in_the_table() {
    let world = World::new().await;
    let [tenant, deployment, mut api] = world.app().paths();
    // The framework's own entry for what is at no path looks like one for this.
    world.local_operator("GET", "/", None).await.expect(404);
    api.retain(|path| path != "/");
    let of_pages = |pages: &[(&str, &str, Page)]| pages.iter().map(|(_, path, _)| (*path).to_owned()).collect();
    let of_api: BTreeSet<String> = OPERATIONS.iter().map(|operation| operation.path.to_owned()).collect();
    for (router, mounted, listed) in [
        ("organization", tenant, of_pages(TENANT_PAGES)),
        ("deployment", deployment, of_pages(DEPLOYMENT_PAGES)),
        ("API", api, of_api),
    ] {
        let mounted: BTreeSet<String> = mounted.into_iter().collect();
        let unknown: Vec<_> = mounted.difference(&listed).collect();
        assert!(unknown.is_empty(), "not in the isolation table of the {router}'s router: {unknown:?}");
        let gone: Vec<_> = listed.difference(&mounted).collect();
        assert!(gone.is_empty(), "in the isolation table of the {router}'s router, but not mounted: {gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_the_document_is_in_the_table_with_its_scope() {
    let world = World::new().await;
    let document = world.stranger().get("/openapi.json").await.expect(200).json();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let item = item.as_object().unwrap().iter();
        for (method, operation) in item.filter(|(method, _)| METHODS.contains(&method.to_uppercase().as_str())) {
            let scopes: Vec<&Value> = operation["security"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|one| one.as_object().unwrap().values())
                .collect();
            documented.insert((method.to_uppercase(), path.clone(), scopes[0][0].as_str().unwrap_or("").to_owned()));
        }
    }
    let listed: BTreeSet<_> = OPERATIONS
        .iter()
        .map(|operation| (operation.method.to_owned(), operation.path.to_owned(), operation.scope.to_owned()))
        .collect();
    let missing: Vec<_> = documented.symmetric_difference(&listed).collect();
    assert!(missing.is_empty(), "the document and the isolation table differ in {missing:#?}");
}

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

#[tokio::test(flavor = "multi_thread")]
async fn no_path_takes_a_method_that_is_not_in_the_table() {
    let scene = Scene::new().await;
    let operator = scene.world.operator();
    for path in OPERATIONS.iter().map(|operation| operation.path).collect::<BTreeSet<_>>() {
        let listed = |method: &str| OPERATIONS.iter().any(|one| one.path == path && one.method == method);
        for method in METHODS.into_iter().filter(|method| !listed(method)) {
            operator
                .send(method, &scene.acme.fill(path, &scene.acme), None)
                .await
                .expect_problem(405, "method_not_allowed");
        }
    }
    let acme = format!("{}.{HOST}", scene.acme.slug);
    for (host, pages) in [(acme.as_str(), TENANT_PAGES), (HOST, DEPLOYMENT_PAGES)] {
        for path in pages.iter().map(|(_, path, _)| *path).collect::<BTreeSet<_>>() {
            let listed = |method: &str| pages.iter().any(|(one, known, _)| *known == path && *one == method);
            for method in METHODS.into_iter().filter(|method| !listed(method)) {
                scene.world.call(Call::new(method, host, &scene.acme.fill(path, &scene.acme))).await.expect(405);
            }
        }
    }
}

//! Defence in depth: a row that somebody copied from one organization's file into another's opens nothing there,
//! and each check stands without the one before it.

use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::Request;
use axum::middleware;
use axum::routing::get;
use bulkhead::base::{ApiKeyId, OrganizationId, Scope};
use bulkhead::features::api_key::http::{Authenticator, authenticate};
use bulkhead::tenants::Tenant;
use bulkhead::web::Caller;
use bulkhead::web::access::{Allowed, Identity, scope};
use rusqlite::Connection;
use serde_json::json;
use tower::ServiceExt;

use super::{Scene, Side};
use crate::organizations::file_of;
use crate::world::{Call, World, host_of};

/// Puts rows that a credential of `from` leads to into the file of `into` as well.
async fn copy_rows(world: &mut World, tables: &[&str], from: &Side, into: &Side) {
    let (source, target) = (file_of(world, &from.id), file_of(world, &into.id));
    world
        .while_stopped(|_| {
            let target = Connection::open(target).unwrap();
            target.execute("ATTACH ? AS other", [source.to_str().unwrap()]).unwrap();
            for table in tables {
                let copied = target.execute(&format!("INSERT OR IGNORE INTO {table} SELECT * FROM other.{table}"), []);
                assert!(copied.unwrap() > 0, "{table}");
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_row_makes_no_credential_good() {
    let Scene { mut world, app, acme, other } = Scene::new().await;
    let (tokens, code) = {
        let mut person = world.signed_in(other.slug, &other.email).await;
        (app.tokens(&world, &mut person).await, app.code(&mut person).await)
    };
    let tables = ["member", "session", "oauth_grant", "refresh_token", "api_key"];
    copy_rows(&mut world, &tables, &other, &acme).await;
    let (here, there) = (host_of(acme.slug), host_of(other.slug));

    let session = format!("Bearer {}", other.session_token);
    let check = |host: &str| world.call(Call::new("GET", host, "/v1/session").header("authorization", &session));
    check(&here).await.expect_problem(401, "unauthenticated");
    let mut browser = world.browser(acme.slug);
    browser.set_cookie(&format!("bh_session_{}", acme.id.trim_start_matches("org_")), &other.session_token);
    browser.get("/account").await.expect_redirect("/sign-in");
    let body = json!({"session_token": other.session_token});
    let path = "/v1/organizations/acme/sessions/authenticate";
    world.operator().post(path, &body).await.expect_problem(404, "session_not_found");

    world.redeem(&here, &app, &code).await.expect(400);
    world.refresh(&here, &app, &tokens.refresh).await.expect(400);
    assert!(!world.is_live(&here, &app, &tokens.refresh).await && !world.is_live(&here, &app, &tokens.access).await);
    world.userinfo(&here, &tokens.access).await.expect(401);
    world.api(&other.key).get("/v1/organizations/acme/members").await.expect_problem(400, "organization_conflict");

    check(&there).await.expect(200);
    world.redeem(&there, &app, &code).await.expect(200);
    world.refresh(&there, &app, &tokens.refresh).await.expect(200);
    world.api(&other.key).get(&format!("/v1/organizations/{}/members", other.slug)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_recognised_in_a_request_for_another_organization() {
    let Scene { mut world, acme, other, .. } = Scene::new().await;
    copy_rows(&mut world, &["api_key"], &other, &acme).await;
    // As if the resolution in front had let the request through.
    let state = world.app().state();
    let authenticator =
        Authenticator { operators: state.tenant.operator_keys.clone(), limits: state.tenant.limits.clone() };
    let router = Router::new()
        .route("/", get(|| async { "in" }))
        .layer(middleware::from_fn_with_state(authenticator, authenticate));
    for (side, status) in [(&acme, 401), (&other, 200)] {
        let route = state.directory.by_name(side.slug).await.unwrap();
        let tenant = state.tenants.open(&route).await.unwrap();
        let request = Request::get("/").header("authorization", format!("Bearer {}", other.key));
        let request = request.extension::<Tenant>(tenant).body(Body::empty()).unwrap();
        assert_eq!(router.clone().oneshot(request).await.unwrap().status(), status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_allowed_nothing_in_a_request_for_another_organization() {
    let Scene { world, acme, other, .. } = Scene::new().await;
    let state = world.app().state();
    // As if the recognition in front had let the key through.
    let identity = Identity::OrganizationKey {
        id: ApiKeyId::from_bits(1),
        name: "a program".to_owned(),
        organization: other.id.parse::<OrganizationId>().unwrap(),
    };
    let caller = Caller { identity, scopes: Scope::ALL.to_vec() };
    for (side, allowed) in [(Some(&acme), false), (None, false), (Some(&other), true)] {
        let mut request = Request::get("/").extension(caller.clone());
        if let Some(side) = side {
            let route = state.directory.by_name(side.slug).await.unwrap();
            request = request.extension::<Tenant>(state.tenants.open(&route).await.unwrap());
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(Allowed::<scope::MembersRead>::from_request_parts(&mut parts, &()).await.is_ok(), allowed);
    }
}

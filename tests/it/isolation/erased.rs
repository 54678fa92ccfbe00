//! An organization that was erased is nowhere any more: not by any name, at any address, with any credential.

use serde_json::json;

use super::table::{OPERATIONS, Page, TENANT_PAGES};
use super::{MARK, Scene, assert_unmarked, body_of};
use crate::erasure::erased;
use crate::world::{Call, HOST, host_of};

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_organization_is_found_nowhere_and_its_neighbours_notice_nothing() {
    let Scene { world, acme, other, .. } = &Scene::new().await;
    let operator = world.operator();
    let neighbour = async || {
        let mut state = Vec::new();
        for list in ["", "/members", "/sessions", "/signing_keys", "/audit_events?limit=100", "/api_keys"] {
            state.push(operator.get(&format!("/v1/organizations/{}{list}", acme.id)).await.expect(200).json());
        }
        state
    };
    let before = neighbour().await;
    let asked = operator.put(&format!("/v1/organizations/{MARK}/erasure"), &json!({"immediately": true})).await;
    asked.expect(202);
    erased(world, &other.id).await;

    for operation in OPERATIONS.iter().filter(|operation| operation.is_of_an_organization()) {
        let body = body_of(&other.fill(operation.body, other));
        for name in [&other.id, MARK, &format!("ext-{MARK}")] {
            let path = other.fill(&operation.path.replace("{org}", name), other);
            let answer = operator.send(operation.method, &path, body.as_ref()).await;
            // Nothing is looked up where there is no backup at all.
            assert!(answer.status == 404 || answer.code() == "backup_not_configured", "{answer:?}");
            assert_unmarked(&answer);
            let path = other.fill(&operation.path.replace("{org}", name), other);
            let own = world.api(&other.key).send(operation.method, &path, body.as_ref()).await;
            assert!([400, 401, 404].contains(&own.status), "{own:?}");
        }
    }
    for (method, path, kind) in TENANT_PAGES {
        let path = other.fill(path, other);
        for (host, path) in [
            (host_of(MARK), path.clone()),
            (other.custom_host.clone(), path.clone()),
            (HOST.to_owned(), format!("/o/{MARK}{path}")),
            (HOST.to_owned(), format!("/o/{}{path}", other.id)),
        ] {
            let call = Call::new(method, &host, &path).header("cookie", &format!("bh_session={}", other.session_token));
            let call = if *kind == Page::Program || *method == "GET" { call } else { call.form(&[]) };
            let answer = world.call(call).await;
            assert_eq!(answer.status, 404, "{answer:?}");
        }
    }
    assert_unmarked(&operator.get("/v1/organizations?limit=100").await.expect(200));
    assert_eq!(neighbour().await, before);
    // What it was is known to operators alone, by its id.
    world.api(&acme.key).get(&format!("/v1/erasures/{}", other.id)).await.expect_problem(403, "forbidden");
    let check = operator.get("/v1/catalog/check").await.expect(200).json();
    assert_eq!(check["ok"], true, "{check}");
}

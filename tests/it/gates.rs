//! Who closes a file to writers, and who decides by that: beside others who undo the same at that moment. What a request
//! does in two steps is taken up here between them, where somebody else has been faster.

use std::pin::pin;

use bulkhead::base::{OrganizationId, codes};
use bulkhead::catalog::transfers::{self, Direction, Transfer, TransferStage};
use bulkhead::features::transfer::departure;
use bulkhead::features::{DeploymentState, freeze};
use bulkhead::tenants::{Depth, FROZEN, Look, Shut};
use rusqlite::Connection;
use serde_json::json;

use crate::world::{Answer, World};

const ACME: &str = "/v1/organizations/acme";

async fn acme() -> (World, OrganizationId) {
    let world = World::new().await;
    let id = world.organization("acme").await.parse().unwrap();
    (world, id)
}

/// What becomes of a request that writes.
async fn written(world: &World) -> Answer {
    world.operator().patch(ACME, &json!({"name": "Acme"})).await
}

/// A departure that was agreed upon.
async fn prepared(world: &World, id: OrganizationId) -> Transfer {
    let to = json!({"to": "https://elsewhere.example.com"});
    world.operator().put(&format!("{ACME}/departure"), &to).await.expect(200);
    departure::require(world.app().state(), id).await.unwrap()
}

/// The catalog's part of a step, of which nothing else is done yet.
async fn advance(state: &DeploymentState, transfer: &Transfer, from: TransferStage, to: TransferStage) {
    let key = (transfer.id, Direction::Departure);
    assert!(state.catalog.write(|db| transfers::advance(db, key, from, to)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_comes_behind_a_departure_leaves_nothing_of_itself() {
    const ERASURE: &str = "/v1/organizations/acme/erasure";
    let (world, id) = acme().await;
    let (operator, state) = (world.operator(), world.app().state());
    let transfer = prepared(&world, id).await;
    let mut before = TransferStage::Prepared;
    // Whoever asks for it has found the file open a moment ago: it is closed after this.
    for stage in [TransferStage::Leaving, TransferStage::Cancelling] {
        advance(state, &transfer, before, stage).await;
        before = stage;
        let refused = operator.put(ERASURE, &json!({"after_days": 1})).await;
        refused.expect_problem(503, "organization_leaving");
        operator.get(ERASURE).await.expect_problem(404, "erasure_not_found");
        let found = operator.get(ACME).await.expect(200).json();
        assert_eq!(found["state"], "active", "{found}");
        let log = operator.get("/v1/audit_events?limit=100").await.expect(200).text();
        assert!(!log.contains("organization.erasure_scheduled"), "{log}");
    }
    advance(state, &transfer, before, TransferStage::Cancelled).await;
    operator.put(ERASURE, &json!({"after_days": 1})).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_held_is_not_taken_for_one_that_may_be_erased_or_sent_away() {
    let (mut world, id) = acme().await;
    world.operator().put(&format!("{ACME}/freeze"), &json!({"reason": "case 4711"})).await.expect(200);
    // A catalog from before that.
    world
        .while_stopped(|data| {
            let catalog = Connection::open(data.join("catalog.sqlite")).unwrap();
            assert_eq!(catalog.execute("DELETE FROM freeze", []).unwrap(), 1);
        })
        .await;
    let (operator, state) = (world.operator(), world.app().state());
    assert_eq!(state.tenants.why_shut(id), None);
    let (erasure, departure) = (format!("{ACME}/erasure"), format!("{ACME}/departure"));
    let to = json!({"to": "https://elsewhere.example.com"});
    {
        let _held = state.tenants.hold(id).await.unwrap();
        operator.put(&erasure, &json!({"after_days": 1})).await.expect_problem(503, "organization_unavailable");
        operator.get(&erasure).await.expect_problem(404, "erasure_not_found");
        operator.put(&departure, &to).await.expect_problem(503, "organization_unavailable");
        operator.get(&departure).await.expect_problem(404, "transfer_not_found");
    }
    operator.put(&erasure, &json!({"after_days": 1})).await.expect_problem(409, "organization_frozen");
    operator.get(&erasure).await.expect_problem(404, "erasure_not_found");
    operator.put(&departure, &to).await.expect_problem(409, "organization_frozen");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_decides_by_a_file_waits_for_whoever_has_it_for_a_moment() {
    let (world, id) = acme().await;
    let state = world.app().state();
    let held = state.tenants.hold_still(id).await.unwrap();
    assert!(matches!(state.tenants.look(id, Depth::Names).await.unwrap(), Look::Held));
    let mut looked = pin!(state.tenants.look_at_rest(id, Depth::Names));
    tokio::select! {
        biased;
        looked = &mut looked => panic!("somebody has it: {looked:?}"),
        () = std::future::ready(()) => {}
    }
    drop(held);
    assert!(matches!(looked.await.unwrap(), Look::Seen(_)));
    // Whoever replaces or removes it is not waited for.
    let _held = state.tenants.hold(id).await.unwrap();
    let refused = state.tenants.look_at_rest(id, Depth::Names).await.unwrap_err();
    assert!(refused.is(&codes::ORGANIZATION_UNAVAILABLE) && refused.retry().is_some(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_departure_that_was_called_off_meanwhile_closes_nothing() {
    let (world, id) = acme().await;
    let (operator, state) = (world.operator(), world.app().state());
    let path = format!("{ACME}/departure");
    let transfer = prepared(&world, id).await;
    // Nothing is closed before the catalog says so.
    assert!(departure::shut(state, &transfer).await.unwrap_err().is(&codes::TRANSFER_STATE));
    written(&world).await.expect(200);
    advance(state, &transfer, TransferStage::Prepared, TransferStage::Leaving).await;
    departure::shut(state, &transfer).await.unwrap();
    written(&world).await.expect_problem(503, "organization_leaving");
    operator.delete(&path).await.expect(204);
    written(&world).await.expect(200);
    // Whoever was on the way to this comes too late.
    assert!(departure::shut(state, &transfer).await.unwrap_err().is(&codes::TRANSFER_STATE));
    assert_eq!(state.tenants.why_shut(id), None);
    written(&world).await.expect(200);
    // Nor does one that is over close it for another one, which is on its own way.
    let next = prepared(&world, id).await;
    advance(state, &next, TransferStage::Prepared, TransferStage::Leaving).await;
    assert!(departure::shut(state, &transfer).await.unwrap_err().is(&codes::TRANSFER_STATE));
    assert_eq!(state.tenants.why_shut(id), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_left_and_was_taken_back_meanwhile_is_not_closed_again() {
    let (world, id) = acme().await;
    let state = world.app().state();
    let transfer = prepared(&world, id).await;
    advance(state, &transfer, TransferStage::Prepared, TransferStage::Leaving).await;
    departure::shut(state, &transfer).await.unwrap();
    advance(state, &transfer, TransferStage::Leaving, TransferStage::Gone).await;
    departure::shut(state, &transfer).await.unwrap();
    let moved = Shut::Moved { to: "https://elsewhere.example.com".to_owned() };
    assert_eq!(state.tenants.why_shut(id), Some(moved.clone()));
    // Whoever has the archive made once more has seen it leaving.
    departure::shut(state, &transfer).await.unwrap();
    assert_eq!(state.tenants.why_shut(id), Some(moved));
    advance(state, &transfer, TransferStage::Gone, TransferStage::Cancelling).await;
    world.operator().delete(&format!("{ACME}/departure")).await.expect(204);
    assert!(departure::shut(state, &transfer).await.unwrap_err().is(&codes::TRANSFER_STATE));
    written(&world).await.expect(200);
}

/// Somebody is at work in the file for longer than it is waited for. What the catalog says is so, and can be ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_departure_that_does_not_get_the_file_can_be_called_off() {
    let (world, id) = acme().await;
    let (operator, state) = (world.operator(), world.app().state());
    let path = format!("{ACME}/departure");
    prepared(&world, id).await;
    let at_work = state.tenants.open(&state.directory.by_id(id).await.unwrap()).await.unwrap();
    let (_, recipient) = bulkhead::crypto::envelope::generate();
    let to = json!({"recipient": recipient, "waiver_sha256": "0".repeat(64)});
    operator.put(&format!("{path}/archive"), &to).await.expect_problem(503, "organization_busy");
    drop(at_work);
    assert_eq!(operator.get(&path).await.expect(200).json()["state"], "leaving");
    written(&world).await.expect_problem(503, "organization_leaving");
    operator.delete(&path).await.expect(204);
    written(&world).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_that_was_released_meanwhile_closes_nothing() {
    let (world, id) = acme().await;
    let (operator, state) = (world.operator(), world.app().state());
    let path = format!("{ACME}/freeze");
    operator.put(&path, &json!({"reason": "case 4711"})).await.expect(200);
    assert_eq!(freeze::shut(state, id).await.unwrap().reason, "case 4711");
    written(&world).await.expect_problem(409, "organization_frozen");
    operator.delete(&path).await.expect(204);
    // Whoever has asked for the same again, and found it frozen, comes too late.
    assert!(freeze::shut(state, id).await.unwrap_err().is(&codes::FREEZE_NOT_FOUND));
    assert_eq!(state.tenants.why_shut(id), None);
    written(&world).await.expect(200);
    // And where somebody else has frozen it since, is told of that one.
    operator.put(&path, &json!({"reason": "case 4712"})).await.expect(200);
    assert_eq!(freeze::shut(state, id).await.unwrap().reason, "case 4712");
    // What is being released stays as whoever releases it leaves it.
    state.catalog.write(|db| bulkhead::catalog::freezes::begin_release(db, id)).await.unwrap();
    assert!(freeze::shut(state, id).await.unwrap_err().is(&codes::FREEZE_NOT_FOUND));
    operator.delete(&path).await.expect(204);
    written(&world).await.expect(200);
    let events = world.events("acme").await;
    assert_eq!(events.iter().filter(|event| event["action"] == FROZEN).count(), 2, "{events:?}");
}

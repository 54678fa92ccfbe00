//! Members: what takes a person's access away, and what protects an organization from losing its last owner.

use serde_json::json;

use crate::world::{PASSWORD, World, host_of};

const MEMBERS: &str = "/v1/organizations/acme/members";

#[tokio::test(flavor = "multi_thread")]
async fn removal_and_deactivation_end_sessions_and_tokens_at_once() {
    let world = World::new().await;
    world.organization("acme").await;
    let (app, host, operator) = (world.application().await, host_of("acme"), world.operator());
    for (n, (method, suffix)) in
        [("PUT", "/deactivation"), ("DELETE", ""), ("DELETE", "/sessions")].into_iter().enumerate()
    {
        let email = format!("ada{n}@acme.test");
        let member = world.member("acme", &email).await;
        let mut browser = world.signed_in("acme", &email).await;
        let tokens = app.tokens(&world, &mut browser).await;
        let code = app.code(&mut browser).await;
        world.userinfo(&host, &tokens.access).await.expect(200);

        let answer = operator.send(method, &format!("{MEMBERS}/{member}{suffix}"), None).await;
        assert!([200, 204].contains(&answer.status), "{answer:?}");
        browser.get("/v1/session").await.expect(401);
        browser.get("/account").await.expect_redirect("/sign-in");
        world.userinfo(&host, &tokens.access).await.expect(401);
        world.refresh(&host, &app, &tokens.refresh).await.expect(400);
        world.redeem(&host, &app, &code).await.expect(400);
        assert!(!world.is_live(&host, &app, &tokens.access).await);
        let again = world.browser("acme").sign_in(&email, PASSWORD).await;
        assert_eq!(again.status, if suffix == "/sessions" { 303 } else { 401 }, "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reactivation_gives_the_access_back_but_no_old_session() {
    let world = World::new().await;
    world.organization("acme").await;
    let member = world.member("acme", "ada@acme.test").await;
    let mut browser = world.signed_in("acme", "ada@acme.test").await;
    let path = format!("{MEMBERS}/{member}/deactivation");
    for _ in 0..2 {
        assert_eq!(world.operator().put(&path, &json!({})).await.expect(200).json()["status"], "inactive");
    }
    for _ in 0..2 {
        assert_eq!(world.operator().delete(&path).await.expect(200).json()["status"], "active");
    }
    browser.get("/v1/session").await.expect(401);
    world.signed_in("acme", "ada@acme.test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_active_owner_stays() {
    let world = World::new().await;
    world.organization("acme").await;
    let operator = world.operator();
    let owner = operator.get(MEMBERS).await.json()["data"][0]["id"].as_str().unwrap().to_owned();
    let (path, plain) = (format!("{MEMBERS}/{owner}"), json!({"roles": ["admin", "member"]}));
    let refused = || async {
        operator.delete(&path).await.expect_problem(409, "last_owner");
        operator.put(&format!("{path}/deactivation"), &json!({})).await.expect_problem(409, "last_owner");
        operator.patch(&path, &plain).await.expect_problem(409, "last_owner");
    };
    refused().await;
    // Neither a pending nor an inactive owner counts.
    let pending = json!({"email": "second@acme.test", "roles": ["owner"]});
    operator.post(MEMBERS, &pending).await.expect(201);
    let inactive = world.member("acme", "third@acme.test").await;
    operator.patch(&format!("{MEMBERS}/{inactive}"), &json!({"roles": ["owner"]})).await.expect(200);
    operator.put(&format!("{MEMBERS}/{inactive}/deactivation"), &json!({})).await.expect(200);
    refused().await;
    world.browser("acme").sign_in("owner@acme.test", PASSWORD).await.expect(303);
    operator.delete(&format!("{MEMBERS}/{inactive}/deactivation")).await.expect(200);
    operator.patch(&path, &plain).await.expect(200);
    operator.delete(&format!("{MEMBERS}/{inactive}")).await.expect_problem(409, "last_owner");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_owners_who_leave_at_the_same_moment_one_stays() {
    let world = World::new().await;
    world.organization("acme").await;
    let operator = world.operator();
    let second = world.member("acme", "second@acme.test").await;
    operator.patch(&format!("{MEMBERS}/{second}"), &json!({"roles": ["owner"]})).await.expect(200);
    let owners: Vec<String> = operator.get(MEMBERS).await.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| format!("{MEMBERS}/{}", member["id"].as_str().unwrap()))
        .collect();
    let (one, other) = tokio::join!(operator.delete(&owners[0]), operator.delete(&owners[1]));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 409]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_in_two_organizations_is_two_members() {
    let world = World::new().await;
    let email = "ada@both.test";
    let (mut ids, operator) = (Vec::new(), world.operator());
    for (slug, password) in [("acme", PASSWORD), ("globex", "grove-cinder-meadow-51")] {
        world.organization(slug).await;
        let body = json!({"email": email, "name": format!("Ada of {slug}"), "password": password});
        ids.push(operator.post(&format!("/v1/organizations/{slug}/members"), &body).await.expect(201).id());
    }
    assert_ne!(ids[0], ids[1]);
    world.browser("acme").sign_in(email, "grove-cinder-meadow-51").await.expect(401);
    world.browser("globex").sign_in(email, PASSWORD).await.expect(401);
    let mut acme = world.signed_in("acme", email).await;
    assert!(!acme.get("/account").await.expect(200).mentions("globex"));
    operator.delete(&format!("{MEMBERS}/{}", ids[0])).await.expect(204);
    let mut globex = world.browser("globex");
    globex.sign_in(email, "grove-cinder-meadow-51").await.expect(303);
    // Within one organization an address is one member, however it is written.
    operator.post(MEMBERS, &json!({"email": "Owner@ACME.test"})).await.expect_problem(409, "email_taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_member_becomes_active_by_a_password() {
    let world = World::new().await;
    world.organization("acme").await;
    let operator = world.operator();
    let made = operator.post(MEMBERS, &json!({"email": "new@acme.test"})).await.expect(201);
    assert_eq!((&made.json()["status"], &made.json()["has_password"]), (&json!("pending"), &json!(false)));
    let path = format!("{MEMBERS}/{}", made.id());
    for method in ["PUT", "DELETE"] {
        operator.send(method, &format!("{path}/deactivation"), None).await.expect_problem(409, "member_pending");
    }
    for weak in ["short", "password1", "new@acme.test", "aaaaaaaaaaaa"] {
        let refused = operator.put(&format!("{path}/password"), &json!({"password": weak})).await;
        assert_eq!(refused.expect_problem(422, "password_too_weak").json()["errors"][0]["field"], "password");
    }
    operator.put(&format!("{path}/password"), &json!({"password": PASSWORD})).await.expect(204);
    assert_eq!(operator.get(&path).await.json()["status"], "active");
    world.signed_in("acme", "new@acme.test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_page_by_page_in_both_directions() {
    let world = World::new().await;
    world.organization("acme").await;
    for n in 0..6 {
        world.operator().post(MEMBERS, &json!({"email": format!("m{n}@acme.test")})).await.expect(201);
    }
    for order in ["asc", "desc"] {
        let mut seen = Vec::new();
        let mut next = format!("{MEMBERS}?limit=3&order={order}");
        let last = loop {
            let page = world.operator().get(&next).await.expect(200).json();
            seen.extend(
                page["data"].as_array().unwrap().iter().map(|member| member["id"].as_str().unwrap().to_owned()),
            );
            match page["list_metadata"]["after"].as_str() {
                Some(after) => next = format!("{MEMBERS}?limit=3&order={order}&after={after}"),
                None => break page,
            }
        };
        let mut sorted = seen.clone();
        sorted.sort();
        if order == "desc" {
            sorted.reverse();
        }
        assert_eq!((seen.len(), &seen), (7, &sorted));
        let before = last["list_metadata"]["before"].as_str().unwrap();
        let back = world.operator().get(&format!("{MEMBERS}?limit=3&order={order}&before={before}")).await.json();
        assert_eq!(back["data"][0]["id"], seen[3]);
    }
    world.operator().get(&format!("{MEMBERS}?after=mem_x")).await.expect_problem(400, "invalid_cursor");
    world.operator().get(&format!("{MEMBERS}?limit=0")).await.expect_problem(422, "validation_failed");
}

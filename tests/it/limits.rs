//! Noisy neighbours: what one organization may take of what all share, and that the others do not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bulkhead::base::{Credential, CredentialKind, OrganizationId};
use bulkhead::fairness::{Account, Turn};
use serde_json::{Value, json};

use crate::process::{self, Deployment, Person};
use crate::wire::Request;
use crate::world::{Answer, Call, HOST, PASSWORD, World, host_of};

const ACME: &str = "/v1/organizations/acme";

/// Two organizations with a key each.
async fn two(settings: &[(&str, &str)]) -> (World, String, String) {
    let world = World::with(settings).await;
    world.organization("acme").await;
    world.organization("other").await;
    let keys = (world.organization_key("acme", &["*"]).await, world.organization_key("other", &["*"]).await);
    (world, keys.0, keys.1)
}

async fn account(world: &World, slug: &str) -> Arc<Account> {
    let state = world.app().state();
    state.tenants.account(&state.directory.by_name(slug).await.unwrap())
}

/// How long an answer says that one is to wait.
#[track_caller]
fn wait(answer: &Answer) -> Duration {
    Duration::from_secs(answer.header("retry-after").unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_too_many_requests_waits_and_the_neighbour_does_not() {
    let (world, acme, other) =
        two(&[("BULKHEAD_LIMITS_REQUESTS_PER_SECOND", "2"), ("BULKHEAD_LIMITS_REQUEST_BURST", "20")]).await;
    let members = format!("{ACME}/members");
    let mut statuses = Vec::new();
    for _ in 0..50 {
        let answer = world.api(&acme).get(&members).await;
        statuses.push(answer.status);
        if answer.status != 200 {
            answer.expect_problem(429, "organization_rate_limited");
        }
    }
    assert_eq!(statuses, [vec![200; 20], vec![429; 30]].concat());
    // Whatever asks for this organization, by whatever name, is refused; the neighbour notices nothing.
    let id = world.operator().get(ACME).await.expect(200).id();
    world.api(&acme).get(&format!("/v1/organizations/{id}/members")).await.expect(429);
    world.call(Call::new("GET", HOST, "/o/acme/sign-in")).await.expect(429);
    world.call(Call::new("GET", &host_of("acme"), "/theme.css")).await.expect(429);
    world.api(&acme).get("/v1/api_keys").await.expect(429);
    world.api(&other).get("/v1/organizations/other/members").await.expect(200);
    world.signed_in("other", "owner@other.test").await;
    world.visitor().get("/sign-up").await.expect(200);
    // What is said of waiting is true, and not a second too much.
    let after = wait(&world.api(&acme).get(&members).await.expect(429));
    assert_eq!(after, Duration::from_secs(1));
    world.clock.advance(after);
    world.api(&acme).get(&members).await.expect(200);
    world.api(&acme).get(&members).await.expect(200);
    world.api(&acme).get(&members).await.expect_problem(429, "organization_rate_limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_can_read_which_limit_it_was() {
    let (world, acme, _) = two(&[
        ("BULKHEAD_LIMITS_REQUESTS_PER_SECOND", "2"),
        ("BULKHEAD_LIMITS_REQUEST_BURST", "20"),
        ("BULKHEAD_LIMITS_CONCURRENT_REQUESTS", "3"),
        ("BULKHEAD_RATE_LIMITS_TOKEN_PER_MINUTE", "1"),
        ("BULKHEAD_RATE_LIMITS_API_PER_MINUTE", "60"),
    ])
    .await;
    let told = |answer: &Answer| {
        let header = |name: &str| answer.header(name).map(str::to_owned);
        (header("ratelimit-policy").unwrap_or_default(), header("ratelimit").unwrap_or_default())
    };
    let path = format!("{ACME}/members");
    // A page says nothing, and an answer to a key what is left of its calls.
    let page = world.call(Call::new("GET", HOST, "/o/acme/sign-in")).await.expect(200);
    assert_eq!(told(&page), (String::new(), String::new()));
    let fine = world.api(&acme).get(&path).await.expect(200);
    assert_eq!(told(&fine), ("\"api\";q=60;w=60".to_owned(), "\"api\";r=59;t=1".to_owned()));
    let next = told(&world.api(&acme).get(&path).await.expect(200)).1;
    assert!(["\"api\";r=58;t=2", "\"api\";r=59;t=1"].contains(&&*next), "{next}");
    let of_operator = told(&world.operator().get(ACME).await.expect(200));
    assert!(of_operator.0 == fine.header("ratelimit-policy").unwrap() && of_operator.1.starts_with("\"api\";r="));
    assert_eq!(told(&world.local_operator("GET", ACME, None).await.expect(200)).0, "");
    assert_eq!(told(&world.api(&acme).get(&format!("{path}/mem_x")).await.expect(404)).0, "");
    let turns = hold_all(&world, "acme", 3).await;
    let refused = world.api(&acme).get(&path).await.expect_problem(429, "organization_concurrency_limited");
    let policy = "\"concurrency\";q=3;qu=\"concurrent-requests\"";
    assert_eq!(told(&refused), (policy.to_owned(), "\"concurrency\";r=0;t=1".to_owned()));
    drop(turns);
    let plan = json!({"limits": {"requests_per_second": 2, "request_burst": 20}});
    world.operator().patch(ACME, &plan).await.expect(200);
    // By address, as a person and as a program are told.
    for path in ["/oauth2/token", "/o/acme/oauth2/token"] {
        let post = || Call::new("POST", HOST, path).form(&[("grant_type", "refresh_token"), ("refresh_token", "x")]);
        world.call(post()).await;
        let refused = world.call(post()).await.expect(429);
        assert_eq!(told(&refused).0, "\"token\";q=1;w=60", "{path}: {refused:?}");
        assert!(told(&refused).1.starts_with("\"token\";r=0;t="), "{path}: {refused:?}");
    }
    let answer = async || loop {
        let answer = world.api(&acme).get(&path).await;
        if answer.status == 429 {
            return answer;
        }
    };
    for refused in [answer().await, world.call(Call::new("GET", HOST, "/o/acme/sign-in")).await.expect(429)] {
        assert_eq!(told(&refused), ("\"requests\";q=20;w=10".to_owned(), "\"requests\";r=0;t=1".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_keeps_no_operator_out_and_a_made_up_key_is_none() {
    let (world, acme, _) =
        two(&[("BULKHEAD_LIMITS_REQUESTS_PER_SECOND", "1"), ("BULKHEAD_LIMITS_REQUEST_BURST", "1")]).await;
    world.api(&acme).get(ACME).await.expect(200);
    world.api(&acme).get(ACME).await.expect(429);
    let _turns = hold_all(&world, "acme", 1).await;
    for _ in 0..20 {
        world.operator().get(&format!("{ACME}/members")).await.expect(200);
    }
    world.local_operator("GET", &format!("{ACME}/members"), None).await.expect(200);
    // It looks like an operator's key and is nobody's: it gets nobody past the limits, nor to a file.
    let forged = Credential::mint(CredentialKind::ApiKey, None, [7; 32]);
    world.api(forged.expose()).get(ACME).await.expect_problem(401, "unauthenticated");
    // The key of another organization is refused as before, and takes nothing of this one.
    let narrow = world.operator().post("/v1/api_keys", &json!({"name": "n", "scopes": ["audit:read"]})).await;
    let narrow = narrow.expect(201).json()["secret"].as_str().unwrap().to_owned();
    world.api(&narrow).get(ACME).await.expect_problem(403, "forbidden");
    world.operator().put(&format!("{ACME}/suspension"), &json!({"reason": "flooded"})).await.expect(204);
}

/// Takes all places among the running requests of an organization.
async fn hold_all(world: &World, slug: &str, most: u32) -> Vec<Turn> {
    let plan = json!({"limits": {"concurrent_requests": most, "requests_per_second": 0}});
    world.operator().patch(&format!("/v1/organizations/{slug}"), &plan).await.expect(200);
    let account = account(world, slug).await;
    (0..most).map(|_| account.enter().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_requests_of_one_organization_run_at_once() {
    let (world, acme, other) = two(&[]).await;
    let mut turns = hold_all(&world, "acme", 3).await;
    let refused = world.api(&acme).get(ACME).await.expect_problem(429, "organization_concurrency_limited");
    assert!(wait(&refused) >= Duration::from_secs(1));
    world.api(&other).get("/v1/organizations/other").await.expect(200);
    turns.pop();
    for _ in 0..10 {
        // Each gives its place back.
        world.api(&acme).get(ACME).await.expect(200);
        world.api(&acme).post(&format!("{ACME}/members"), &json!({"email": "no address"})).await.expect(422);
        world.call(Call::new("GET", &host_of("acme"), "/no-such-page")).await.expect(404);
    }
    assert_eq!(account(&world, "acme").await.running(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_client_is_told_in_its_own_form() {
    let (world, _, _) =
        two(&[("BULKHEAD_LIMITS_REQUESTS_PER_SECOND", "1"), ("BULKHEAD_LIMITS_REQUEST_BURST", "1")]).await;
    world.operator().patch("/v1/organizations/other", &json!({"limits": {"requests_per_second": 0}})).await.expect(200);
    let app = world.application().await;
    world.browser("acme").get("/sign-in").await.expect(200);
    let page = world.browser("acme").get("/sign-in").await.expect(429);
    assert!(page.header("content-type").unwrap().starts_with("text/html"), "{page:?}");
    assert!(page.mentions("more requests than it may") && page.mentions("<html"), "{page:?}");
    assert_eq!(wait(&page), Duration::from_secs(1));
    let token = Credential::mint(CredentialKind::RefreshToken, Some(acme_id(&world).await), [7; 32]);
    for (host, path) in [
        (host_of("acme"), "/oauth2/token".to_owned()),
        (HOST.to_owned(), "/o/acme/oauth2/token".to_owned()),
        // Here it is the token that names the organization.
        (HOST.to_owned(), "/oauth2/token".to_owned()),
    ] {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token.expose())];
        let answer = world.as_application(&host, &path, &app, &fields).await.expect(429);
        let body = answer.json();
        assert_eq!(body["error"], "temporarily_unavailable", "{answer:?}");
        assert_eq!(body["code"], "organization_rate_limited", "{answer:?}");
        assert_eq!((wait(&answer), answer.header("content-type")), (Duration::from_secs(1), Some("application/json")));
        let allowed = world.as_application(&host_of("other"), "/oauth2/token", &app, &fields).await;
        assert_eq!((allowed.status, &allowed.json()["error"]), (400, &json!("invalid_grant")), "{allowed:?}");
    }
}

async fn acme_id(world: &World) -> OrganizationId {
    world.operator().get(ACME).await.expect(200).id().parse().unwrap()
}

/// What a browser sends to sign somebody in, as often as one likes.
async fn sign_in_call(world: &World, slug: &str) -> Call {
    let mut browser = world.browser(slug);
    let csrf = browser.csrf().await;
    let email = format!("owner@{slug}.test");
    browser.call("POST", "/sign-in").form(&[("csrf", &csrf), ("email", &email), ("password", PASSWORD)])
}

/// One thread, and hashes that take a while.
const ONE_THREAD: [(&str, &str); 3] = [
    ("BULKHEAD_PASSWORD_WORKERS", "1"),
    ("BULKHEAD_PASSWORD_MEMORY_KIB", "65536"),
    ("BULKHEAD_PASSWORD_ITERATIONS", "1"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_sign_ins_keeps_no_other_organization_waiting() {
    let (world, _, _) = two(&ONE_THREAD).await;
    let (acme, other) = (sign_in_call(&world, "acme").await, sign_in_call(&world, "other").await);
    let done = Arc::new(AtomicUsize::new(0));
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (call, done) = (world.call_later(acme.clone()), Arc::clone(&done));
        flood.spawn(async move {
            let answer = call.await;
            done.fetch_add(1, Ordering::SeqCst);
            answer
        });
    }
    let hasher = world.app().state().tenant.hasher.clone();
    while hasher.waiting() < 20 && done.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // It comes last and is served before the queue is drained.
    world.call(other).await.expect_redirect("/account");
    let before = done.load(Ordering::SeqCst);
    assert!(before < 40, "{before} of 50 were served first");
    for answer in flood.join_all().await {
        answer.expect_redirect("/account");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_organization_only_so_many_hashes_wait() {
    let (world, acme_key, _) = two(&[&ONE_THREAD[..], &[("BULKHEAD_LIMITS_QUEUED_HASHES", "5")]].concat()).await;
    let (acme, other) = (sign_in_call(&world, "acme").await, sign_in_call(&world, "other").await);
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..40 {
        flood.spawn(world.call_later(acme.clone()));
    }
    let hasher = world.app().state().tenant.hasher.clone();
    while hasher.waiting() < 5 && !flood.is_empty() {
        while flood.try_join_next().is_some_and(|answer| answer.unwrap().status == 429) {}
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.call(other).await.expect_redirect("/account");
    for answer in flood.join_all().await {
        assert!([303, 429].contains(&answer.status), "{answer:?}");
    }
    let limited = world.operator().get("/v1/fleet/limited").await.expect(200).json();
    assert_eq!(limited["data"][0]["limits"][0]["limit"], "hashing", "{limited}");
    assert_eq!(limited["data"].as_array().unwrap().len(), 1, "{limited}");

    // A plan of its own holds at once: with room for one, of three that come together one is refused.
    world.operator().patch(ACME, &json!({"limits": {"queued_hashes": 1}})).await.expect(200);
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..12 {
        let body = json!({"email": format!("m{n}@acme.test"), "password": PASSWORD});
        calls.spawn(world.call_later(world.api(&acme_key).call("POST", &format!("{ACME}/members")).json(&body)));
    }
    let answers = calls.join_all().await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    for refused in answers.into_iter().filter(|answer| answer.status != 201) {
        let refused = refused.expect_problem(429, "organization_hashing_limited");
        assert!(wait(&refused) >= Duration::from_secs(1));
    }
    // Whoever was refused is not there, not even half.
    assert_eq!(members(&world).await, made + 1);
}

async fn members(world: &World) -> usize {
    let list = world.operator().get(&format!("{ACME}/members?limit=100")).await.expect(200).json();
    list["data"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_written_enough_adds_nothing_and_ends_revokes_and_deletes_as_ever() {
    let (world, acme, other) = two(&[]).await;
    let members_at = format!("{ACME}/members");
    let spare = world.operator().post(&format!("{ACME}/api_keys"), &json!({"name": "s", "scopes": ["*"]})).await.id();
    let victim = world.member("acme", "victim@acme.test").await;
    let mut browser = world.signed_in("acme", "victim@acme.test").await;
    let second = world.signed_in("acme", "victim@acme.test").await;
    let limit = json!({"limits": {"written_bytes_per_minute": 400_000}});
    world.operator().patch(ACME, &limit).await.expect(200);
    let before = members(&world).await;
    let mut added = 0;
    let refused = loop {
        let body = json!({"email": format!("m{added}@acme.test")});
        let answer = world.api(&acme).post(&members_at, &body).await;
        if answer.status != 201 {
            break answer.expect_problem(429, "organization_writes_limited");
        }
        added += 1;
        assert!(added < 100, "nobody counts what is written");
    };
    assert!(added > 3, "{added} members are 400,000 bytes");
    assert_eq!(members(&world).await, before + added, "a refused request has left something");
    // The neighbour writes as much as ever.
    for n in 0..added {
        let body = json!({"email": format!("m{n}@other.test")});
        world.api(&other).post("/v1/organizations/other/members", &body).await.expect(201);
    }
    // Nobody signs in or changes anything; who is in stays in, also when a sign of life is due.
    world.clock.advance(wait(&refused));
    account(&world, "acme").await.wrote(u64::MAX / 2);
    world.clock.advance(Duration::from_secs(55));
    let late = world.browser("acme").sign_in("owner@acme.test", PASSWORD).await.expect(429);
    assert!(late.header("content-type").unwrap().starts_with("text/html"), "{late:?}");
    world.api(&acme).patch(&format!("{members_at}/{victim}"), &json!({"title": "x"})).await.expect(429);
    let keyed = world.api(&acme).with_header("idempotency-key", "once");
    keyed.post(&members_at, &json!({"email": "late@acme.test"})).await.expect(429);
    browser.get("/account").await.expect(200);
    second.clone().get("/account").await.expect(200);
    world.api(&acme).get(&members_at).await.expect(200);

    let page = browser.get("/account").await.expect(200);
    browser.submit_form_to(&page, "/sign-out", &[]).await.expect(303);
    world.api(&acme).delete(&format!("{ACME}/api_keys/{spare}")).await.expect(204);
    world.api(&acme).delete(&format!("{members_at}/{victim}/sessions")).await.expect(204);
    second.clone().get("/account").await.expect_redirect("/sign-in");
    world.api(&acme).put(&format!("{members_at}/{victim}/deactivation"), &json!({})).await.expect(200);
    world.api(&acme).put(&format!("{members_at}/{victim}/erasure"), &json!({})).await.expect(200);
    world.operator().put("/v1/organizations/acme/hosts/login.acme.test", &json!({})).await.expect(204);
    world.operator().delete("/v1/organizations/acme/hosts/login.acme.test").await.expect(204);
    world.operator().put(&format!("{ACME}/suspension"), &json!({"reason": "enough"})).await.expect(204);
    world.operator().delete(&format!("{ACME}/suspension")).await.expect(204);
    let hosts = world.operator().get(ACME).await.expect(200).json();
    assert_eq!(hosts["hosts"], json!([]), "{hosts}");

    // As long as it says, and then it goes on; a key that was refused is not used up.
    let last = world.api(&acme).post(&members_at, &json!({"email": "more@acme.test"})).await.expect(429);
    world.clock.advance(wait(&last));
    keyed.post(&members_at, &json!({"email": "late@acme.test"})).await.expect(201);
    let log = world.operator().get(&format!("{ACME}/audit_events/verification")).await.expect(200).json();
    assert_eq!(log["intact"], true, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_set_limits_for_one_organization_and_they_hold_at_once_and_after_a_restart() {
    let (mut world, acme, other) =
        two(&[("BULKHEAD_LIMITS_REQUESTS_PER_SECOND", "1"), ("BULKHEAD_LIMITS_REQUEST_BURST", "2")]).await;
    // Raised and lowered, for this one alone.
    let raised = json!({"limits": {"request_burst": 30}});
    world.api(&acme).patch(ACME, &raised).await.expect_problem(403, "forbidden");
    let answer = world.operator().patch(ACME, &raised).await.expect(200).json();
    assert_eq!((&answer["limits"]["request_burst"], &answer["limits"]["queued_hashes"]), (&json!(30), &Value::Null));
    for _ in 0..30 {
        world.api(&acme).get(ACME).await.expect(200);
    }
    world.api(&acme).get(ACME).await.expect_problem(429, "organization_rate_limited");
    let others = "/v1/organizations/other";
    assert_eq!(world.operator().get(others).await.json()["limits"]["request_burst"], Value::Null);
    world.api(&other).get(others).await.expect(200);
    world.api(&other).get(others).await.expect(200);
    world.api(&other).get(others).await.expect(429);
    world.operator().patch(others, &json!({"limits": {"requests_per_second": 0}})).await.expect(200);
    for _ in 0..100 {
        world.api(&other).get(others).await.expect(200);
    }
    world.operator().patch(others, &json!({"limits": {}})).await.expect(200);
    let statuses = [
        world.api(&other).get(others).await.status,
        world.api(&other).get(others).await.status,
        world.api(&other).get(others).await.status,
    ];
    assert_eq!(statuses, [200, 200, 429]);

    for wrong in [
        json!({"requests_per_second": -1}),
        json!({"requests_per_second": 1_000_001}),
        json!({"requests_per_second": 4_294_967_296_u64}),
        json!({"requests_per_second": 1.5}),
        json!({"requests_per_second": "many"}),
        json!({"request_burst": 0}),
        json!({"concurrent_requests": 1_000_001}),
        json!({"concurrent_hashes": 1025}),
        json!({"queued_hashes": 100_001}),
        json!({"written_bytes_per_minute": 1_u64 << 51}),
        json!({"requests": 1}),
        Value::Null,
        json!([]),
    ] {
        world.operator().patch(ACME, &json!({"limits": wrong})).await.expect(422);
    }
    assert_eq!(world.operator().get(ACME).await.json()["limits"]["request_burst"], 30, "a wrong value was taken");
    let acts = world.events("acme").await;
    assert!(acts.iter().any(|act| act["metadata"]["fields"] == json!(["limits"])), "{acts:?}");

    world.while_stopped(|_| ()).await;
    // The first request opens the file, which says how many there may be.
    world.api(&acme).get(ACME).await.expect(200);
    for _ in 0..30 {
        world.api(&acme).get(ACME).await.expect(200);
    }
    world.api(&acme).get(ACME).await.expect_problem(429, "organization_rate_limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_nowhere_leave_nothing_behind() {
    let (world, _, _) = two(&[("BULKHEAD_LIMITS_REQUESTS_PER_SECOND", "100")]).await;
    let fairness = world.app().state().tenants.fairness().clone();
    let before = fairness.len();
    for n in 0..50_u8 {
        let nobody = OrganizationId::from_bits(u128::from(n) + 1);
        let key = Credential::mint(CredentialKind::ApiKey, Some(nobody), [n; 32]);
        let session = Credential::mint(CredentialKind::Session, Some(nobody), [n; 32]);
        let bearer = format!("Bearer {}", session.expose());
        world.call(Call::new("GET", &host_of(&format!("nobody{n}")), "/sign-in")).await.expect(404);
        world.call(Call::new("GET", HOST, &format!("/o/nobody{n}/sign-in"))).await.expect(404);
        world.operator().get(&format!("/v1/organizations/nobody{n}")).await.expect(404);
        world.api(key.expose()).get(&format!("/v1/organizations/{nobody}")).await.expect(400);
        world.call(Call::new("GET", HOST, "/v1/session").header("authorization", &bearer)).await;
        world.call(Call::new("GET", &format!("login{n}.nobody.test"), "/")).await.expect(404);
    }
    assert_eq!(fairness.len(), before);
    assert!(before <= 2, "{before}");
}

/// The program itself: metrics, log and commands name who was limited, and nobody else.
#[test]
fn metrics_log_and_commands_name_who_was_limited() {
    let metrics = process::free_port();
    let deployment = Deployment::new()
        .with("LIMITS_REQUESTS_PER_SECOND", 1)
        .with("LIMITS_REQUEST_BURST", 5)
        .with("SERVER_METRICS_LISTEN", format!("127.0.0.1:{metrics}"));
    let (server, mut operator, _) = deployment.started();
    let (acme, other) = (operator.organization("acme"), operator.organization("other"));
    let mut client = server.client();
    let mut refused = 0_u64;
    for _ in 0..200 {
        let answer = client.send(&Request::get(&process::host_of("acme"), "/v1/session")).unwrap();
        assert!([401, 429].contains(&answer.status), "{}", answer.text());
        if answer.status == 429 {
            assert_eq!(answer.code(), "organization_rate_limited");
            refused += 1;
        }
    }
    assert!(refused > 0, "200 requests took minutes");
    Person::at(&server, &process::host_of("other")).sign_in(&process::owner_of("other")).unwrap();

    let text = crate::wire::Client::new(metrics).send(&Request::get("localhost", "/metrics")).unwrap().text();
    let line = format!("bulkhead_limited_total{{organization=\"{acme}\",limit=\"requests\"}} {refused}\n");
    assert!(text.contains(&line), "{text}");
    assert!(!text.contains(&other), "{text}");
    let shown = deployment.json(&["fleet", "limited"]);
    let one = &shown["data"][0];
    assert_eq!((&one["organization_id"], &one["slug"]), (&json!(acme), &json!("acme")), "{shown}");
    assert_eq!(one["limits"][0]["refused"], json!(refused), "{shown}");
    assert_eq!(shown["data"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(shown["defaults"]["request_burst"], 5, "{shown}");
    let human = deployment.run(&["fleet", "limited"]);
    let human = String::from_utf8(human.stdout).unwrap();
    assert!(human.contains("requests") && human.contains(&acme) && !human.contains(&other), "{human}");
    let lines = server.log().lines().filter(|line| line.contains("an organization is limited")).count();
    assert!((1..=3).contains(&lines), "{lines} lines:\n{}", server.log());

    let set = deployment.json(&["org", "limit", "acme", "--requests-per-second", "0", "--queued-hashes", "9"]);
    assert_eq!(
        (&set["limits"]["requests_per_second"], &set["limits"]["queued_hashes"]),
        (&json!(0), &json!(9)),
        "{set}"
    );
    for _ in 0..50 {
        assert_eq!(client.send(&Request::get(&process::host_of("acme"), "/v1/session")).unwrap().status, 401);
    }
    server.stop();
    let show = deployment.run(&["org", "show", "acme"]);
    let show = String::from_utf8(show.stdout).unwrap();
    assert!(show.contains("limits.queued hashes") && show.contains('9'), "{show}");
    assert!(!deployment.run(&["org", "limit", "acme", "--request-burst", "0"]).status.success());
    assert!(!deployment.run(&["org", "limit", "acme", "--queued-hashes", "-1"]).status.success());
}

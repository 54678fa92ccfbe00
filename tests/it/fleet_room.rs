//! What organizations take up: quotas, compaction, and a disk without room.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{Deployment, HOST, Operator, Person, host_of, owner_of, session_check};
use crate::wire::{Answer, Request};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn no_more_members_than_the_quota_and_everything_else_goes_on() {
    let world = World::with(&[("BULKHEAD_QUOTAS_MAX_MEMBERS", "3")]).await;
    world.organization("acme").await;
    world.organization("other").await;
    let (operator, members) = (world.operator(), "/v1/organizations/acme/members");
    let key = world.organization_key("acme", &["*"]).await;
    let add = async |n: u32| {
        world
            .api(&key)
            .post(members, &json!({"email": format!("m{n}@acme.test"), "password": crate::world::PASSWORD}))
            .await
    };
    add(1).await.expect(201);
    let second = add(2).await.expect(201).id();
    let refused = add(3).await.expect_problem(403, "quota_members_exceeded");
    assert!(refused.mentions("has 3 members, and 3 is the most"), "{refused:?}");
    // Another organization's room is its own.
    operator.post("/v1/organizations/other/members", &json!({"email": "a@other.test"})).await.expect(201);
    // Those who are there may sign in, be read and be deleted, and then there is room again.
    world.signed_in("acme", "m1@acme.test").await;
    world.api(&key).get(members).await.expect(200);
    world.api(&key).delete(&format!("{members}/{second}")).await.expect(204);
    add(4).await.expect(201);
    add(5).await.expect_problem(403, "quota_members_exceeded");

    // The organization's own key cannot raise it; operators can, for this one alone, and lift it.
    let at = "/v1/organizations/acme";
    world.api(&key).patch(at, &json!({"quotas": {"max_members": 9}})).await.expect_problem(403, "forbidden");
    let raised = operator.patch(at, &json!({"quotas": {"max_members": 4}})).await.expect(200).json();
    assert_eq!(raised["quotas"], json!({"max_bytes": null, "max_members": 4}), "{raised}");
    add(6).await.expect(201);
    add(7).await.expect_problem(403, "quota_members_exceeded");
    operator.patch(at, &json!({"quotas": {"max_members": 0}})).await.expect(200);
    add(8).await.expect(201);
    for wrong in [json!({"quotas": {"max_members": -1}}), json!({"quotas": {"most": 1}}), json!({"quotas": null})] {
        operator.patch(at, &wrong).await.expect(422);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_members_do_not_pass_the_quota() {
    let world = World::with(&[("BULKHEAD_QUOTAS_MAX_MEMBERS", "5")]).await;
    world.organization("acme").await;
    let calls = (0..20).map(|n| {
        let body = json!({"email": format!("m{n}@acme.test")});
        world.call_later(world.operator().call("POST", "/v1/organizations/acme/members").json(&body))
    });
    let mut set = tokio::task::JoinSet::new();
    calls.for_each(|call| drop(set.spawn(call)));
    let statuses: Vec<u16> = set.join_all().await.into_iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 4, "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_bytes_quota_nothing_is_added_and_what_ends_something_works() {
    let mut world = World::new().await;
    world.organization("acme").await;
    // Asked while there is nobody else: the clock stands still, so a list of hundreds has no order by time.
    let owner = owner_id(&world).await;
    let (operator, at) = (world.operator(), "/v1/organizations/acme");
    let key = world.organization_key("acme", &["*"]).await;
    let spare =
        operator.post(&format!("{at}/api_keys"), &json!({"name": "spare", "scopes": ["audit:read"]})).await.id();
    let victim = world.member("acme", "victim@acme.test").await;
    let mut browser = world.signed_in("acme", "victim@acme.test").await;
    operator.patch(at, &json!({"quotas": {"max_bytes": 300_000}})).await.expect(200);
    let mut refused = None;
    for n in 0..2000 {
        let body = json!({"email": format!("m{n}@acme.test"), "title": "x".repeat(100)});
        let answer = world.api(&key).post(&format!("{at}/members"), &body).await;
        if answer.status != 201 {
            refused = Some((n, answer.expect_problem(403, "quota_bytes_exceeded")));
            break;
        }
    }
    let (added, refused) = refused.expect("it grows without a bound");
    assert!(added > 20 && refused.mentions("300000 is the most"), "{added}: {refused:?}");
    world.api(&key).post(&format!("{at}/api_keys"), &json!({"name": "n", "scopes": ["audit:read"]})).await.expect(403);

    // As far as the backstop: what leaves traces without adding on purpose goes on until there.
    world.signed_in("acme", "owner@acme.test").await;
    operator.patch(at, &json!({"quotas": {"max_bytes": 1}})).await.expect(200);
    let mut filled = false;
    let path = world.data_dir();
    for n in 0..20_000 {
        // Changes of a profile are recorded, and so grow the log.
        let body = json!({"title": format!("{n} {}", "y".repeat(100))});
        let answer = world.api(&key).patch(&format!("{at}/members/{victim}"), &body).await;
        if answer.status != 200 {
            answer.expect_problem(403, "quota_bytes_exceeded");
            filled = true;
            break;
        }
    }
    assert!(filled, "no backstop: {path:?}");
    world.api(&key).get(&format!("{at}/members")).await.expect(200);
    let page = browser.get("/account").await.expect(200);
    browser.submit_form_to(&page, "/sign-out", &[]).await.expect(303);
    world.api(&key).delete(&format!("{at}/api_keys/{spare}")).await.expect(204);
    world.api(&key).delete(&format!("{at}/members/{victim}/sessions")).await.expect(204);
    world.api(&key).put(&format!("{at}/members/{victim}/deactivation"), &json!({})).await.expect(200);
    world.api(&key).delete(&format!("{at}/members/{victim}")).await.expect(204);
    operator.put(&format!("{at}/suspension"), &json!({"reason": "full"})).await.expect(204);
    operator.delete(&format!("{at}/suspension")).await.expect(204);
    // The bound is there after a restart too, and goes when an operator lifts it.
    world.while_stopped(|_| ()).await;
    let (operator, body) = (world.operator(), json!({"name": "z".repeat(100)}));
    let mut after = 200;
    for _ in 0..200 {
        after = operator.patch(&format!("{at}/members/{owner}"), &body).await.status;
        if after != 200 {
            break;
        }
    }
    operator.patch(at, &json!({"quotas": {}})).await.expect(200);
    operator.post(&format!("{at}/members"), &json!({"email": "last@acme.test"})).await.expect(201);
    let log = operator.get(&format!("{at}/audit_events/verification")).await.expect(200).json();
    assert_eq!(log["intact"], true, "{after} {log}");
}

async fn owner_id(world: &World) -> String {
    let list = world.operator().get("/v1/organizations/acme/members").await.expect(200).json();
    let owner = list["data"].as_array().unwrap().iter().find(|member| member["email"] == "owner@acme.test").unwrap();
    owner["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_gives_back_what_was_deleted() {
    let mut world = World::new().await;
    world.organization("acme").await;
    world
        .while_stopped(|data| {
            let mut found = Vec::new();
            for entry in walk(&data.join("orgs")) {
                found.extend((entry.file_name().is_some_and(|name| name == "db.sqlite")).then_some(entry));
            }
            let file = rusqlite::Connection::open(&found[0]).unwrap();
            file.execute_batch(
                "INSERT INTO idempotency (key, request_hash, body, created_at)
                   WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)
                   SELECT randomblob(32), x'00', randomblob(1000), 0 FROM n;
                 DELETE FROM idempotency",
            )
            .unwrap();
        })
        .await;
    let (operator, at) = (world.operator(), "/v1/organizations/acme");
    let compacted = operator.post(&format!("{at}/compaction"), &json!({})).await.expect(200).json();
    let (before, after) = (compacted["bytes_before"].as_u64().unwrap(), compacted["bytes_after"].as_u64().unwrap());
    assert!(after + 900_000 < before, "{compacted}");
    let stats = operator.get("/v1/fleet/stats").await.expect(200).json();
    assert!(stats["bytes"].as_u64().unwrap() < after + 100_000, "{stats} {compacted}");
    operator.post(&format!("{at}/members"), &json!({"email": "new@acme.test"})).await.expect(201);
    world.signed_in("acme", "owner@acme.test").await;
    let log = operator.get(&format!("{at}/audit_events/verification")).await.expect(200).json();
    assert_eq!(log["intact"], true, "{log}");
    let events = world.events("acme").await;
    assert!(events.iter().any(|event| event["action"] == "organization.compacted"), "{events:#?}");
    world
        .api(&world.organization_key("acme", &["*"]).await)
        .post(&format!("{at}/compaction"), &json!({}))
        .await
        .expect(403);
}

/// Every file below a directory.
fn walk(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// A file system of its own, unmounted when dropped.
pub struct Mount(std::path::PathBuf);

impl Mount {
    /// Nothing where mounting is not permitted.
    pub fn new(at: &Path, bytes: u64) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let ran = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=700"), "tmpfs"])
            .arg(at)
            .output();
        match ran {
            Ok(ran) if ran.status.success() => Some(Self(at.to_owned())),
            Ok(ran) => {
                println!("left out: no file system can be mounted here: {}", String::from_utf8_lossy(&ran.stderr));
                None
            }
            Err(error) => {
                println!("left out: no file system can be mounted here: {error}");
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Takes up all the room there is.
pub fn fill(directory: &Path) -> std::path::PathBuf {
    use std::io::Write;
    let path = directory.join("ballast");
    let mut file = fs::File::create(&path).unwrap();
    for size in [1 << 20, 64 << 10, 4096, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    path
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    let deployment = Deployment::new();
    let Some(_mount) = Mount::new(&deployment.data_dir(), 48 << 20) else { return };
    let (server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    let cookie = Person::at(&server, &host_of("acme")).sign_in(&owner_of("acme")).unwrap();
    let members = format!("/v1/organizations/{id}/members");
    let made = operator.post(&members, &json!({"email": "before@acme.test"})).unwrap();
    assert_eq!(made.status, 201, "{}", made.text());

    let ballast = fill(&deployment.data_dir());
    let mut refusals = 0;
    let mut made_when_full = Vec::new();
    for n in 0..200 {
        let body = json!({"email": format!("full-{n}@acme.test"), "title": "x".repeat(100)});
        let answer = operator.post(&members, &body).unwrap();
        match answer.status {
            201 => made_when_full.push(answer.json()["id"].as_str().unwrap().to_owned()),
            _ => {
                is_full(&answer);
                refusals += 1;
            }
        }
    }
    assert!(refusals > 20, "the disk was not full: {refusals}");
    // A new organization is refused as a whole.
    let refused = operator.post("/v1/organizations", &json!({"name": "New", "slug": "newcomer"})).unwrap();
    assert!(refused.status == 503, "{}", refused.text());
    // Reads go on.
    for path in [members.as_str(), &format!("/v1/organizations/{id}"), "/v1/organizations", "/v1/fleet/stats"] {
        let found = operator.get(path).unwrap();
        assert_eq!(found.status, 200, "{path}: {}", found.text());
    }
    let session = server.client().send(&session_check(&host_of("acme"), &cookie)).unwrap();
    assert_eq!(session.status, 200, "{}", session.text());

    fs::remove_file(ballast).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let again = operator.post(&members, &json!({"email": "after@acme.test"})).unwrap();
    assert_eq!(again.status, 201, "{}", again.text());
    assert_eq!(operator.get("/v1/organizations/newcomer").unwrap().status, 404);
    operator.organization("newcomer");
    for made in &made_when_full {
        assert_eq!(operator.get(&format!("{members}/{made}")).unwrap().status, 200, "{made} was acknowledged");
    }
    sound(&deployment, &mut operator, &id);
    server.stop();
    let server = deployment.serve();
    sound(&deployment, &mut Operator::new(&server, &key), &id);

    // A compaction asks for room first.
    let ballast = fill(&deployment.data_dir());
    let refused = Operator::new(&server, &key).post(&format!("/v1/organizations/{id}/compaction"), &json!({})).unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (503, "storage_full"), "{}", refused.text());
    fs::remove_file(ballast).unwrap();
    server.stop();
}

fn is_full(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    let code = answer.code();
    assert!(code == "storage_full" || code == "storage_failed", "{}", answer.text());
    assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
}

/// Nothing is torn.
fn sound(deployment: &Deployment, operator: &mut Operator, id: &str) {
    let checked: Value = deployment.json(&["fleet", "check", "--full"]);
    assert_eq!((checked["state"].as_str(), &checked["findings"]), (Some("done"), &json!([])), "{checked:#}");
    for path in
        ["/v1/audit_events/verification".to_owned(), format!("/v1/organizations/{id}/audit_events/verification")]
    {
        let log = operator.get(&path).unwrap().json();
        assert_eq!(log["intact"], true, "{path}: {log}");
    }
}

/// What a disk that fails does to writes: the kernel refuses every byte beyond a file size, with `EFBIG`.
#[test]
fn a_disk_that_does_not_write_refuses_writes_and_nothing_else() {
    let deployment = Deployment::new();
    let (server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    let members = format!("/v1/organizations/{id}/members");
    assert_eq!(operator.post(&members, &json!({"email": "before@acme.test"})).unwrap().status, 201);
    let limit = |bytes: &str| {
        let pid = server.pid().to_string();
        let ran = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}")]).output();
        match ran {
            Ok(ran) if ran.status.success() => true,
            other => {
                println!("left out: the limit of another process cannot be set here: {other:?}");
                false
            }
        }
    };
    if !limit("40000:unlimited") {
        return;
    }
    let mut refusals = 0;
    for n in 0..50 {
        let answer = operator.post(&members, &json!({"email": format!("m{n}@acme.test")})).unwrap();
        if answer.status != 201 {
            is_full(&answer);
            refusals += 1;
        }
    }
    assert!(refusals > 20, "{refusals}");
    assert_eq!(operator.get(&members).unwrap().status, 200);
    assert!(limit("unlimited:unlimited"));
    let again = operator.post(&members, &json!({"email": "after@acme.test"})).unwrap();
    assert_eq!(again.status, 201, "{}", again.text());
    sound(&deployment, &mut operator, &id);
    let request = Request::get(HOST, "/readyz");
    assert_eq!(server.client().send(&request).unwrap().status, 200);
    server.stop();
}

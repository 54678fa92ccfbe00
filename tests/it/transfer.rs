//! Organizations on their way from one running deployment to another: at no moment do both take writes.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::process::{Deployment, HOST, Operator, Person, Server, host_of, owner_of};
use crate::wire::{Answer, Request};

/// One of the two, with a key of it in a file.
pub struct Side {
    pub deployment: Deployment,
    pub server: Server,
    pub key: String,
    pub key_file: PathBuf,
}

impl Side {
    pub fn new() -> Self {
        Self::of(Deployment::new())
    }

    pub fn of(deployment: Deployment) -> Self {
        let key = deployment.operator_key();
        let key_file = deployment.directory.path().join("key");
        fs::write(&key_file, &key).unwrap();
        let server = deployment.serve();
        Self { deployment, server, key, key_file }
    }

    pub fn operator(&self) -> Operator {
        Operator::new(&self.server, &self.key)
    }

    pub fn call(&self, method: &'static str, path: &str, body: &Value) -> Answer {
        self.operator().call(method, path, body).unwrap()
    }

    pub fn get(&self, path: &str) -> Answer {
        self.operator().get(path).unwrap()
    }

    /// The answer of a step that is to succeed.
    pub fn done(&self, method: &'static str, path: &str, body: &Value) -> Value {
        let answer = self.call(method, path, body);
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        answer.json()
    }

    /// Killed, and started again.
    pub fn crash(&mut self) {
        self.server.kill();
        self.server = self.deployment.serve();
    }

    /// Something is done to its files while nobody serves it.
    pub fn while_stopped<T>(&mut self, between: impl FnOnce(&Deployment) -> T) -> T {
        // Gracefully, so that all of it is in the one file.
        self.server.terminate();
        assert_eq!(self.server.wait(), Some(0));
        let value = between(&self.deployment);
        self.server = self.deployment.serve();
        value
    }

    /// Its catalog is lost, and made again from the files; the keys of operators went with it. What was reported.
    pub fn lose_catalog(&mut self) -> Value {
        self.server.kill();
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(self.deployment.data_dir().join(format!("catalog.sqlite{suffix}")));
        }
        let rebuilt = self.deployment.json(&["catalog", "rebuild"]);
        self.key = self.deployment.operator_key();
        fs::write(&self.key_file, &self.key).unwrap();
        self.server = self.deployment.serve();
        rebuilt
    }

    /// Whether it takes a write of the organization.
    pub fn writes(&self, organization: &str, name: &str) -> bool {
        let path = format!("/v1/organizations/{organization}/members");
        let answer = self.call("POST", &path, &json!({"email": format!("{name}@acme.test")}));
        assert!([201, 404, 421, 503].contains(&answer.status), "{}", answer.text());
        answer.status == 201
    }

    pub fn upload(&self, path: &str, archive: &[u8]) -> Answer {
        let request = Request::new("POST", HOST, path).bearer(&self.key);
        self.operator().client.send(&request.body("application/octet-stream", archive)).unwrap()
    }
}

/// A transfer that is carried by hand, step by step.
pub struct Carried {
    pub source: Side,
    pub target: Side,
    pub id: String,
    pub departure: Value,
    pub arrival: Value,
    writes: u32,
}

pub const STEPS: usize = 6;

impl Carried {
    pub fn new() -> Self {
        Self::between(Side::new(), Side::new())
    }

    pub fn between(source: Side, target: Side) -> Self {
        let id = source.operator().organization("acme");
        Self { source, target, id, departure: Value::Null, arrival: Value::Null, writes: 0 }
    }

    pub fn departure(&self, below: &str) -> String {
        format!("/v1/organizations/{}/departure{below}", self.id)
    }

    pub fn arrival(&self, below: &str) -> String {
        format!("/v1/arrivals/{}{below}", self.departure["id"].as_str().unwrap())
    }

    pub fn announced(&self) -> Value {
        let of = |key: &str| self.departure[key].clone();
        json!({"organization_id": of("organization_id"), "slug": of("slug"), "external_id": of("external_id"),
               "hosts": of("hosts"), "from": of("from"), "key": of("key")})
    }

    pub fn archive(&self) -> Vec<u8> {
        let fetched = self.source.get(&self.departure("/archive"));
        assert_eq!(fetched.status, 200, "{}", fetched.text());
        fetched.body
    }

    pub fn content(&self) -> String {
        self.arrival(&format!("/content?sha256={}", self.departure["archive_sha256"].as_str().unwrap()))
    }

    /// The first so many of them.
    pub fn steps(&mut self, count: usize) {
        (0..count).for_each(|step| self.step(step));
    }

    /// One of the steps, as the command line takes them.
    pub fn step(&mut self, step: usize) {
        match step {
            0 => {
                let body = json!({"to": self.target.deployment.url()});
                self.departure = self.source.done("PUT", &self.departure(""), &body);
            }
            1 => self.arrival = self.target.done("PUT", &self.arrival(""), &self.announced()),
            2 => {
                let body =
                    json!({"recipient": self.arrival["recipient"], "waiver_sha256": self.arrival["waiver_sha256"]});
                self.departure = self.source.done("PUT", &self.departure("/archive"), &body);
            }
            3 => {
                let answer = self.target.upload(&self.content(), &self.archive());
                assert_eq!(answer.status, 200, "{}", answer.text());
                self.arrival = answer.json();
            }
            4 => {
                let body = json!({"archive_sha256": self.arrival["archive_sha256"], "audit": self.arrival["audit"]});
                self.departure = self.source.done("PUT", &self.departure("/completion"), &body);
            }
            _ => {
                let body = json!({"proof": self.departure["proof"]});
                self.arrival = self.target.done("PUT", &self.arrival("/activation"), &body);
            }
        }
    }

    /// Tries to write on both sides: (source, target).
    pub fn writers(&mut self) -> (bool, bool) {
        self.writes += 1;
        let name = format!("writer-{}", self.writes);
        let both = (self.source.writes(&self.id, &name), self.target.writes(&self.id, &name));
        assert_ne!(both, (true, true), "both take writes");
        both
    }
}

#[test]
fn wherever_a_side_is_killed_one_takes_writes_or_none_and_it_goes_on() {
    let mut carried = Carried::new();
    assert_eq!(carried.writers(), (true, false));
    for step in 0..STEPS {
        carried.step(step);
        let expected = match step {
            0 | 1 => (true, false),
            2..=4 => (false, false),
            _ => (false, true),
        };
        assert_eq!(carried.writers(), expected, "after step {step}");
        carried.source.crash();
        assert_eq!(carried.writers(), expected, "after step {step}, the source killed");
        carried.target.crash();
        assert_eq!(carried.writers(), expected, "after step {step}, the target killed");
        // The same step again is harmless, but for one that has been overtaken: an archive is made once.
        carried.step(step);
        assert_eq!(carried.writers(), expected, "step {step} taken again");
    }
    // Every earlier step, replayed.
    let proof = carried.departure["proof"].clone();
    for step in [0, 1, 4, 5] {
        carried.step(step);
        assert_eq!(carried.writers(), (false, true), "step {step} replayed");
    }
    assert_eq!(carried.departure["proof"], proof);
    // It is called off no more.
    let refused = carried.source.call("DELETE", &carried.departure(""), &json!({}));
    assert_eq!((refused.status, refused.json()["code"].as_str()), (409, Some("transfer_state")));
    let refused = carried.target.call("DELETE", &carried.arrival(""), &json!({}));
    assert_eq!((refused.status, refused.json()["code"].as_str()), (409, Some("transfer_state")));

    // Whoever asks the source is told where it is.
    let path = format!("/v1/organizations/{}", carried.id);
    let moved = carried.source.get(&path);
    assert_eq!((moved.status, moved.json()["code"].as_str()), (421, Some("organization_moved")));
    assert!(moved.text().contains(&carried.target.deployment.url()), "{}", moved.text());
    let page = Person::at(&carried.source.server, &host_of("acme")).get("/sign-in").unwrap();
    assert_eq!(page.status, 421, "{}", page.text());
    // People sign in where it is, with the password that they had; the log is whole and goes on.
    let mut owner = Person::at(&carried.target.server, &host_of("acme"));
    owner.sign_in(&owner_of("acme")).unwrap();
    let verified = carried.target.get(&format!("{path}/audit_events/verification")).json();
    assert_eq!(verified["intact"], true, "{verified}");
    let events = carried.target.get(&format!("{path}/audit_events?limit=100")).text();
    for action in ["organization.departing", "organization.imported", "organization.activated"] {
        assert!(events.contains(action), "{action}");
    }
    let (there, here) =
        (carried.source.get("/v1/audit_events?limit=100"), carried.target.get("/v1/audit_events?limit=100"));
    assert!(there.text().contains("organization.departed") && here.text().contains("organization.activated"));
    // What is left is erased like any other.
    let erased = carried.source.call("PUT", &format!("{path}/erasure"), &json!({"immediately": true}));
    assert_eq!(erased.status, 202, "{}", erased.text());
}

#[test]
fn what_does_not_belong_to_the_transfer_is_refused() {
    let mut carried = Carried::new();
    for step in 0..3 {
        carried.step(step);
    }
    let refusal = |answer: Answer| (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned());
    let is = |status: u16, code: &str| (status, code.to_owned());
    // Another transfer of the same organization, on either side.
    let body = json!({"to": "https://elsewhere.example.com"});
    assert_eq!(refusal(carried.source.call("PUT", &carried.departure(""), &body)), is(409, "transfer_conflict"));
    let second = "/v1/arrivals/transfer_01hj0000000000000000000000";
    assert_eq!(refusal(carried.target.call("PUT", second, &carried.announced())), is(409, "transfer_conflict"));
    // An archive that was changed on the way.
    let archive = carried.archive();
    let mut changed = archive.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    assert_eq!(refusal(carried.target.upload(&carried.content(), &changed)), is(409, "transfer_mismatch"));
    // One that lies about its digest, and is taken apart all the same.
    let digest = hex::encode(bulkhead::crypto::hash::sha256(&changed));
    let lying = carried.target.upload(&carried.arrival(&format!("/content?sha256={digest}")), &changed);
    assert_eq!(lying.status, 422, "{}", lying.text());
    assert_eq!(carried.target.get(&carried.arrival("")).json()["state"], "prepared");
    // Nothing is complete before it has arrived as it was sent.
    assert_eq!(carried.departure["audit"], Value::Null, "only what has arrived says how its log ends");
    let wrong = json!({"archive_sha256": digest, "audit": {"sequence": 7, "hash": digest}});
    assert_eq!(
        refusal(carried.source.call("PUT", &carried.departure("/completion"), &wrong)),
        is(409, "transfer_mismatch")
    );
    carried.step(3);
    // Nothing but the proof of this transfer activates it: not one of another deployment, not a token.
    let certificate = {
        let frozen = Side::new();
        frozen.operator().organization("other");
        let path = "/v1/organizations/other/freeze";
        frozen.done("PUT", path, &json!({"reason": "r"}))["certificate"].as_str().unwrap().to_owned()
    };
    for proof in ["nonsense", "", certificate.as_str()] {
        let answer = carried.target.call("PUT", &carried.arrival("/activation"), &json!({"proof": proof}));
        assert_eq!(refusal(answer), is(422, "transfer_proof_invalid"));
    }
    assert_eq!(carried.writers(), (false, false));
    carried.step(4);
    let proof = carried.departure["proof"].as_str().unwrap().to_owned();
    for at in (0..proof.len() - 1).step_by(7) {
        let mut text = proof.clone().into_bytes();
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
        let body = json!({"proof": String::from_utf8(text).unwrap()});
        assert_eq!(carried.target.call("PUT", &carried.arrival("/activation"), &body).status, 422, "changed at {at}");
    }
    assert_eq!(carried.writers(), (false, false));
    carried.step(5);
    assert_eq!(carried.writers(), (false, true));
}

#[test]
fn one_that_is_called_off_stays_and_its_arrival_is_never_served() {
    let mut carried = Carried::new();
    for step in 0..4 {
        carried.step(step);
    }
    assert_eq!(carried.writers(), (false, false));
    let cancelled = carried.source.call("DELETE", &carried.departure(""), &json!({}));
    assert_eq!(cancelled.status, 204, "{}", cancelled.text());
    for _ in 0..2 {
        assert_eq!(carried.writers(), (true, false));
        let body = json!({"archive_sha256": carried.arrival["archive_sha256"], "audit": carried.arrival["audit"]});
        let refused = carried.source.call("PUT", &carried.departure("/completion"), &body);
        assert_eq!(refused.status, 404, "{}", refused.text());
        carried.source.crash();
        carried.target.crash();
    }
    let thrown_away = carried.target.call("DELETE", &carried.arrival("?give_up=true"), &json!({}));
    assert_eq!(thrown_away.status, 200, "{}", thrown_away.text());
    carried.target.crash();
    assert_eq!(carried.writers(), (true, false));
    assert!(!carried.target.deployment.place(&carried.id).exists(), "something of it is still there");
    assert_eq!(Operator::problems(&carried.target.deployment), Vec::new());
    // And once more, from the beginning.
    for step in 0..STEPS {
        carried.step(step);
        carried.writers();
    }
    assert_eq!(carried.writers(), (false, true));
}

/// A catalog out of a backup does not know what has happened since. The file does.
#[test]
fn a_catalog_of_before_brings_back_nothing_that_has_left() {
    let mut carried = Carried::new();
    for step in 0..4 {
        carried.step(step);
    }
    let catalog = carried.source.deployment.data_dir().join("catalog.sqlite");
    let old = carried.source.deployment.directory.path().join("catalog-of-before.sqlite");
    carried.source.while_stopped(|_| assert!(fs::copy(&catalog, &old).unwrap() > 0));
    carried.step(4);
    carried.step(5);
    assert_eq!(carried.writers(), (false, true));
    carried.source.while_stopped(|_| {
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", catalog.display()));
        }
        fs::copy(&old, &catalog).unwrap();
    });
    assert_eq!(carried.writers(), (false, true));
    let refused = carried.source.call("DELETE", &carried.departure(""), &json!({}));
    assert_eq!((refused.status, refused.json()["code"].as_str()), (409, Some("transfer_state")), "{}", refused.text());
    assert_eq!(carried.writers(), (false, true));
    // Nothing of it is left half done by the refusal.
    assert_eq!(carried.source.get(&carried.departure("")).json()["state"], "leaving");
    carried.source.crash();
    assert_eq!(carried.writers(), (false, true));
}

/// One from before the departure was thought of. Nothing that writes into the file may take its last word.
#[test]
fn a_catalog_from_before_everything_does_not_bring_it_back_by_another_way() {
    let mut carried = Carried::new();
    let catalog = carried.source.deployment.data_dir().join("catalog.sqlite");
    let old = carried.source.deployment.directory.path().join("catalog-of-before.sqlite");
    carried.source.while_stopped(|_| assert!(fs::copy(&catalog, &old).unwrap() > 0));
    carried.steps(STEPS);
    let recipient = carried.arrival["recipient"].clone();
    let ways = [
        ("PUT", "freeze", json!({"reason": "r"})),
        ("DELETE", "freeze", json!({})),
        ("PUT", "departure", json!({"to": "https://elsewhere.example.com"})),
        ("DELETE", "departure", json!({})),
        ("PUT", "departure/archive", json!({"recipient": recipient, "waiver_sha256": "0".repeat(64)})),
        ("PUT", "departure/return", json!({"waiver": "x"})),
        ("POST", "restorations", json!({})),
        ("POST", "compaction", json!({})),
    ];
    for (method, path, body) in ways {
        // Each on its own, before anybody has opened the file.
        carried.source.while_stopped(|_| {
            for suffix in ["-wal", "-shm"] {
                let _ = fs::remove_file(format!("{}{suffix}", catalog.display()));
            }
            fs::copy(&old, &catalog).unwrap();
        });
        for _ in 0..2 {
            let answer = carried.source.call(method, &format!("/v1/organizations/{}/{path}", carried.id), &body);
            assert!((400..500).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
        }
        assert_eq!(carried.writers(), (false, true), "{method} {path}");
        carried.source.crash();
        assert_eq!(carried.writers(), (false, true), "{method} {path}");
    }
}

#[test]
fn the_command_line_pushes_and_pulls_and_refuses_what_is_not_free() {
    let (source, target) = (Side::new(), Side::new());
    let id = source.operator().organization("acme");
    let other = source.operator().organization("other");
    let hosted = source.call("PUT", &format!("/v1/organizations/{id}/hosts/login.acme.test"), &json!({}));
    assert_eq!(hosted.status, 204);
    let (url, file) = (target.deployment.url(), target.key_file.display().to_string());
    let push = |org: &str, more: &[&str]| {
        source.deployment.run(&[&["org", "push", org, "--to", &url, "--to-key-file", &file], more].concat())
    };
    // The slug is another's there: nothing has happened.
    target.operator().organization("other");
    let refused = push("other", &[]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("slug"), "{refused:?}");
    assert!(source.writes(&other, "before"));
    let dry = push("acme", &["--dry-run"]);
    assert!(dry.status.success(), "{dry:?}");
    assert!(source.writes(&id, "before"));

    let pushed = push("acme", &[]);
    assert!(pushed.status.success(), "{pushed:?}");
    assert!(!source.writes(&id, "after") && target.writes(&id, "after"));
    let again = push("acme", &[]);
    assert!(again.status.success(), "{again:?}");
    let there = target.get(&format!("/v1/organizations/{id}")).json();
    assert_eq!((&there["slug"], &there["hosts"]), (&json!("acme"), &json!(["login.acme.test"])), "{there}");

    // The other way round: started where it comes to.
    let third = Side::new();
    let (from, key) = (target.deployment.url(), target.key_file.display().to_string());
    let pull = |org: &str, more: &[&str]| {
        third
            .deployment
            .run(&[&["--json", "org", "pull", org, "--from", &from, "--from-key-file", &key], more].concat())
    };
    // Both sides are asked, and nothing is different afterwards on either.
    third.operator().organization("other");
    let refused = pull("other", &["--dry-run"]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("slug_taken"),
        "{refused:?}"
    );
    let dry = pull("acme", &["--dry-run"]);
    let plan: Value = serde_json::from_slice(&dry.stdout).unwrap_or_else(|_| panic!("{dry:?}"));
    assert_eq!((dry.status.code(), &plan["dry_run"], &plan["organization_id"]), (Some(0), &json!(true), &json!(id)));
    for org in ["acme", "other"] {
        assert_eq!(target.get(&format!("/v1/organizations/{org}/departure")).status, 404);
    }
    assert_eq!(third.get(&format!("/v1/organizations/{id}")).status, 404);
    assert!(target.writes(&id, "still"));

    let pulled = pull("acme", &[]);
    assert!(pulled.status.success(), "{pulled:?}");
    assert!(!target.writes(&id, "last") && third.writes(&id, "last"));
}

//! Transfers of which one side has lost something: its catalog, a file, or the time since a backup.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};

use crate::backup::{deployment, shipped};
use crate::erasure_copies::files_below;
use crate::process::{HOST, Operator};
use crate::transfer::{Carried, Side};
use crate::transfer_ends::refusal;

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// Nobody knows of the transfer but the two files.
#[test]
fn both_catalogs_lost_on_the_way_let_no_writer_in_and_it_can_be_called_off() {
    let mut carried = Carried::new();
    carried.steps(4);
    for side in [&mut carried.source, &mut carried.target] {
        let rebuilt = side.lose_catalog();
        let on_its_way = &rebuilt["on_their_way"][0];
        assert_eq!(on_its_way["transfer_id"], carried.departure["id"], "{rebuilt:#}");
        assert_eq!(on_its_way["organization_id"], carried.id.as_str(), "{rebuilt:#}");
    }
    assert_eq!(carried.writers(), (false, false));
    assert_eq!(carried.source.get(&carried.departure("")).json()["state"], "leaving");
    assert_eq!(carried.target.get(&carried.arrival("")).json()["state"], "arrived");
    // Neither a freeze nor an erasure comes in between.
    for path in ["freeze", "erasure"] {
        let path = format!("/v1/organizations/{}/{path}", carried.id);
        let refused = carried.source.call("PUT", &path, &json!({"reason": "r", "immediately": true}));
        assert!(matches!(refused.status, 409 | 422 | 503), "{}", refused.text());
    }
    let cancelled = carried.source.call("DELETE", &carried.departure(""), &json!({}));
    assert_eq!(cancelled.status, 204, "{}", cancelled.text());
    assert_eq!(
        refusal(&carried.target.call("DELETE", &carried.arrival(""), &json!({}))),
        is(409, "transfer_unsettled")
    );
    carried.give_up();
    assert!(!carried.target.deployment.place(&carried.id).exists());
    for _ in 0..2 {
        assert_eq!(carried.writers(), (true, false));
        carried.source.crash();
        carried.target.crash();
    }
    assert_eq!(Operator::problems(&carried.target.deployment), Vec::new());
}

#[test]
fn an_arrival_outlives_the_catalog_and_is_activated() {
    let mut carried = Carried::new();
    carried.steps(5);
    // It waits for its proof, and nothing is wrong with that.
    assert_eq!(Operator::problems(&carried.target.deployment), Vec::new());
    carried.target.lose_catalog();
    let found = carried.target.get(&carried.arrival("")).json();
    for key in
        ["id", "organization_id", "slug", "state", "from", "recipient", "archive_sha256", "audit", "waiver_sha256"]
    {
        assert_eq!(found[key], carried.arrival[key], "{key}: {found}");
    }
    assert_eq!(carried.writers(), (false, false));
    assert_eq!(carried.target.get(&format!("/v1/organizations/{}", carried.id)).status, 404);
    // A proof of its own, and no other.
    let forged = carried.target.call("PUT", &carried.arrival("/activation"), &json!({"proof": "x.y.z"}));
    assert_eq!(refusal(&forged), is(422, "transfer_proof_invalid"));
    carried.target.crash();
    carried.step(5);
    assert_eq!(carried.writers(), (false, true));
    // Once more, when it is served: it stays so.
    carried.target.lose_catalog();
    assert_eq!(carried.writers(), (false, true));
    assert_eq!(carried.target.get(&carried.arrival("")).status, 404);
}

#[test]
fn an_arrival_outlives_both_catalogs_and_is_given_back() {
    let mut carried = Carried::new();
    carried.steps(5);
    carried.target.lose_catalog();
    let waiver = carried.give_up();
    assert!(!carried.target.deployment.place(&carried.id).exists());
    // What has left stays gone, and says where it went.
    carried.source.lose_catalog();
    assert_eq!(carried.writers(), (false, false));
    let moved = carried.source.get(&format!("/v1/organizations/{}", carried.id));
    assert_eq!(refusal(&moved), is(421, "organization_moved"));
    assert!(moved.text().contains(&carried.target.deployment.url()), "{}", moved.text());
    assert_eq!(refusal(&carried.take_back("nonsense")), is(422, "transfer_waiver_invalid"));
    assert_eq!(carried.take_back(&waiver).status, 204);
    for _ in 0..2 {
        assert_eq!(carried.writers(), (true, false));
        carried.source.crash();
        carried.target.crash();
    }
}

/// An old catalog knows of the departure, and not that it was called off and the organization frozen.
#[test]
fn what_was_frozen_since_stays_frozen_when_a_departure_of_before_is_called_off() {
    let mut source = Side::new();
    let id = source.operator().organization("acme");
    let at = |below: &str| format!("/v1/organizations/{id}/{below}");
    source.done("PUT", &at("departure"), &json!({"to": "https://elsewhere.example.com"}));
    let catalog = source.deployment.data_dir().join("catalog.sqlite");
    let old = source.deployment.directory.path().join("catalog-of-before.sqlite");
    source.while_stopped(|_| assert!(fs::copy(&catalog, &old).unwrap() > 0));
    assert_eq!(source.call("DELETE", &at("departure"), &json!({})).status, 204);
    source.done("PUT", &at("freeze"), &json!({"reason": "case 4711"}));
    source.while_stopped(|_| {
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", catalog.display()));
        }
        fs::copy(&old, &catalog).unwrap();
    });
    let write = |source: &Side, name: &str| {
        let answer = source.call("POST", &at("members"), &json!({"email": format!("{name}@acme.test")}));
        (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(write(&source, "first"), is(409, "organization_frozen"));
    let called_off = source.call("DELETE", &at("departure"), &json!({}));
    assert_eq!(called_off.status, 204, "{}", called_off.text());
    assert_eq!(source.get(&at("departure")).status, 404);
    assert_eq!(write(&source, "second"), is(409, "organization_frozen"));
    source.crash();
    assert_eq!(write(&source, "third"), is(409, "organization_frozen"));
    let released = source.call("DELETE", &at("freeze"), &json!({}));
    assert_eq!(released.status, 204, "{}", released.text());
    assert_eq!(write(&source, "fourth").0, 201);
}

/// An old catalog of the target says that it waits still. Its file knows that it is served.
#[test]
fn an_old_catalog_of_the_target_throws_nothing_away_that_is_served() {
    let mut carried = Carried::new();
    carried.steps(5);
    let catalog = carried.target.deployment.data_dir().join("catalog.sqlite");
    let old = carried.target.deployment.directory.path().join("catalog-of-before.sqlite");
    carried.target.while_stopped(|_| assert!(fs::copy(&catalog, &old).unwrap() > 0));
    carried.step(5);
    assert_eq!(carried.writers(), (false, true));
    carried.target.while_stopped(|_| {
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", catalog.display()));
        }
        fs::copy(&old, &catalog).unwrap();
    });
    assert_eq!(carried.target.get(&carried.arrival("")).json()["state"], "arrived");
    let refused = carried.target.call("DELETE", &carried.arrival("?give_up=true"), &json!({}));
    assert_eq!(refusal(&refused), is(409, "transfer_state"), "{}", refused.text());
    assert_eq!(carried.writers(), (false, false));
    // The proof wins.
    carried.step(5);
    assert_eq!(carried.writers(), (false, true));
}

/// `org recover` puts a file in place from the backup: not that of an organization that has left.
#[test]
fn what_has_moved_away_is_not_recovered() {
    let mut carried = Carried::between(Side::of(deployment().0), Side::new());
    shipped(&mut carried.source.operator());
    let path = format!("/v1/organizations/{}", carried.id);
    let before = carried.source.get(&format!("{path}/backup")).json()["newest"]["txid"].clone();
    let catalog = carried.source.deployment.data_dir().join("catalog.sqlite");
    let old = carried.source.deployment.directory.path().join("catalog-of-before.sqlite");
    // What a backup has not read stays in the WAL.
    let of_both = |path: &std::path::Path| ["", "-wal"].map(|suffix| format!("{}{suffix}", path.display()));
    carried.source.while_stopped(|_| {
        for (now, kept) in of_both(&catalog).iter().zip(of_both(&old)) {
            fs::copy(now, kept).unwrap();
        }
    });
    carried.steps(6);
    shipped(&mut carried.source.operator());
    let id = carried.id.clone();
    carried.source.while_stopped(|deployment| fs::remove_file(deployment.file(&id)).unwrap());
    let recover = |carried: &Carried, body: &Value| {
        carried.source.call("POST", &format!("/v1/organizations/{}/recovery", carried.id), body)
    };
    for body in [json!({}), json!({ "txid": before })] {
        assert_eq!(refusal(&recover(&carried, &body)), is(421, "organization_moved"));
        assert!(!carried.source.deployment.file(&carried.id).exists());
    }
    // Nor by a catalog from before it left: the backup knows better.
    carried.source.while_stopped(|_| {
        let _ = fs::remove_file(format!("{}-shm", catalog.display()));
        for (now, kept) in of_both(&catalog).iter().zip(of_both(&old)) {
            fs::copy(kept, now).unwrap();
        }
    });
    // A rehearsal says the same as the act.
    for body in [json!({}), json!({ "txid": before })].into_iter().flat_map(|body| {
        let mut rehearsal = body.clone();
        rehearsal["dry_run"] = true.into();
        [rehearsal, body]
    }) {
        assert_eq!(refusal(&recover(&carried, &body)), is(421, "organization_moved"), "{body}");
        assert!(!carried.source.deployment.file(&carried.id).exists());
    }
    assert_eq!(carried.writers(), (false, true));
}

/// A port that leads to a server, on which the answer to whatever a connection asks for first is lost if it begins so.
fn losing(begins: &'static [u8], port: u16) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let own = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            thread::spawn(move || pass(near, port, begins));
        }
    });
    own
}

fn pass(mut near: TcpStream, port: u16, lost: &[u8]) -> io::Result<()> {
    let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let mut first = vec![0; 64 << 10];
    let count = near.read(&mut first)?;
    far.write_all(&first[..count])?;
    let (mut from, mut to) = (near.try_clone()?, far.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    if first.starts_with(lost) {
        // What was asked for is done.
        far.read_exact(&mut [0])?;
    } else {
        io::copy(&mut far, &mut near)?;
    }
    far.shutdown(Shutdown::Both)?;
    near.shutdown(Shutdown::Both)
}

/// Its arrival would be in the way of every later one.
#[test]
fn an_answer_that_is_lost_keeps_nobody_from_moving_it_later() {
    let mut carried = Carried::new();
    let direct = carried.target.deployment.url();
    let lossy = format!("http://{HOST}:{}", losing(b"PUT /v1/arrivals/", carried.target.server.port));
    let file = carried.target.key_file.display().to_string();
    let push = |carried: &Carried, to: &str, more: &[&str]| {
        let command = ["--json", "org", "push", "acme", "--to", to, "--to-key-file", &file];
        carried.source.deployment.run(&[&command, more].concat())
    };
    for more in [&["--dry-run"][..], &[]] {
        let failed = push(&carried, &lossy, more);
        assert!(!failed.status.success(), "{failed:?}");
        assert_eq!(refusal(&carried.source.get(&carried.departure(""))), is(404, "transfer_not_found"), "{failed:?}");
        let prepared = carried.target.get("/v1/audit_events?limit=100").text();
        assert!(prepared.contains("organization.arrival_prepared"), "it never got there: {failed:?}");
        assert_eq!(carried.writers(), (true, false));
        let done = push(&carried, &direct, more);
        assert!(done.status.success(), "{more:?}: {done:?}");
    }
    assert_eq!(carried.writers(), (false, true));
}

#[test]
fn a_rehearsal_leaves_alone_what_is_agreed_upon_already() {
    let mut carried = Carried::new();
    carried.steps(2);
    let (url, file) = (carried.target.deployment.url(), carried.target.key_file.display().to_string());
    let command = ["--json", "org", "push", "acme", "--to", &url, "--to-key-file", &file, "--dry-run"];
    let refused = carried.source.deployment.run(&command);
    let said = format!("{}{}", String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert!(!refused.status.success() && said.contains("transfer_state"), "{said}");
    assert_eq!(carried.source.get(&carried.departure("")).json()["id"], carried.departure["id"]);
    for state in
        [carried.source.get(&carried.departure("")), carried.target.get(&carried.arrival(""))].map(|now| now.json())
    {
        assert_eq!(state["state"], "prepared", "{state}");
    }
}

/// What lies between a file and its archive has the rows as they are, also of a file that is ciphertext.
#[test]
fn nothing_of_an_archive_that_was_being_made_stays() {
    let mut carried = Carried::new();
    carried.steps(3);
    let folder = carried.source.deployment.data_dir().join("exports");
    let named = |carried: &Carried, kind: &str| {
        let id = carried.departure["id"].as_str().unwrap();
        folder.join(format!(".transfers/{id}.{kind}"))
    };
    // As it is when the process ends in the middle.
    let plant = |carried: &Carried| {
        fs::create_dir(named(carried, "work")).unwrap();
        fs::write(named(carried, "work").join("organization.sqlite"), "rows").unwrap();
    };
    assert_eq!(files_below(&folder), [named(&carried, "zst")]);
    plant(&carried);
    carried.source.crash();
    assert_eq!(files_below(&folder), [named(&carried, "zst")]);
    plant(&carried);
    let cancelled = carried.source.call("DELETE", &carried.departure(""), &json!({}));
    assert_eq!(cancelled.status, 204, "{}", cancelled.text());
    assert_eq!(files_below(&folder), Vec::<std::path::PathBuf>::new());
    let cleared = carried.target.call("DELETE", &carried.arrival(""), &json!({}));
    assert_eq!(cleared.status, 200, "{}", cleared.text());
    // Nor of one that was completed.
    carried.steps(5);
    assert_eq!(files_below(&folder), Vec::<std::path::PathBuf>::new());
    assert_eq!(files_below(&carried.target.deployment.data_dir().join("imports")), Vec::<std::path::PathBuf>::new());
}

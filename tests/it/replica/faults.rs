//! What goes wrong: writers that are killed, stores that are down or refuse, files that are damaged, two owners.
#![allow(clippy::cast_possible_truncation, reason = "tests count in small numbers")]

use super::check;
use super::support::*;
use crate::process::patience;
use crate::wire::PATIENCE;
use bulkhead::ltx::Txid;
use bulkhead::replica::{Error, Rules, Settings, Store, Target, compact, restore, retain};
use chrono::{Duration as Span, Utc};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Far more than is written in a moment.
const CONTENT: usize = 200 << 20;

/// The child of the next test.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_killed() {
    let Ok(root) = std::env::var("REPLICA_TEST_ROOT") else { return };
    let mut source = Source::new(4096, Utc::now());
    source.write();
    let mut content = source.snapshot(1);
    content.resize(CONTENT, 7);
    let store = Store::connect(&format!("file://{root}").parse().unwrap(), &Settings::default()).unwrap();
    let _ = store.replica(PATH).unwrap().put(9, name(1, 1), content, source.time(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_leaves_no_visible_file() {
    let site = Site::folder();
    let replica = site.replica();
    let bulkhead::replica::Location::Folder(root) = &site.location else { panic!() };
    let deadline = patience();
    let mut killed = 0;
    while killed < 3 {
        assert!(Instant::now() < deadline, "killed {killed} times only");
        let before = files_below(root).iter().filter(|path| path.is_file()).count();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "replica::faults::child_that_is_killed"])
            .env("REPLICA_TEST_ROOT", root)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while files_below(root).iter().filter(|path| path.is_file()).count() == before {
            assert!(Instant::now() < deadline, "it does not begin");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let there = replica.list_all().await.unwrap();
        // Whoever was done before is no use.
        assert!(there.iter().all(|item| item.size == CONTENT as u64), "{there:?}");
        replica.delete(&there).await.unwrap();
        killed += usize::from(there.is_empty());
    }
    let left = files_below(root).iter().filter(|path| path.is_file()).count();
    assert_eq!(left, 3, "half-written files under names that nobody reads");
    let mut source = Source::new(4096, Utc::now() - Span::hours(1));
    source.write();
    source.ship_snapshot(&replica, 1).await;
    check(&site, &source, Target::Latest, 1, true).await;
    retain(&replica, Rules::default(), Utc::now() + Span::days(2)).await.unwrap();
    assert_eq!(files_below(root).iter().filter(|path| path.is_file()).count(), 1, "the sweep");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_is_unreachable_within_the_timeout() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let source = {
        let mut source = Source::new(4096, Utc::now());
        source.write();
        source
    };
    for address in [silent.local_addr().unwrap(), closed] {
        let settings = Settings {
            endpoint: Some(format!("http://{address}")),
            access_key_id: Some("id".into()),
            secret_access_key: Some("secret".into()),
            force_path_style: true,
            allow_http: true,
            timeout: Duration::from_secs(2),
            ..Settings::default()
        };
        let store = Store::connect(&"s3://backups/x".parse().unwrap(), &settings).unwrap();
        let replica = store.replica(PATH).unwrap();
        let begin = Instant::now();
        let errors = [
            store.check().await.unwrap_err(),
            replica.list(0).await.unwrap_err(),
            replica.put(0, name(1, 1), source.increment(1), source.time(1)).await.unwrap_err(),
            replica.position().await.unwrap_err(),
            replica.destroy().await.unwrap_err(),
        ];
        assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
        for error in errors {
            assert!(matches!(error, Error::Unreachable { .. }) && error.is_retryable(), "{error}");
        }
    }
    let settings = Settings { endpoint: Some("http://127.0.0.1:1".into()), ..Settings::default() };
    let plain = Store::connect(&"s3://backups/x".parse().unwrap(), &settings).unwrap_err();
    assert!(plain.to_string().contains("allow_http"), "{plain}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_buckets_are_refused() {
    // The first call, which makes the bucket, is let through.
    let site = Site::moto_with(&[("INITIAL_NO_AUTH_ACTION_COUNT", "1")]);
    let mut source = Source::new(4096, Utc::now());
    source.write();
    let replica = site.replica();
    let error = replica.put(0, name(1, 1), source.increment(1), source.time(1)).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && !error.is_retryable(), "{error}");
    assert!(!format!("{error:?}").contains("secret\""), "{error:?}");

    let site = Site::moto();
    let store = Store::connect(&"s3://nobody-made-this/x".parse().unwrap(), &site.settings).unwrap();
    let error = store.replica(PATH).unwrap().put(0, name(1, 1), source.increment(1), source.time(1)).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_a_lost_one_and_never_a_wrong_database() {
    let site = Site::folder();
    let replica = site.replica();
    let scratch = site.directory.path();
    let mut source = Source::new(1024, Utc::now());
    let mut items = vec![];
    for txid in 1..=9 {
        source.write();
        items.push(source.ship(&replica, txid).await);
    }
    let whole = replica.get(&items[4]).await.unwrap();
    let spoil = async |item: &bulkhead::replica::Item, bytes: Vec<u8>| {
        replica.delete(std::slice::from_ref(item)).await.unwrap();
        replica.put(item.level, item.name, bytes, item.created_at).await.unwrap();
    };
    let mut wrong = whole.to_vec();
    wrong[whole.len() / 2] ^= 4;
    spoil(&items[4], wrong.clone()).await;
    // Nothing else has it: points before it can be had, those from it on are refused.
    check(&site, &source, Target::Txid(Txid(4)), 4, false).await;
    for target in [Target::Txid(Txid(5)), Target::Txid(Txid(7)), Target::Latest] {
        let error = restore(&replica, target, &site.out("x.db")).await.unwrap_err();
        assert!(matches!(&error, Error::Damaged { .. }), "{target:?}: {error}");
    }
    // A merge takes what comes before it, then what comes behind it.
    let first = compact(&replica, 1, scratch).await.unwrap();
    assert_eq!(first.item.unwrap().name, name(1, 4));
    assert_eq!(first.damaged.iter().map(|(item, _)| item.name).collect::<Vec<_>>(), [name(5, 5)]);
    assert_eq!(compact(&replica, 1, scratch).await.unwrap().item.unwrap().name, name(6, 9));
    // A whole one makes up for it from there on.
    source.ship_snapshot(&replica, 9).await;
    check(&site, &source, Target::Latest, 9, false).await;
    // Where a merge has the same, the damaged one is not needed.
    spoil(&items[4], whole.to_vec()).await;
    let merged = source.increment(3);
    spoil(&items[2], merged[..merged.len() - 9].to_vec()).await;
    check(&site, &source, Target::Txid(Txid(4)), 4, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_has_one_owner() {
    for site in [Site::folder(), Site::moto()] {
        let owner = |epoch, claim: &str| bulkhead::replica::Owner {
            right: bulkhead::replica::Claim { epoch, claim: claim.to_owned() },
            deployment: format!("https://{claim}.example.com"),
            since: Utc::now(),
        };
        let store = &site.store;
        assert_eq!(store.owner().await.unwrap(), None);
        let ours = owner(1, "ours");
        assert_eq!(store.take(&ours).await.unwrap().right, ours.right);
        // Again, after an answer that was lost; and somebody else.
        assert_eq!(store.take(&ours).await.unwrap().right, ours.right);
        assert_eq!(store.take(&owner(1, "theirs")).await.unwrap().right, ours.right);
        assert_eq!(store.successor(&ours.right).await.unwrap(), None);
        let theirs = owner(2, "theirs");
        assert_eq!(store.take(&theirs).await.unwrap().right, theirs.right);
        assert_eq!(store.successor(&ours.right).await.unwrap().unwrap().right, theirs.right);
        assert_eq!(store.owner().await.unwrap().unwrap().right, theirs.right);
        assert_eq!(store.successor(&theirs.right).await.unwrap(), None);
    }
}

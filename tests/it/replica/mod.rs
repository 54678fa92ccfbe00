//! Replicas in a folder and in real S3 servers, compared with the database and with the real litestream.
#![allow(clippy::cast_possible_truncation, reason = "tests count in small numbers")]

pub mod support;

use bulkhead::ltx::Txid;
use bulkhead::replica::{
    Body, Error, PlanError, Replica, Rules, Settings, Store, Target, compact, history, restore, retain,
};
use chrono::{Duration as Span, Utc};
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::*;

/// Ours equals the source and, if asked, litestream's equals ours.
async fn check(site: &Site, source: &Source, target: Target, txid: u64, litestream: bool) {
    let out = site.out("ours.db");
    let restored = restore(&site.replica(), target, &out).await.unwrap_or_else(|error| panic!("{target:?}: {error}"));
    assert_eq!((restored.txid, restored.timestamp), (Txid(txid), source.time(txid)), "{target:?}");
    let ours = std::fs::read(&out).unwrap();
    assert_eq!(u64::from(restored.page_size) * u64::from(restored.pages), ours.len() as u64);
    assert!(ours == source.images[txid as usize], "{target:?} differs from the source");
    if litestream {
        let theirs = site.litestream(target).unwrap_or_else(|error| panic!("litestream {target:?}: {error}"));
        assert!(theirs == ours, "{target:?} differs from litestream's");
    }
}

/// Every end of a file from the oldest snapshot on; some of them by litestream too, and by time.
async fn check_promised(site: &Site, source: &mut Source) {
    let items = site.replica().list_all().await.unwrap();
    let floor = items.iter().filter(|item| item.level == 9).map(|item| item.name.max.0).min().unwrap_or(0);
    let points: BTreeSet<u64> = items.iter().map(|item| item.name.max.0).filter(|max| *max >= floor).collect();
    for &txid in &points {
        let sample = source.random(6) == 0;
        check(site, source, Target::Txid(Txid(txid)), txid, sample).await;
        if source.random(3) == 0 || txid == *points.first().unwrap() {
            let time = source.time(txid) + Span::seconds(1);
            // The ends that remain may lie closer together than the files that lead there.
            let out = site.out("time.db");
            let reached = restore(&site.replica(), Target::Time(time), &out).await.unwrap();
            assert!(reached.txid.0 <= txid && reached.txid.0 >= floor);
            check(site, source, Target::Time(time), reached.txid.0, sample).await;
        }
    }
    check(site, source, Target::Latest, source.newest(), true).await;
}

async fn live(site: Site) {
    let replica = site.replica();
    let mut source = Source::new(4096, Utc::now() - Span::hours(3));
    site.store.check().await.unwrap();
    assert_eq!(replica.position().await.unwrap(), None);
    let empty = restore(&replica, Target::Latest, &site.out("x.db")).await.unwrap_err();
    assert!(matches!(empty, Error::Plan(PlanError::Empty)), "{empty}");

    // Create-only.
    source.write();
    let item = source.ship(&replica, 1).await;
    let twice = replica.put(0, name(1, 1), source.increment(1), source.time(1)).await.unwrap_err();
    assert!(matches!(&twice, Error::AlreadyExists { object } if object.contains("0000000000000001-")), "{twice}");
    replica.put_same(0, name(1, 1), source.increment(1), source.time(1)).await.unwrap();
    let mut other = source.increment(1);
    *other.last_mut().unwrap() ^= 1;
    assert!(matches!(replica.put_same(0, name(1, 1), other, source.time(1)).await, Err(Error::AlreadyExists { .. })));
    assert_eq!(replica.get(&item).await.unwrap(), source.increment(1));
    let listed = replica.date(replica.list(0).await.unwrap()).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&item));
    assert!(matches!(
        replica.put(0, name(2, 2), source.increment(1), source.time(1)).await,
        Err(Error::Damaged { .. })
    ));
    let missing = bulkhead::replica::Item { name: name(77, 77), ..item.clone() };
    assert!(matches!(replica.get(&missing).await, Err(Error::NotFound { .. })));

    let scratch = site.directory.path().to_path_buf();
    assert_eq!(compact(&replica, 2, &scratch).await.unwrap().item, None);
    for txid in 2..=44 {
        source.write();
        source.ship(&replica, txid).await;
        if txid % 4 == 0 {
            let merged = compact(&replica, 1, &scratch).await.unwrap().item.unwrap();
            assert_eq!((merged.name.max.0, merged.created_at), (txid, source.time(txid)));
            assert_eq!(compact(&replica, 1, &scratch).await.unwrap().item, None);
        }
        if txid % 12 == 0 {
            compact(&replica, 2, &scratch).await.unwrap().item.unwrap();
        }
        if txid % 24 == 0 {
            compact(&replica, 3, &scratch).await.unwrap().item.unwrap();
        }
        if txid == 10 || txid == 26 || txid == 38 {
            source.ship_snapshot(&replica, txid).await;
        }
        if txid == 9 {
            check_promised(&site, &mut source).await;
        }
    }
    assert_eq!(replica.position().await.unwrap(), Some(Txid(44)));
    check_promised(&site, &mut source).await;

    // Ages: the folder knows when things were committed, the bucket when they were stored.
    let now = Utc::now() + Span::minutes(10);
    let first = retain(&replica, Rules::default(), now).await.unwrap();
    assert_eq!(first.oldest_snapshot, Some(Txid(10)));
    let of = |level| first.deleted.iter().filter(|item| item.level == level).map(|item| item.name).collect::<Vec<_>>();
    // Of what was merged, only what lies below the oldest snapshot; the last of level 3 stays.
    assert_eq!((of(0).len(), of(1), of(2), of(3), of(9)), (43, vec![name(1, 4), name(5, 8)], vec![], vec![], vec![]));
    check_promised(&site, &mut source).await;
    let again = retain(&replica, Rules::default(), now).await.unwrap();
    assert!(again.deleted.is_empty());

    let far = Utc::now() + Span::days(3);
    let second = retain(&replica, Rules { whole_window: false, ..Rules::default() }, far).await.unwrap();
    assert_eq!(second.oldest_snapshot, Some(Txid(38)));
    assert!(!second.deleted.is_empty());
    check_promised(&site, &mut source).await;
    let told = history(&replica).await.unwrap();
    assert_eq!(told.oldest.map(|point| (point.txid, point.created_at)), Some((Txid(38), source.time(38))));
    assert_eq!(told.newest.map(|point| (point.txid, point.created_at)), Some((Txid(44), source.time(44))));
    assert!(told.gaps.is_empty(), "{told:?}");
    assert_eq!(told.snapshots.len(), 1);
    // The last file of level 3 is an island that can still be restored, though nothing promises it.
    let old = restore(&replica, Target::Txid(Txid(20)), &site.out("x.db")).await.unwrap_err();
    assert!(matches!(old, Error::Plan(PlanError::TooOld { txid: Txid(24), .. })), "{old}");
    assert!(site.litestream(Target::Txid(Txid(20))).is_err());

    // Life goes on after it.
    for txid in 45..=48 {
        source.write();
        source.ship(&replica, txid).await;
    }
    compact(&replica, 1, &scratch).await.unwrap().item.unwrap();
    compact(&replica, 2, &scratch).await.unwrap().item.unwrap();
    compact(&replica, 3, &scratch).await.unwrap().item.unwrap();
    check_promised(&site, &mut source).await;

    damaged(&site, &source, &replica).await;
    neighbours(&site, &source, &replica).await;
}

async fn damaged(site: &Site, source: &Source, replica: &Replica) {
    let newest = replica.list(9).await.unwrap().pop().unwrap();
    let whole = replica.get(&newest).await.unwrap();
    let mut flipped = whole.to_vec();
    flipped[whole.len() / 2] ^= 0x10;
    for wrong in [flipped, whole[..whole.len() - 30].to_vec(), whole[..whole.len() / 3].to_vec()] {
        replica.delete(std::slice::from_ref(&newest)).await.unwrap();
        replica.put(9, newest.name, wrong, newest.created_at).await.unwrap();
        let out = site.out("damaged.db");
        match restore(replica, Target::Latest, &out).await {
            // Other files lead to the same end.
            Ok(_) => assert!(std::fs::read(&out).unwrap() == source.images[source.newest() as usize]),
            Err(Error::Damaged { object, .. }) => {
                assert!(object.ends_with(&replica.object(&newest)), "{object}");
                assert!(!out.exists());
            }
            Err(error) => panic!("{error}"),
        }
        assert!(!out.with_added_extension("tmp").exists());
    }
    replica.delete(std::slice::from_ref(&newest)).await.unwrap();
    replica.put(9, newest.name, whole, newest.created_at).await.unwrap();
    check(site, source, Target::Latest, source.newest(), true).await;

    // Never over anything.
    let out = site.out("there.db");
    for there in ["there.db", "there.db-wal", "there.db-journal"] {
        let path = site.directory.path().join(there);
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(restore(replica, Target::Latest, &out).await, Err(Error::Occupied { .. })), "{there}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        std::fs::remove_file(&path).unwrap();
    }
}

async fn neighbours(site: &Site, source: &Source, replica: &Replica) {
    // A path that begins like ours is not ours.
    let other = site.store.replica(&format!("{PATH}-2")).unwrap();
    source.ship(&other, 1).await;
    let there = replica.list_all().await.unwrap();
    let report = replica.destroy().await.unwrap();
    assert_eq!(report.count, there.len());
    assert_eq!(report.bytes, there.iter().map(|item| item.size).sum::<u64>());
    assert!(report.objects.iter().all(|(name, size)| name.contains(".ltx") && *size > 0), "{report:?}");
    assert!(replica.list_all().await.unwrap().is_empty());
    assert_eq!(replica.destroy().await.unwrap().count, 0);
    assert_eq!(other.list_all().await.unwrap().len(), 1);
    assert_eq!(other.destroy().await.unwrap().count, 1);
    if let bulkhead::replica::Location::Folder(root) = &site.location {
        assert!(files_below(root).is_empty(), "{:?}", files_below(root));
    }
    for path in ["", "/", "..", "a/../b", "a//b", "/a", "a/"] {
        assert!(site.store.replica(path).is_err(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder() {
    live(Site::folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_moto() {
    live(Site::moto()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_seaweedfs() {
    match Site::seaweed() {
        Some(site) => live(site).await,
        None => eprintln!("weed is not installed: not run"),
    }
}

#[tokio::test]
async fn a_runtime_of_one_thread_will_do() {
    let site = Site::folder();
    let mut source = Source::new(512, Utc::now());
    for txid in 1..=20 {
        source.write();
        source.ship(&site.replica(), txid).await;
    }
    compact(&site.replica(), 1, site.directory.path()).await.unwrap().item.unwrap();
    check(&site, &source, Target::Latest, 20, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_database_alone_is_not_written_once_a_level() {
    let site = Site::folder();
    let replica = site.replica();
    let mut source = Source::new(1024, Utc::now());
    let scratch = site.directory.path();
    source.write();
    source.ship(&replica, 1).await;
    assert_eq!(compact(&replica, 1, scratch).await.unwrap().item, None);
    check(&site, &source, Target::Latest, 1, true).await;
    source.write();
    source.ship(&replica, 2).await;
    assert_eq!(compact(&replica, 1, scratch).await.unwrap().item.unwrap().name, name(1, 2));
    assert_eq!(compact(&replica, 2, scratch).await.unwrap().item, None);
    // What was left out is merged with what follows.
    source.write();
    source.ship(&replica, 3).await;
    assert_eq!(compact(&replica, 1, scratch).await.unwrap().item.unwrap().name, name(3, 3));
    assert_eq!(compact(&replica, 2, scratch).await.unwrap().item.unwrap().name, name(1, 3));
    retain(&replica, Rules::default(), Utc::now() + Span::minutes(10)).await.unwrap();
    assert_eq!(replica.list(0).await.unwrap().iter().map(|item| item.name).collect::<Vec<_>>(), [name(3, 3)]);
    check(&site, &source, Target::Latest, 3, true).await;
    // Behind a lost file there is no such beginning: what follows does not wait for it.
    for txid in 4..=6 {
        source.write();
        let item = source.ship(&replica, txid).await;
        if txid == 4 {
            replica.delete(&[item]).await.unwrap();
        }
    }
    assert_eq!(compact(&replica, 1, scratch).await.unwrap().item.unwrap().name, name(5, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_file_costs_its_own_range() {
    let site = Site::folder();
    let replica = site.replica();
    let mut source = Source::new(1024, Utc::now());
    let mut items = vec![];
    for txid in 1..=9 {
        source.write();
        items.push(source.ship(&replica, txid).await);
    }
    replica.delete(&items[4..5]).await.unwrap();
    let first = compact(&replica, 1, site.directory.path()).await.unwrap().item.unwrap();
    let second = compact(&replica, 1, site.directory.path()).await.unwrap().item.unwrap();
    assert_eq!((first.name, second.name), (name(1, 4), name(6, 9)));
    assert_eq!(compact(&replica, 1, site.directory.path()).await.unwrap().item, None);
    let told = history(&replica).await.unwrap();
    assert_eq!(told.gaps.iter().map(|gap| (gap.from.0, gap.to.0)).collect::<Vec<_>>(), [(5, 5)]);
    let error = restore(&replica, Target::Latest, &site.out("x.db")).await.unwrap_err();
    assert!(matches!(error, Error::Plan(PlanError::Gap { from: Txid(5), to: Txid(5) })), "{error}");
    assert!(site.litestream(Target::Latest).unwrap_err().contains("non-contiguous"));
    check(&site, &source, Target::Txid(Txid(4)), 4, true).await;
    source.ship_snapshot(&replica, 9).await;
    check(&site, &source, Target::Latest, 9, true).await;

    // A merge names the file that is damaged, and leaves nothing.
    let mut wrong = replica.get(&second).await.unwrap().to_vec();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 4;
    replica.delete(std::slice::from_ref(&second)).await.unwrap();
    replica.put(1, second.name, wrong, second.created_at).await.unwrap();
    compact(&replica, 2, site.directory.path()).await.unwrap().item.unwrap();
    let nothing = compact(&replica, 2, site.directory.path()).await.unwrap();
    let found =
        |item: &bulkhead::replica::Item, why: &str| item.name == second.name && why.contains(&replica.object(item));
    assert!(matches!(&nothing.damaged[..], [(item, why)] if found(item, why)), "{nothing:?}");
    assert_eq!(nothing.item, None);
    assert_eq!(replica.list(2).await.unwrap().len(), 1);
}

/// The other way round: the real litestream writes, we read, and it finds what we merged and expired in order.
async fn written_by_litestream(site: Site) {
    let path = site.directory.path().join("app.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database.pragma_update(None, "journal_mode", "wal").unwrap();
    database.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB);").unwrap();
    let replica = site.replica();
    for round in 0..2_u64 {
        let mut writer = site.litestream_writer(&path);
        let wanted = replica.position().await.unwrap().map_or(0, |txid| txid.0) + 4;
        let deadline = Instant::now() + Duration::from_secs(40);
        while replica.position().await.unwrap().is_none_or(|txid| txid.0 < wanted) {
            assert!(Instant::now() < deadline, "litestream ships nothing");
            database.execute("INSERT INTO t (v) VALUES (randomblob(3000))", []).unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        writer.stop();
        let out = site.out("ours.db");
        let restored = restore(&replica, Target::Latest, &out).await.unwrap();
        assert!(std::fs::read(&out).unwrap() == site.litestream(Target::Latest).unwrap(), "round {round}");
        for txid in 1..=restored.txid.0 {
            let out = site.out("ours.db");
            let target = Target::Txid(Txid(txid));
            match (restore(&replica, target, &out).await, site.litestream(target)) {
                (Ok(_), Ok(theirs)) => assert!(std::fs::read(&out).unwrap() == theirs, "transaction {txid}"),
                (Err(Error::Plan(_)), Err(_)) => {}
                (ours, theirs) => panic!("transaction {txid}: {ours:?}, litestream {:?}", theirs.map(|db| db.len())),
            }
        }
        let times = replica.date(replica.list(0).await.unwrap()).await.unwrap();
        let time = times[times.len() / 2].created_at;
        let out = site.out("ours.db");
        restore(&replica, Target::Time(time), &out).await.unwrap();
        assert!(std::fs::read(&out).unwrap() == site.litestream(Target::Time(time)).unwrap(), "{time}");
        compact(&replica, 1, site.directory.path()).await.unwrap();
        compact(&replica, 2, site.directory.path()).await.unwrap();
        retain(&replica, Rules::default(), Utc::now() + Span::minutes(10)).await.unwrap();
        assert!(std::fs::read(&out).is_ok());
    }
    assert!(history(&replica).await.unwrap().gaps.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn litestream_writes_into_a_folder() {
    written_by_litestream(Site::folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn litestream_writes_into_moto() {
    written_by_litestream(Site::moto()).await;
}

async fn large(site: Site) {
    let replica = site.replica();
    let mut source = Source::new(4096, Utc::now() - Span::hours(1));
    source.write();
    let mut content = source.snapshot(1);
    content.extend((0..(40_u32 << 20) / 4).flat_map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()));
    let path = site.out("large");
    std::fs::write(&path, &content).unwrap();
    let body = || Body::file(std::fs::File::open(&path).unwrap()).unwrap();
    let item = replica.put(9, name(1, 1), body(), source.time(1)).await.unwrap();
    assert!(matches!(replica.put(9, name(1, 1), body(), source.time(1)).await, Err(Error::AlreadyExists { .. })));
    replica.put_same(9, name(1, 1), body(), source.time(1)).await.unwrap();
    assert_eq!(replica.date(replica.list(9).await.unwrap()).await.unwrap(), std::slice::from_ref(&item));
    let scratch = tempfile::tempdir().unwrap();
    let fetched = replica.fetch(&item, scratch.path()).await.unwrap();
    assert!(matches!(fetched, Body::File { .. }) && fetched.bytes().unwrap() == content);
    assert!(files_below(scratch.path()).is_empty());
    replica.delete(&[item]).await.unwrap();

    // Two at once: one wins.
    let (one, two) = tokio::join!(
        replica.put(9, name(1, 1), body(), source.time(1)),
        replica.put(9, name(1, 1), body(), source.time(1))
    );
    // SeaweedFS 4.48 lets one through. A server that ignores the condition at the end of an upload in parts lets both through, as moto
    // 5.2.5 does; the bytes are whole all the same.
    eprintln!("{:?}: two uploads at once: {:?} {:?}", site.settings.endpoint, one.is_ok(), two.is_ok());
    assert!(one.is_ok() || two.is_ok());
    assert!(replica.list(9).await.unwrap().iter().all(|item| item.size == content.len() as u64));
    replica.destroy().await.unwrap();

    // A writer that ends in the middle.
    for after in [1, 20, 60, 120] {
        let (replica, body, time) = (replica.clone(), body(), source.time(1));
        let task = tokio::spawn(async move { replica.put(9, name(1, 1), body, time).await });
        tokio::time::sleep(Duration::from_millis(after)).await;
        task.abort();
        let ended = task.await.is_ok();
        let there = site.replica().list_all().await.unwrap();
        assert!(there.iter().all(|item| item.size == content.len() as u64) && (ended || there.len() < 2));
        site.replica().destroy().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_in_a_folder() {
    large(Site::folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_in_moto() {
    large(Site::moto()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_in_seaweedfs() {
    if let Some(site) = Site::seaweed() {
        large(site).await;
    }
}

/// The child of the next test.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_killed() {
    let Ok(root) = std::env::var("REPLICA_TEST_ROOT") else { return };
    let mut source = Source::new(4096, Utc::now());
    source.write();
    let mut content = source.snapshot(1);
    content.resize(200 << 20, 7);
    let store = Store::connect(&format!("file://{root}").parse().unwrap(), &Settings::default()).unwrap();
    let _ = store.replica(PATH).unwrap().put(9, name(1, 1), content, source.time(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_leaves_no_visible_file() {
    let site = Site::folder();
    let replica = site.replica();
    let bulkhead::replica::Location::Folder(root) = &site.location else { panic!() };
    for _ in 0..3 {
        let before = files_below(root).iter().filter(|path| path.is_file()).count();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "replica::child_that_is_killed"])
            .env("REPLICA_TEST_ROOT", root)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while files_below(root).iter().filter(|path| path.is_file()).count() == before {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(replica.list_all().await.unwrap().is_empty());
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
        assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
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

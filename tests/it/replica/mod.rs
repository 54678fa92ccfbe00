//! Replicas in a folder and in real S3 servers, compared with the database and with the real litestream.
#![allow(clippy::cast_possible_truncation, reason = "tests count in small numbers")]

mod beginning;
mod faults;
mod litestream;
pub mod support;

use bulkhead::ltx::Txid;
use bulkhead::replica::{Error, PlanError, Replica, Rules, Target, compact, history, restore, retain};
use chrono::{Duration as Span, Utc};
use std::collections::BTreeSet;
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

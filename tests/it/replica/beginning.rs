//! A replica that is to begin later: nothing of before is left, and nothing of what follows is lost.

use bulkhead::ltx::{Decoder, Txid};
use bulkhead::replica::{Target, begin_at, compact, restore};
use chrono::{Duration as Span, Utc};

use super::check;
use super::support::{Site, Source};

/// Ships the whole database as it was after this transaction, as is done when another file has taken its place.
async fn ship_whole(site: &Site, source: &mut Source, txid: u64) {
    let before = std::mem::take(&mut source.images[txid as usize - 1]);
    source.ship(&site.replica(), txid).await;
    source.images[txid as usize - 1] = before;
}

async fn begins_later(site: Site, is_merged: bool) {
    let replica = site.replica();
    let mut source = Source::new(4096, Utc::now() - Span::hours(3));
    (0..10).for_each(|_| source.write());
    for txid in 1..=3 {
        source.ship(&replica, txid).await;
    }
    source.ship_snapshot(&replica, 2).await;
    let scratch = site.directory.path();
    compact(&replica, 1, scratch).await.unwrap();
    source.ship(&replica, 4).await;
    source.ship(&replica, 5).await;
    ship_whole(&site, &mut source, 6).await;
    for txid in 7..=10 {
        source.ship(&replica, txid).await;
        if txid == 8 {
            let spanning = compact(&replica, 1, scratch).await.unwrap().item.unwrap();
            assert_eq!((spanning.name.min, spanning.name.max), (Txid(4), Txid(8)));
        }
    }
    let mut first = 6;
    if is_merged {
        // As it is when some minutes have passed.
        let old: Vec<_> = replica.list(0).await.unwrap().into_iter().filter(|item| item.name.max < Txid(9)).collect();
        replica.delete(&old).await.unwrap();
        first = 8;
    }

    let deleted = begin_at(&replica, Txid(first), scratch).await.unwrap();
    assert!(!deleted.is_empty());
    let left = replica.list_all().await.unwrap();
    assert!(left.iter().all(|item| item.name.max >= Txid(first)), "{left:?}");
    for txid in first..=10 {
        let is_point = !is_merged || txid >= 8;
        if is_point {
            check(&site, &source, Target::Txid(Txid(txid)), txid, txid == first).await;
        }
    }
    check(&site, &source, Target::Latest, 10, true).await;
    for gone in 1..first {
        let refused = restore(&replica, Target::Txid(Txid(gone)), &site.out("gone.db")).await;
        assert!(refused.is_err(), "{gone} can be had back");
    }
    // What begins before and ends behind has nothing of before in it.
    let spanning = left.iter().find(|item| item.level == 1).unwrap();
    let body = replica.fetch(spanning, scratch).await.unwrap();
    let mut decoder = Decoder::new(body.reader()).unwrap();
    let mut page = Vec::new();
    while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
        let at = (pgno as usize - 1) * 4096;
        assert!(source.images[8][at..at + 4096] == page, "page {pgno} is of before");
    }
    // Again, there is nothing to do.
    assert_eq!(begin_at(&replica, Txid(first), scratch).await.unwrap(), []);
    assert_eq!(replica.list_all().await.unwrap(), left);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_begins_later_in_a_folder() {
    begins_later(Site::folder(), false).await;
    begins_later(Site::folder(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_begins_later_in_a_bucket() {
    begins_later(Site::moto(), false).await;
    begins_later(Site::moto(), true).await;
}

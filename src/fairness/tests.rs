use super::*;
use crate::base::{Timestamp, codes};
use std::time::Duration;

const NONE: Values = Values {
    requests_per_second: 0,
    request_burst: 1,
    concurrent_requests: 0,
    concurrent_hashes: 0,
    queued_hashes: 0,
    written_bytes_per_minute: 0,
};

fn fairness(defaults: Values) -> (Fairness, Clock) {
    let clock = Clock::manual(Timestamp::from_seconds(1_764_000_000));
    (Fairness::new(defaults, clock.clone()), clock)
}

const fn id(n: u128) -> OrganizationId {
    OrganizationId::from_bits(n)
}

#[test]
fn requests_come_back_at_their_rate_and_what_is_said_of_waiting_is_true() {
    let (fairness, clock) = fairness(Values { requests_per_second: 2, request_burst: 3, ..NONE });
    let account = fairness.account(id(1));
    assert!((0..3).all(|_| account.enter().is_ok()));
    let refused = account.enter().err().unwrap();
    assert!(refused.is(&codes::ORGANIZATION_RATE_LIMITED), "{refused:?}");
    // Half a second would do, and no less than whole seconds can be said.
    assert_eq!(refused.retry(), Some(Duration::from_secs(1)));
    clock.advance(Duration::from_millis(499));
    assert!(account.enter().is_err());
    clock.advance(Duration::from_millis(1));
    assert!(account.enter().is_ok());
    assert!(account.enter().is_err());
    // However long it is quiet, no more than the burst is saved up.
    clock.advance(Duration::from_secs(3600));
    assert!((0..3).all(|_| account.enter().is_ok()));
    assert!(account.enter().is_err());
    assert!(fairness.account(id(2)).enter().is_ok(), "one organization has used up another's");
}

#[test]
fn a_slow_rate_says_how_long_it_takes() {
    let (fairness, clock) = fairness(Values { requests_per_second: 1, request_burst: 1, ..NONE });
    let account = fairness.account(id(1));
    assert!(account.enter().is_ok());
    clock.advance(Duration::from_millis(1));
    let wait = account.enter().err().unwrap().retry().unwrap();
    assert_eq!(wait, Duration::from_secs(1));
    clock.advance(wait);
    assert!(account.enter().is_ok());
}

#[test]
fn a_place_among_the_running_comes_back_with_the_answer() {
    let (fairness, _) = fairness(Values { concurrent_requests: 2, ..NONE });
    let account = fairness.account(id(1));
    let (first, second) = (account.enter().unwrap(), account.enter().unwrap());
    let refused = account.enter().err().unwrap();
    assert!(refused.is(&codes::ORGANIZATION_CONCURRENCY_LIMITED) && refused.retry().is_some(), "{refused:?}");
    assert_eq!(account.running(), 2, "a refused request has kept a place");
    drop(first);
    assert!(account.enter().is_ok());
    drop(second);
    assert_eq!(account.running(), 0);
}

#[test]
fn a_request_that_finds_no_place_costs_nothing_of_the_rate() {
    let (fairness, _) = fairness(Values { requests_per_second: 1, request_burst: 2, concurrent_requests: 1, ..NONE });
    let account = fairness.account(id(1));
    let turn = account.enter().unwrap();
    assert!((0..10).all(|_| account.enter().is_err()));
    drop(turn);
    assert!(account.enter().is_ok());
}

#[test]
fn who_is_let_in_is_counted_over_all_and_who_is_refused_is_not() {
    let (fairness, _) = fairness(Values { requests_per_second: 1, request_burst: 2, ..NONE });
    for n in [1, 2, 1, 1, 1] {
        drop(fairness.account(id(n)).enter());
    }
    assert_eq!(fairness.entered(), 3);
}

#[test]
fn what_was_written_is_counted_afterwards_and_never_owed_for_long() {
    let (fairness, clock) = fairness(Values { written_bytes_per_minute: 60_000, ..NONE });
    let account = fairness.account(id(1));
    account.wrote(59_999);
    assert!(account.may_write().is_ok());
    account.wrote(30_001);
    let refused = account.may_write().unwrap_err();
    assert!(refused.is(&codes::ORGANIZATION_WRITES_LIMITED), "{refused:?}");
    let wait = refused.retry().unwrap();
    assert_eq!(wait, Duration::from_secs(35), "a minute and a half is missing, and five seconds are to have come back");
    clock.advance(Duration::from_secs(33));
    assert!(account.may_write().is_err());
    clock.advance(Duration::from_secs(2));
    assert!(account.may_write().is_ok());
    // So that there is more than one write to go on with.
    account.wrote(4_000);
    assert!(account.may_write().is_ok());
    // Something enormous, which was not to be refused, keeps nobody out for hours.
    account.wrote(u64::MAX / 2);
    assert!(account.may_write().unwrap_err().retry().unwrap() <= Duration::from_secs(65));
}

#[test]
fn a_plan_holds_at_once_and_what_it_leaves_out_follows_the_deployment() {
    let (fairness, _) = fairness(Values { requests_per_second: 1, request_burst: 1, ..NONE });
    let account = fairness.account(id(1));
    assert!(account.enter().is_ok() && account.enter().is_err());
    account.apply(&Plan { request_burst: Some(5), ..Plan::default() });
    assert!((0..5).all(|_| account.enter().is_ok()) && account.enter().is_err());
    // Said again it is no present.
    account.apply(&Plan { request_burst: Some(5), ..Plan::default() });
    assert!(account.enter().is_err());
    account.apply(&Plan { requests_per_second: Some(0), ..Plan::default() });
    assert!((0..100).all(|_| account.enter().is_ok()));
    account.apply(&Plan { concurrent_requests: Some(1), requests_per_second: Some(0), ..Plan::default() });
    let _turn = account.enter().unwrap();
    assert!(account.enter().is_err());
    assert_eq!(account.hashing(), (0, 0));
    account.apply(&Plan { concurrent_hashes: Some(3), queued_hashes: Some(7), ..Plan::default() });
    assert_eq!(account.hashing(), (3, 7));
}

#[test]
fn accounts_that_nobody_uses_go_away_and_what_they_remember_does_not() {
    let (fairness, clock) = fairness(Values { requests_per_second: 1, request_burst: 10, ..NONE });
    for n in 0..100_000 {
        fairness.account(id(n)).enter().unwrap();
    }
    fairness.tidy();
    assert_eq!(fairness.len(), 100_000, "an account was forgotten while something of it was used up");
    let kept = fairness.account(id(7));
    let _turn = fairness.account(id(8)).enter().unwrap();
    clock.advance(Duration::from_secs(60));
    fairness.tidy();
    assert_eq!(fairness.len(), 2);
    assert!(Arc::ptr_eq(&kept, &fairness.account(id(7))));
    // Also without anybody who tidies up, those that are idle do not pile up.
    for n in 0..100_000 {
        drop(fairness.account(id(n)));
    }
    assert!(fairness.len() <= SHARDS * (FEW + 1), "{} accounts", fairness.len());
}

#[test]
fn who_was_limited_is_named_and_the_names_are_bounded() {
    let (fairness, clock) = fairness(Values { requests_per_second: 1, request_burst: 1, ..NONE });
    let limited = |n: u128| {
        let account = fairness.account(id(n));
        assert!(account.enter().is_ok() && account.enter().is_err());
    };
    assert!(fairness.account(id(500)).enter().is_ok());
    for n in 0..150 {
        limited(n);
        clock.advance(Duration::from_millis(10));
    }
    fairness.account(id(149)).hash_refused();
    let (list, others) = fairness.limited().list();
    assert_eq!((list.len(), others), (100, [50, 0, 0, 0]));
    // Last first; whoever was not limited is not there.
    assert_eq!(list[0].organization, id(149));
    assert_eq!(list[0].counts.iter().map(|count| count.which).collect::<Vec<_>>(), [Which::Requests, Which::Hashing]);
    assert!(list.iter().all(|one| (50..150).contains(&one.organization.bits())));
    let text = fairness.limited().exposition();
    let line = format!("bulkhead_limited_total{{organization=\"{}\",limit=\"requests\"}} 1\n", id(149));
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("bulkhead_limited_total{organization=\"other\",limit=\"requests\"} 50\n"), "{text}");
    assert!(!text.contains(&id(500).to_string()), "{text}");
    assert_eq!(text.lines().count(), 2 + 101 + 4);
}

#[test]
fn many_threads_take_no_more_than_there_is() {
    let (fairness, _) = fairness(Values { requests_per_second: 1, request_burst: 1000, ..NONE });
    let taken: usize = std::thread::scope(|scope| {
        let hands: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..1000).filter(|_| fairness.account(id(1)).enter().is_ok()).count()))
            .collect();
        hands.into_iter().map(|hand| hand.join().unwrap()).sum()
    });
    assert_eq!(taken, 1000);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let wrong = Plan {
        requests_per_second: Some(1_000_001),
        request_burst: Some(0),
        concurrent_requests: Some(1_000_001),
        concurrent_hashes: Some(1025),
        queued_hashes: Some(100_001),
        written_bytes_per_minute: Some((1 << 50) + 1),
    };
    assert_eq!(wrong.problems().len(), 6);
    assert!(Plan::default().problems().is_empty());
}

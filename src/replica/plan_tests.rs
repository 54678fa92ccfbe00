use super::*;
use proptest::prelude::*;

fn item(level: u8, min: u64, max: u64) -> Item {
    at(level, min, max, i64::try_from(max).unwrap() * 10)
}

fn at(level: u8, min: u64, max: u64, seconds: i64) -> Item {
    let name = FileName { min: Txid(min), max: Txid(max) };
    Item { level, name, size: 1, created_at: time(seconds), dated: true }
}

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn chosen(items: &[Item], target: Target) -> Vec<(u8, u64, u64)> {
    plan(items, target).unwrap().iter().map(|item| (item.level, item.name.min.0, item.name.max.0)).collect()
}

fn refused(items: &[Item], target: Target) -> PlanError {
    plan(items, target).unwrap_err()
}

fn gap(from: u64, to: u64) -> PlanError {
    PlanError::Gap { from: Txid(from), to: Txid(to) }
}

#[test]
fn nothing_there() {
    for target in [Target::Latest, Target::Txid(Txid(1)), Target::Time(time(0))] {
        assert_eq!(refused(&[], target), PlanError::Empty);
    }
}

#[test]
fn the_newest_snapshot_and_what_reaches_furthest() {
    let items = [
        item(9, 1, 10),
        item(9, 1, 20),
        item(3, 1, 15),
        item(2, 16, 24),
        item(1, 21, 24),
        item(1, 25, 26),
        item(0, 24, 24),
        item(0, 25, 25),
        item(0, 26, 26),
        item(0, 27, 27),
    ];
    // From 20 on, level 2 covers 21 to 24 although it begins earlier.
    assert_eq!(chosen(&items, Target::Latest), [(9, 1, 20), (2, 16, 24), (1, 25, 26), (0, 27, 27)]);
    assert_eq!(chosen(&items, Target::Txid(Txid(25))), [(9, 1, 20), (2, 16, 24), (0, 25, 25)]);
    assert_eq!(chosen(&items, Target::Txid(Txid(20))), [(9, 1, 20)]);
    assert_eq!(chosen(&items, Target::Txid(Txid(15))), [(9, 1, 10), (3, 1, 15)]);
    assert_eq!(chosen(&items, Target::Txid(Txid(10))), [(9, 1, 10)]);
    assert_eq!(
        refused(&items, Target::Txid(Txid(12))),
        PlanError::Merged { txid: Txid(12), into: FileName { min: Txid(1), max: Txid(15) } }
    );
    assert_eq!(refused(&items, Target::Txid(Txid(28))), PlanError::TooNew { newest: Txid(27) });
    assert_eq!(refused(&items, Target::Txid(Txid(5))), PlanError::TooOld { txid: Txid(10), created_at: time(100) });
}

#[test]
fn a_moment_leaves_itself_out() {
    let items: Vec<Item> = (1..=5).map(|txid| item(0, txid, txid)).collect();
    assert_eq!(chosen(&items, Target::Time(time(30))), [(0, 1, 1), (0, 2, 2)]);
    assert_eq!(chosen(&items, Target::Time(time(31))), [(0, 1, 1), (0, 2, 2), (0, 3, 3)]);
    assert_eq!(chosen(&items, Target::Time(time(10_000))).len(), 5);
    assert_eq!(refused(&items, Target::Time(time(10))), PlanError::TooOld { txid: Txid(1), created_at: time(10) });
}

#[test]
fn a_time_around_which_the_clock_was_set_back_is_refused_with_both_sides() {
    // 4 and 5 were made by a clock that was ahead, or 6 and 7 by one that was behind: nobody can tell.
    let seconds = [10, 20, 30, 100, 110, 40, 50, 120];
    let items: Vec<Item> = (1..).zip(seconds).map(|(txid, seconds)| at(0, txid, txid, seconds)).collect();
    assert_eq!(chosen(&items, Target::Time(time(25))), [(0, 1, 1), (0, 2, 2)]);
    assert_eq!(chosen(&items, Target::Time(time(35))).len(), 3);
    let unclear = |later, last| PlanError::ClockWentBack {
        ahead: Txid(5),
        ahead_at: time(110),
        behind: Txid(6),
        behind_at: time(40),
        later: Txid(later),
        last: Txid(last),
    };
    assert_eq!(refused(&items, Target::Time(time(45))), unclear(4, 6));
    assert_eq!(refused(&items, Target::Time(time(60))), unclear(4, 7));
    assert_eq!(refused(&items, Target::Time(time(105))), unclear(5, 7));
    let told = refused(&items, Target::Time(time(60))).to_string();
    for part in
        ["0000000000000005", "1970-01-01T00:01:50Z", "0000000000000006", "up to 0000000000000003", "0000000000000007"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(chosen(&items, Target::Time(time(115))).len(), 7);
    assert_eq!(chosen(&items, Target::Time(time(125))).len(), 8);
    // Whoever names a transaction, or wants the newest, is not asked.
    assert_eq!(chosen(&items, Target::Txid(Txid(7))).len(), 7);
    assert_eq!(chosen(&items, Target::Latest).len(), 8);
    // The same transaction on two levels, and a snapshot that was taken long after it, are no sign of that.
    let levels = [at(0, 1, 1, 10), at(0, 2, 2, 20), at(1, 1, 2, 21), at(9, 1, 2, 500), at(0, 3, 3, 30)];
    assert_eq!(chosen(&levels, Target::Time(time(40))), [(1, 1, 2), (0, 3, 3)]);
}

#[test]
fn a_merged_file_that_straddles_the_moment_is_no_gap() {
    // Level 0 up to 7 has expired: 8 and 9 are there, the way to them is only through 5 to 9.
    let items = [item(1, 1, 4), item(1, 5, 9), item(0, 8, 8), item(0, 9, 9), item(0, 10, 10)];
    assert_eq!(chosen(&items, Target::Time(time(85))), [(1, 1, 4)]);
    assert_eq!(chosen(&items, Target::Time(time(95))), [(1, 1, 4), (1, 5, 9)]);
    assert_eq!(chosen(&items, Target::Latest), [(1, 1, 4), (1, 5, 9), (0, 10, 10)]);
}

#[test]
fn gaps_name_what_is_missing() {
    let items = [item(0, 1, 1), item(0, 2, 2), item(0, 6, 6), item(0, 7, 7)];
    assert_eq!(refused(&items, Target::Latest), gap(3, 5));
    assert_eq!(refused(&items, Target::Txid(Txid(7))), gap(3, 5));
    assert_eq!(refused(&items, Target::Txid(Txid(4))), gap(3, 4));
    assert_eq!(refused(&items, Target::Time(time(75))), gap(3, 5));
    // Nobody knows when the missing ones were committed: before this moment, perhaps.
    assert_eq!(refused(&items, Target::Time(time(55))), gap(3, 5));
    assert_eq!(refused(&items, Target::Time(time(25))), gap(3, 5));
    assert_eq!(chosen(&items, Target::Time(time(15))), [(0, 1, 1)]);
    assert_eq!(chosen(&items, Target::Txid(Txid(2))), [(0, 1, 1), (0, 2, 2)]);
    // Behind a snapshot.
    let items = [item(9, 1, 5), item(0, 8, 8)];
    assert_eq!(refused(&items, Target::Latest), gap(6, 7));
    // A newer snapshot bridges it.
    let items = [item(9, 1, 5), item(0, 8, 8), item(9, 1, 9), item(0, 10, 10)];
    assert_eq!(chosen(&items, Target::Latest), [(9, 1, 9), (0, 10, 10)]);
    assert_eq!(refused(&items, Target::Txid(Txid(8))), gap(6, 7));
    assert_eq!(refused(&items, Target::Time(time(85))), gap(6, 7));
    // As where a copy was begun anew after a crash: what was shipped until then is the state between.
    let items = [item(9, 1, 5), item(9, 1, 7), item(0, 8, 8)];
    assert_eq!(chosen(&items, Target::Time(time(65))), [(9, 1, 5)]);
    assert_eq!(refused(&[item(1, 5, 9), item(0, 10, 10)], Target::Latest), gap(1, 4));
}

#[test]
fn a_snapshot_newer_than_level_0_wins() {
    // A replica on which a writer began again at 1 (design STORAGE 3.4, rule 1).
    let items = [item(9, 1, 50), item(0, 1, 1), item(0, 2, 2), item(0, 3, 3)];
    assert_eq!(chosen(&items, Target::Latest), [(9, 1, 50)]);
    assert_eq!(chosen(&items, Target::Txid(Txid(3))), [(0, 1, 1), (0, 2, 2), (0, 3, 3)]);
}

#[test]
fn ties_go_to_the_wider_then_the_higher_then_the_older() {
    let items = [item(0, 1, 1), item(0, 2, 2), item(1, 1, 2), item(2, 1, 2)];
    assert_eq!(chosen(&items, Target::Latest), [(2, 1, 2)]);
    let items = [item(9, 1, 3), item(2, 3, 6), item(1, 2, 6), item(3, 4, 6)];
    assert_eq!(chosen(&items, Target::Latest), [(9, 1, 3), (1, 2, 6)]);
    let twice = [item(9, 1, 3), at(1, 4, 6, 70), at(1, 4, 6, 60)];
    assert_eq!(plan(&twice, Target::Latest).unwrap()[1].created_at, time(60));
}

#[test]
fn islands_that_retention_leaves_are_before_the_oldest_point() {
    let items = [item(3, 1, 5), item(2, 40, 45), item(9, 1, 50), item(1, 46, 55), item(0, 56, 56)];
    let too_old = PlanError::TooOld { txid: Txid(50), created_at: time(500) };
    assert_eq!(refused(&items, Target::Time(time(470))), too_old);
    assert_eq!(refused(&items, Target::Txid(Txid(45))), too_old);
    assert_eq!(chosen(&items, Target::Txid(Txid(56))), [(9, 1, 50), (1, 46, 55), (0, 56, 56)]);
}

#[test]
fn a_level_9_file_that_is_no_snapshot_is_not_begun_with() {
    let items = [item(9, 2, 8), item(0, 1, 1)];
    assert_eq!(chosen(&items, Target::Latest), [(0, 1, 1)]);
}

#[test]
fn the_end_of_the_numbers() {
    let last = u64::MAX;
    let items = [item(0, 1, 1), Item { name: FileName { min: Txid(2), max: Txid(last) }, ..item(1, 2, 2) }];
    assert_eq!(chosen(&items, Target::Latest), [(0, 1, 1), (1, 2, last)]);
    assert_eq!(chosen(&items, Target::Txid(Txid(last))), [(0, 1, 1), (1, 2, last)]);
    assert!(plan(&items, Target::Txid(Txid(0))).is_err());
}

proptest! {
    /// Against exhaustive search: the plan is a chain that begins with a whole file, and no chain from its
    /// beginning gets further.
    #[test]
    fn no_chain_reaches_further(
        files in prop::collection::vec((0_u8..10, 1_u64..30, 0_u64..12), 0..40),
        target in 0_u64..45,
        by_time in any::<bool>(),
    ) {
        let items: Vec<Item> = files
            .into_iter()
            .map(|(level, min, more)| if level == 9 { item(9, 1, min + more) } else { item(level, min, min + more) })
            .collect();
        let limit = Txid(target);
        let targets = [Target::Latest, if by_time { Target::Time(time(i64::try_from(target).unwrap() * 10 + 5)) } else { Target::Txid(limit) }];
        for target in targets {
            let allowed: Vec<&Item> =
                items.iter().filter(|item| target == Target::Latest || item.name.max <= limit).collect();
            let begin = allowed.iter().filter(|item| item.level == 9).map(|item| item.name.max.0).max().unwrap_or(0);
            let mut furthest = begin;
            for _ in 0..allowed.len() {
                for item in &allowed {
                    if item.level < 9 && item.name.min.0 <= furthest + 1 {
                        furthest = furthest.max(item.name.max.0);
                    }
                }
            }
            match plan(&items, target) {
                Ok(chain) => {
                    let mut reached = 0;
                    for item in &chain {
                        prop_assert!(item.name.min.0 <= reached + 1 && item.name.max.0 > reached);
                        prop_assert!(allowed.contains(&item));
                        reached = item.name.max.0;
                    }
                    prop_assert_eq!(reached, furthest);
                    if let Target::Txid(txid) = target {
                        prop_assert_eq!(reached, txid.0);
                    }
                }
                Err(PlanError::ClockWentBack { .. }) => prop_assert!(false, "these are dated in their order"),
                Err(PlanError::Empty) => prop_assert!(items.is_empty()),
                Err(PlanError::TooNew { newest }) => prop_assert!(items.iter().all(|item| item.name.max <= newest)),
                Err(PlanError::Gap { from, to }) => {
                    prop_assert_eq!(from.0, furthest + 1);
                    prop_assert!(from <= to);
                }
                Err(PlanError::Merged { into, .. }) => {
                    prop_assert!(into.min.0 <= furthest + 1 && into.max > limit);
                }
                Err(PlanError::TooOld { txid, .. }) => prop_assert!(txid.0 > furthest),
            }
        }
    }
}

//! As many organizations as the design speaks of: starting with them, and reaching each of them.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::fleet::{Dice, Fleet, Template};
use crate::meter::{Line, Rounds, memory_of, mib, middle, per_second, quantile, rounds_of, show, times};
use crate::process::{Operator, Server};
use crate::raw::{Bare, Lru, open_by_hand};
use crate::wire::{Client, Request};

/// Clients that ask at the same time.
const CLIENTS: usize = 4;

/// From the start of the process to the first answer of an organization, and what it takes then.
pub fn start(bench: &mut Bench) -> Vec<Line> {
    let few = Fleet::make(10, &Template::newest());
    let many = bench.fleet();
    let first = |fleet: &Fleet, memory: &RefCell<Vec<f64>>| {
        let server = fleet.deployment().serve();
        let started = Instant::now();
        must(&mut server.client(), &fleet.check(0));
        let taken = server.ready_after + started.elapsed();
        memory.borrow_mut().push(memory_of(server.pid()) as f64);
        server.stop();
        taken
    };
    let (with_many, with_few) = (RefCell::default(), RefCell::default());
    first(many, &RefCell::default());
    let rounds = Rounds::run(9, || first(many, &with_many), || first(&few, &with_few));
    let (with_many, with_few) = (middle(with_many.into_inner()) as u64, middle(with_few.into_inner()) as u64);
    let more = with_many.saturating_sub(with_few);
    let count = many.len();
    vec![
        rounds.line(&format!("from start to first answer with {count} organizations"), "with 10", 1.2),
        Line::below(
            &format!("resident memory after it with {count} organizations"),
            mib(with_many),
            &format!("{} with 10", mib(with_few)),
            more as f64 / 1_048_576.0,
            64.0,
            "MiB more",
        ),
    ]
}

/// Requests to organizations whose files are closed, each to another one, against opening files of the same fleet
/// by hand. Each side has organizations of its own: what was opened once has left something in the kernel's caches.
pub fn random_access(bench: &mut Bench) -> Vec<Line> {
    let wanted = bench.amount(3000, 60);
    let fleet = bench.fleet();
    let capacity = hold_few_open(fleet);
    let order = Dice::new(1).shuffled(fleet.len());
    let count = wanted.min((order.len() - capacity) / 3);
    let (warm, order) = order.split_at(capacity);
    let (ours, rest) = order.split_at(count);
    let (by_hand, behind_axum) = rest.split_at(count);
    let files = Arc::new(fleet.files());
    let server = fleet.deployment().serve();
    let mut client = server.client();
    // From here on a file is closed for each that is opened.
    for n in warm {
        must(&mut client, &fleet.check(*n));
    }
    let requests: Vec<Vec<u8>> = ours.iter().map(|n| fleet.check(*n)).collect();
    let bare = {
        let files = Arc::clone(&files);
        Bare::serve(move |n| open_by_hand(&files[n]))
    };
    let mut bare_client = Client::new(bare.port);
    let bare_requests: Vec<Vec<u8>> = behind_axum.iter().map(|n| request(*n, bare.port)).collect();
    must(&mut bare_client, &request(warm[0], bare.port));
    let [mut cold, mut raw, mut over_http] = [(); 3].map(|()| Vec::new());
    const BLOCK: usize = 20;
    for block in 0..count / BLOCK {
        let at = |n| block * BLOCK + n;
        cold.extend(times(BLOCK, |n| must(&mut client, &requests[at(n)])));
        raw.extend(times(BLOCK, |n| open_by_hand(&files[by_hand[at(n)]])));
        over_http.extend(times(BLOCK, |n| must(&mut bare_client, &bare_requests[at(n)])));
    }
    let what = |part: &str| format!("cold request to one of {} organizations at random, {part}", fleet.len());
    let lines = [("p50", 0.5), ("p99", 0.99)].into_iter().flat_map(|(name, part)| {
        let [cold, raw, over_http] = [&cold, &raw, &over_http].map(|values| quantile(values.clone(), part));
        let against = |base: Duration, text: &str| {
            let ratio = cold.as_secs_f64() / base.as_secs_f64();
            Line::ratio(&what(name), show(cold), format!("{} {text}", show(base)), ratio, 1.5)
        };
        [against(raw, "open, pragmas, query, close"), against(over_http, "the same behind bare axum")]
    });
    let lines = lines.collect();
    server.stop();
    lines
}

/// Requests of which four in five go to a fiftieth of the organizations, against a plain LRU of connections that
/// holds as many.
pub fn skewed_access(bench: &mut Bench) -> Vec<Line> {
    let count = bench.amount(1500, 100);
    let fleet = bench.fleet();
    let capacity = hold_few_open(fleet);
    let (files, total) = (fleet.files(), fleet.len());
    let [mut ours, mut raw, mut over_http] = [(); 3].map(|()| Vec::new());
    for _ in 0..rounds_of(3) {
        // One after the other: they use the same files.
        let server = fleet.deployment().serve();
        assert_eq!(capacity, capacity_of(&server, &fleet.operator_key));
        ours.push(rate(count, total, |client, n| must(client, &fleet.check(n)), server.port));
        server.stop();
        let lru = Arc::new(Lru::new(files.clone(), capacity));
        raw.push(rate(count, total, |_, n| lru.look_up(n), 0));
        drop(lru);
        let lru = Arc::new(Lru::new(files.clone(), capacity));
        let bare = Bare::serve(move |n| lru.look_up(n));
        over_http.push(rate(count, total, |client, n| must(client, &request(n, bare.port)), bare.port));
        let newest = |rates: &[f64]| per_second(rates.last().copied().unwrap_or_default());
        eprintln!("  {} against {} and {}", newest(&ours), newest(&raw), newest(&over_http));
    }
    let [ours, raw, over_http] = [ours, raw, over_http].map(middle);
    let what = format!("requests of which 80 % go to 2 % of {total} organizations, {capacity} open");
    let against = |base: f64, text: &str| {
        Line::at_least(&what, per_second(ours), format!("{} {text}", per_second(base)), ours / base, 0.8)
    };
    vec![against(raw, "a plain LRU of connections, in process"), against(over_http, "the same LRU behind bare axum")]
}

/// The settings' own bound, or less where there are few organizations; how many may be open.
fn hold_few_open(fleet: &mut Fleet) -> usize {
    let most = (fleet.len() / 50).clamp(2, 1024);
    fleet.set("FILES_MAX_OPEN", most);
    let server = fleet.deployment().serve();
    let capacity = capacity_of(&server, &fleet.operator_key);
    server.stop();
    capacity
}

fn capacity_of(server: &Server, key: &str) -> usize {
    let status = Operator::new(server, key).get("/v1/status").unwrap().json();
    usize::try_from(status["organizations"]["capacity"].as_u64().unwrap()).unwrap()
}

/// Answers a second, over a number of clients at once, after as many in which the caches fill.
fn rate(count: usize, total: usize, work: impl Fn(&mut Client, usize) + Sync, port: u16) -> f64 {
    let run = |seed: u64| {
        let started = Instant::now();
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let work = &work;
                scope.spawn(move || {
                    let (mut client, mut dice) = (Client::new(port), Dice::new(seed + number as u64));
                    (0..count).for_each(|_| work(&mut client, skewed(&mut dice, total)));
                });
            }
        });
        (CLIENTS * count) as f64 / started.elapsed().as_secs_f64()
    };
    run(11);
    run(23)
}

fn skewed(dice: &mut Dice, total: usize) -> usize {
    let favoured = (total / 50).max(1);
    if dice.below(100) < 80 { dice.below(favoured) } else { dice.below(total) }
}

fn request(n: usize, port: u16) -> Vec<u8> {
    Request::get("localhost", format!("/{n}")).bytes(port)
}

fn must(client: &mut Client, bytes: &[u8]) {
    let answer = client.send_bytes(bytes).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

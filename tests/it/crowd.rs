//! More organizations in use than files may be open: everybody gets their turn, and nothing that takes long
//! outside a file keeps it open.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::post_office::{Manner, PostOffice};
use crate::process::{Deployment, HOST, Operator, PASSWORD, Person, Server, host_of, owner_of, patience, until};
use crate::wire::{Answer, Request};

/// The least that may be configured.
const OPEN: usize = 8;
const ORGANIZATIONS: usize = 40;
const CLIENTS: usize = 24;
/// So many of them have something to do with more organizations than may be open, in the test of those that never are
/// idle.
const FEW: usize = 4;
/// How many times as often as those with the fewest visits others may get in.
const UNEVEN: usize = 20;

/// A running deployment with many organizations.
struct Crowd {
    deployment: Deployment,
    server: Server,
    slugs: Vec<String>,
}

impl Crowd {
    fn new(deployment: Deployment) -> Self {
        let deployment = deployment.with("FILES_MAX_OPEN", OPEN);
        let (server, mut operator, _) = deployment.started();
        let slugs: Vec<String> = (0..ORGANIZATIONS).map(|n| format!("crowd-{n}")).collect();
        for slug in &slugs {
            operator.organization(slug);
        }
        Self { deployment, server, slugs }
    }

    fn with_mail(office: &PostOffice) -> Self {
        let settings = office.settings().into_iter();
        Self::new(settings.fold(Deployment::new(), |deployment, (name, value)| {
            deployment.with(name.trim_start_matches("BULKHEAD_"), value)
        }))
    }

    /// Lets all clients work for a while, each with the organizations that are chosen for it by its number and
    /// the number of the visit; everybody must be served, hardly anybody asked to come again, and nobody served much
    /// less than others.
    fn visit(&self, length: Duration, choose: impl Fn(usize, usize) -> usize + Sync) {
        let put_off = AtomicUsize::new(0);
        let mut visits: Vec<usize> = thread::scope(|scope| {
            let visitor = |client: usize| {
                let (choose, put_off) = (&choose, &put_off);
                scope.spawn(move || {
                    let begun = Instant::now();
                    let visited = (0..).take_while(|_| begun.elapsed() < length).map(|n| {
                        self.do_something(&self.slugs[choose(client, n) % ORGANIZATIONS], client + n, put_off);
                    });
                    visited.count()
                })
            };
            let clients: Vec<_> = (0..CLIENTS).map(visitor).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        visits.sort_unstable();
        let put_off = put_off.into_inner();
        println!("visits of each client: {visits:?}; asked to come again: {put_off}");
        let all: usize = visits.iter().sum();
        // On a machine on which hardly anybody gets anywhere there is nothing to compare.
        assert!(all < CLIENTS * 10 || put_off * 10 <= all, "asked to come again: {put_off}, visits {visits:?}");
        let fewest: usize = visits[..FEW].iter().sum();
        assert!(fewest * UNEVEN >= visits[CLIENTS / 2] * FEW, "some had to wait for others: {visits:?}");
    }

    /// One of the things that people do.
    fn do_something(&self, slug: &str, n: usize, put_off: &AtomicUsize) {
        let mut person = Person::at(&self.server, &host_of(slug));
        let page = served(put_off, || person.get("/sign-in").unwrap());
        assert_eq!(page.status, 200, "{slug}: {}", page.text());
        let owner = owner_of(slug);
        let (path, fields) = match n % 10 {
            0..5 => return,
            5..8 => ("/sign-in", vec![("email", owner.as_str()), ("password", PASSWORD)]),
            _ => ("/recovery", vec![("email", owner.as_str())]),
        };
        let csrf = page.csrf().unwrap();
        let request = Request::new("POST", &host_of(slug), path).cookie(&person.cookies());
        let request = request.form(&[&[("csrf", csrf.as_str())], &*fields].concat());
        let answer = served(put_off, || person.client.send(&request).unwrap());
        assert_eq!(answer.status, 303, "{path} of {slug}: {}", answer.text());
    }
}

/// Asks again when the server asks for that, as it does where the machine is too slow for so many.
pub fn served(put_off: &AtomicUsize, mut ask: impl FnMut() -> Answer) -> Answer {
    let deadline = patience();
    loop {
        let answer = ask();
        if answer.status != 503 || answer.header("retry-after").is_none() || Instant::now() > deadline {
            return answer;
        }
        put_off.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn everybody_is_served_while_every_file_is_in_use() {
    let crowd = Crowd::new(Deployment::new());
    crowd.visit(Duration::from_secs(4), |client, n| client * 7 + n * 11);
    assert_eq!(Operator::problems(&crowd.deployment), []);
    crowd.server.stop();
}

#[test]
fn organizations_that_are_never_idle_leave_room_for_others() {
    let crowd = Crowd::new(Deployment::new());
    // Most clients want as many organizations as may be open, again and again; the others want the rest.
    crowd.visit(
        Duration::from_secs(6),
        |client, n| if client < CLIENTS - FEW { client % OPEN } else { OPEN + client + n * 5 },
    );
}

#[test]
fn a_mail_server_that_says_nothing_keeps_no_file_open() {
    let office = PostOffice::open(Manner::Silent);
    let crowd = Crowd::with_mail(&office);
    crowd.visit(Duration::from_secs(6), |client, n| client * 7 + n * 11);
}

#[test]
fn a_body_that_arrives_slowly_keeps_no_file_open() {
    let crowd = Crowd::new(Deployment::new());
    let port = crowd.server.port;
    let mut slow: Vec<TcpStream> = Vec::new();
    for slug in &crowd.slugs[..2 * OPEN] {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let host = host_of(slug);
        let head = format!("POST /sign-in HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: 1000\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        slow.push(stream);
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..10 {
                for stream in &mut slow {
                    stream.write_all(b"x").unwrap();
                }
                thread::sleep(Duration::from_millis(500));
            }
        });
        crowd.visit(Duration::from_secs(4), |client, n| client * 7 + n * 11);
    });
}

#[test]
fn a_mail_is_sent_once_and_again_when_it_was_not_taken() {
    let office = PostOffice::open(Manner::Takes(Duration::from_millis(300)));
    let crowd = Crowd::with_mail(&office);
    let recover = |slug: &str| {
        let sent = Person::at(&crowd.server, &host_of(slug)).submit("/recovery", &[("email", &owner_of(slug))]);
        assert_eq!(sent.unwrap().status, 303);
    };
    let mails_to = |slug: &str| {
        let to = format!("To: {}\n", owner_of(slug));
        office.taken().iter().filter(|message| message.contains(&to)).count()
    };
    // Asked for while the one before is on its way.
    for _ in 0..4 {
        recover("crowd-0");
        thread::sleep(Duration::from_millis(100));
    }
    until("four mails", || mails_to("crowd-0") >= 4);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(mails_to("crowd-0"), 4);

    office.behave(Manner::Refuses("451 come back later"));
    recover("crowd-1");
    thread::sleep(Duration::from_secs(1));
    office.behave(Manner::Takes(Duration::ZERO));
    // Its file is closed meanwhile.
    for slug in &crowd.slugs[2..] {
        assert_eq!(crowd.server.client().send(&Request::get(&host_of(slug), "/sign-in")).unwrap().status, 200);
    }
    until("the second try", || mails_to("crowd-1") == 1);
    assert_eq!(crowd.server.client().send(&Request::get(HOST, "/readyz")).unwrap().status, 200);
}

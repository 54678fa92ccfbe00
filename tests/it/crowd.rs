//! More organizations in use than files may be open: everybody gets their turn, and nothing that takes long
//! outside a file keeps it open.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::post_office::{Manner, PostOffice};
use crate::process::{Deployment, HOST, Operator, PASSWORD, Person, Server, host_of, owner_of, until};
use crate::wire::Request;

/// The least that may be configured.
const OPEN: usize = 8;
const ORGANIZATIONS: usize = 40;
const CLIENTS: usize = 24;
/// The longest that anybody should wait. It is far more than it takes, and less than patience ends with.
const SOON: Duration = Duration::from_secs(3);

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
    /// the number of the visit; everybody must be served, and soon.
    fn visit(&self, length: Duration, choose: impl Fn(usize, usize) -> usize + Sync) {
        let (visits, longest) = (AtomicUsize::new(0), Mutex::new((Duration::ZERO, String::new())));
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (choose, visits, longest) = (&choose, &visits, &longest);
                scope.spawn(move || {
                    let begun = Instant::now();
                    for n in 0.. {
                        if begun.elapsed() >= length {
                            return;
                        }
                        let slug = &self.slugs[choose(client, n) % ORGANIZATIONS];
                        let (what, took) = self.do_something(slug, client + n);
                        visits.fetch_add(1, Ordering::Relaxed);
                        let mut longest = longest.lock().unwrap();
                        if took > longest.0 {
                            *longest = (took, format!("{what} of {slug} by client {client}"));
                        }
                    }
                });
            }
        });
        let (longest, what) = longest.into_inner().unwrap();
        println!("{} visits, the longest request took {longest:?}: {what}", visits.into_inner());
        assert!(longest < SOON, "{what} took {longest:?}");
    }

    /// One of the things that people do; tells how long the longest of its requests took.
    fn do_something(&self, slug: &str, n: usize) -> (&'static str, Duration) {
        let mut person = Person::at(&self.server, &host_of(slug));
        let begun = Instant::now();
        let page = person.get("/sign-in").unwrap();
        assert_eq!(page.status, 200, "{slug}: {}", page.text());
        let looked = begun.elapsed();
        let owner = owner_of(slug);
        let (path, fields) = match n % 10 {
            0..5 => return ("the page", looked),
            5..8 => ("/sign-in", vec![("email", owner.as_str()), ("password", PASSWORD)]),
            _ => ("/recovery", vec![("email", owner.as_str())]),
        };
        let csrf = page.csrf().unwrap();
        let begun = Instant::now();
        let request = Request::new("POST", &host_of(slug), path).cookie(&person.cookies());
        let answer = person.client.send(&request.form(&[&[("csrf", csrf.as_str())], &*fields].concat())).unwrap();
        assert_eq!(answer.status, 303, "{path} of {slug}: {}", answer.text());
        (path, looked.max(begun.elapsed()))
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
    crowd.visit(Duration::from_secs(6), |client, n| if client < 20 { client % OPEN } else { OPEN + client + n * 5 });
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

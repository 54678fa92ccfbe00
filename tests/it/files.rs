//! Organizations' files that are damaged, missing or somebody else's; more of them than may be open; and
//! names that lead to none.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use crate::crowd::served;
use crate::process::{
    Deployment, HOST, Operator, PASSWORD, Person, Server, host_of, owner_of, patience, session_check, until,
};
use crate::wire::Request;

/// A way to ruin an organization, with the server stopped, and what the operator must be told.
struct Ruin {
    slug: &'static str,
    by: fn(&Scene),
    reason: &'static str,
}

/// What a ruin works with.
struct Scene<'a> {
    deployment: &'a Deployment,
    id: &'a str,
    /// The directory of another organization, in good order.
    other: PathBuf,
}

impl Scene<'_> {
    fn file(&self) -> PathBuf {
        self.deployment.file(self.id)
    }

    fn sql(&self, sql: &str) {
        Connection::open(self.file()).unwrap().execute_batch(sql).unwrap();
    }
}

const RUINS: [Ruin; 14] = [
    Ruin { slug: "truncated", by: |scene| cut(&scene.file(), |bytes| bytes / 2), reason: "malformed" },
    Ruin { slug: "emptied", by: |scene| cut(&scene.file(), |_| 0), reason: "not a Bulkhead organization" },
    Ruin { slug: "garbage", by: |scene| overwrite(&scene.file(), 0, 100), reason: "not a database" },
    Ruin { slug: "inner-garbage", by: |scene| overwrite(&scene.file(), 4096, usize::MAX), reason: "malformed" },
    Ruin {
        slug: "other-kind",
        by: |scene| scene.sql("PRAGMA application_id = 7"),
        reason: "not a Bulkhead organization (application_id 0x7)",
    },
    Ruin {
        slug: "another-ones",
        by: |scene| {
            fs::copy(scene.other.join("db.sqlite"), scene.file()).unwrap();
        },
        reason: "belongs to org_",
    },
    Ruin { slug: "unstamped", by: |scene| scene.sql("DELETE FROM organization"), reason: "belongs to none" },
    Ruin { slug: "tableless", by: |scene| scene.sql("DROP TABLE organization"), reason: "no such table" },
    Ruin { slug: "newer", by: |scene| scene.sql("PRAGMA user_version = 999"), reason: "schema version 999" },
    Ruin { slug: "older-than-old", by: |scene| scene.sql("PRAGMA user_version = -1"), reason: "schema version -1" },
    Ruin { slug: "file-gone", by: |scene| fs::remove_file(scene.file()).unwrap(), reason: "unable to open" },
    Ruin {
        slug: "directory-gone",
        by: |scene| fs::remove_dir_all(scene.deployment.place(scene.id)).unwrap(),
        reason: "unable to open",
    },
    Ruin {
        slug: "unreadable-wal",
        by: |scene| {
            let wal = scene.deployment.place(scene.id).join("db.sqlite-wal");
            let _ = fs::remove_file(&wal);
            fs::create_dir(wal).unwrap();
        },
        reason: "unable to open",
    },
    Ruin {
        slug: "keyless",
        by: |scene| {
            let keyring = Connection::open(scene.deployment.data_dir().join("keyring.sqlite")).unwrap();
            keyring.execute("DELETE FROM data_key WHERE name = ?", params![scene.id]).unwrap();
        },
        reason: "data key is not in the keyring",
    },
];

#[test]
fn a_bad_file_is_the_trouble_of_one_organization() {
    let deployment = Deployment::new();
    let (server, mut operator, key) = deployment.started();
    let healthy = operator.organization("healthy");
    let ids: Vec<String> = RUINS.iter().map(|ruin| operator.organization(ruin.slug)).collect();
    server.stop();

    let kept = deployment.directory.path().join("kept");
    copy_all(&deployment.data_dir(), &kept);
    for (ruin, id) in RUINS.iter().zip(&ids) {
        (ruin.by)(&Scene { deployment: &deployment, id, other: deployment.place(&healthy) });
    }

    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    for (ruin, id) in RUINS.iter().zip(&ids) {
        for answer in [
            operator.get(&format!("/v1/organizations/{id}")).unwrap(),
            operator.get(&format!("/v1/organizations/{}/members", ruin.slug)).unwrap(),
            server.client().send(&session_check(&host_of(ruin.slug), "")).unwrap(),
        ] {
            assert_eq!((answer.status, answer.code().as_str()), (503, "organization_unavailable"), "{}", ruin.slug);
            assert!(answer.header("retry-after").is_some(), "{}: {:?}", ruin.slug, answer.headers);
            says_nothing(&deployment, ruin, &answer.text());
        }
        let page = Person::at(&server, &host_of(ruin.slug)).get("/sign-in").unwrap();
        assert_eq!(page.status, 503, "{}: {}", ruin.slug, page.text());
        says_nothing(&deployment, ruin, &page.text());
        assert_eq!(operator.get(&format!("/v1/organizations/{healthy}")).unwrap().status, 200);
    }
    Person::at(&server, &host_of("healthy")).sign_in(&owner_of("healthy")).unwrap();

    // The operator is told why, for each and for nobody else.
    let problems = Operator::problems(&deployment);
    assert_eq!(problems.len(), RUINS.len(), "{problems:#?}");
    for (ruin, id) in RUINS.iter().zip(&ids) {
        let problem = problems.iter().find(|(organization, _)| organization.as_deref() == Some(id));
        let problem = &problem.unwrap_or_else(|| panic!("nothing is said of {}", ruin.slug)).1;
        assert!(problem.contains(ruin.reason), "{}: {problem}", ruin.slug);
    }

    // Put back into its place, each is there again within seconds, without a restart.
    for id in &ids {
        let place = deployment.place(id);
        let _ = fs::remove_dir_all(&place);
        copy_all(&kept.join(place.strip_prefix(deployment.data_dir()).unwrap()), &place);
    }
    put_keys_back(&deployment, &kept);
    let deadline = patience();
    for ruin in &RUINS {
        let path = format!("/v1/organizations/{}", ruin.slug);
        while operator.get(&path).unwrap().status != 200 {
            assert!(Instant::now() < deadline, "{} does not come back", ruin.slug);
            thread::sleep(Duration::from_millis(100));
        }
        Person::at(&server, &host_of(ruin.slug)).sign_in(&owner_of(ruin.slug)).unwrap();
    }
    assert_eq!(Operator::problems(&deployment), []);
    server.stop();
}

#[test]
fn damage_that_is_met_while_a_file_is_open_sets_it_aside_until_it_is_repaired() {
    let deployment = Deployment::new();
    let (server, mut operator, key) = deployment.started();
    let [ill, well] = ["ill", "well"].map(|slug| operator.organization(slug));
    server.stop();
    let good = fs::read(deployment.file(&ill)).unwrap();

    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let (own, members) = (format!("/v1/organizations/{ill}"), format!("/v1/organizations/{ill}/members"));
    assert_eq!(operator.get(&own).unwrap().status, 200);
    // A disk gone bad: what is in memory is still right, what is read from now on is not.
    overwrite(&deployment.file(&ill), 4096, usize::MAX);
    let found = operator.get(&members).unwrap();
    assert_eq!((found.status, found.code().as_str()), (503, "organization_unavailable"), "{}", found.text());
    // Also for what could still be answered from memory: half an organization is worse than none.
    let found = operator.get(&own).unwrap();
    assert_eq!((found.status, found.code().as_str()), (503, "organization_unavailable"), "{}", found.text());
    assert_eq!(operator.get(&format!("/v1/organizations/{well}/members")).unwrap().status, 200);
    let problems = Operator::problems(&deployment);
    assert!(
        matches!(problems.as_slice(), [(Some(id), why)] if *id == ill && why.contains("malformed")),
        "{problems:?}"
    );

    // As a restore does it: a whole file under another name, then in one step.
    let beside = deployment.place(&ill).join("restored");
    fs::write(&beside, good).unwrap();
    fs::rename(beside, deployment.file(&ill)).unwrap();
    let deadline = patience();
    while operator.get(&members).unwrap().status != 200 {
        assert!(Instant::now() < deadline, "the organization does not come back");
        thread::sleep(Duration::from_millis(100));
    }
    Person::at(&server, &host_of("ill")).sign_in(&owner_of("ill")).unwrap();
    assert_eq!(Operator::problems(&deployment), []);
}

#[test]
fn more_organizations_at_once_than_may_be_open() {
    const OPEN: usize = 8;
    let deployment = Deployment::new().with("FILES_MAX_OPEN", OPEN);
    let (server, mut operator, key) = deployment.started();
    let slugs: Vec<String> = (0..40).map(|n| format!("crowd-{n}")).collect();
    for slug in &slugs {
        operator.organization(slug);
    }
    let (done, put_off) = (AtomicBool::new(false), AtomicUsize::new(0));
    let watched = thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&server, &key, &done));
        let workers: Vec<_> = (0..20)
            .map(|worker: usize| {
                let (server, slugs, put_off) = (&server, &slugs, &put_off);
                scope.spawn(move || {
                    for n in 0..24 {
                        let slug = &slugs[(worker * 7 + n * 11) % slugs.len()];
                        // The file is in use for as long as the password is hashed, and written after.
                        let mut person = Person::at(server, &host_of(slug));
                        let page = served(put_off, || person.get("/sign-in").unwrap());
                        assert_eq!(page.status, 200, "{slug}: {}", page.text());
                        if n % 4 == 0 {
                            let (csrf, owner) = (page.csrf().unwrap(), owner_of(slug));
                            let fields = [("csrf", csrf.as_str()), ("email", &owner), ("password", PASSWORD)];
                            let request = Request::new("POST", &host_of(slug), "/sign-in").cookie(&person.cookies());
                            let request = request.form(&fields);
                            let signed = served(put_off, || person.client.send(&request).unwrap());
                            assert_eq!(signed.status, 303, "{slug}: {}", signed.text());
                        }
                    }
                })
            })
            .collect();
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok), "somebody was not served");
        watching.join().unwrap()
    });
    println!("at most {} organizations open, {} descriptors of their files", watched.open, watched.descriptors);
    assert!(watched.open >= 2 && watched.open <= OPEN as u64, "{} organizations were open", watched.open);
    // A writer and two readers, each with the file and its WAL; one WAL index for all.
    assert!(watched.descriptors <= OPEN * 7, "{} descriptors", watched.descriptors);
    assert_eq!(Operator::problems(&deployment), []);
    server.stop();
}

#[test]
fn names_that_lead_nowhere_touch_no_file() {
    let deployment = Deployment::new();
    let key = deployment.operator_key();
    let mut server = deployment.serve();
    let known = Operator::new(&server, &key).organization("known");
    server.terminate();
    server.wait();

    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    assert_eq!(operator.open_files(), 0, "a start opens organizations");
    let before = listing(&deployment.data_dir());
    let ask = |host: &str| server.client().send(&Request::get(host, "/sign-in")).unwrap().status;
    for n in 0..100 {
        let stranger = format!("org_{n:026}");
        assert_eq!(ask(&format!("ghost-{n}.{HOST}")), 404);
        assert_eq!(ask(&format!("login{n}.elsewhere.test")), 404);
        for path in [format!("/o/ghost-{n}/sign-in"), format!("/o/{stranger}/sign-in"), "/o/..%2f..%2fetc/".to_owned()]
        {
            let answer = server.client().send(&Request::get(HOST, path)).unwrap();
            assert_eq!(answer.status, 404, "{}", answer.text());
        }
        let answer = operator.get(&format!("/v1/organizations/ghost-{n}/members")).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (404, "organization_not_found"));
    }
    assert_eq!(operator.open_files(), 0);
    assert_eq!(listing(&deployment.data_dir()), before);

    // And it is remembered: a row that appears behind the server's back is seen for a name that was never
    // asked for, and for a while not for one that was.
    let catalog = Connection::open(deployment.data_dir().join("catalog.sqlite")).unwrap();
    let asked = Instant::now();
    assert_eq!(ask("asked.elsewhere.test"), 404);
    for host in ["asked.elsewhere.test", "fresh.elsewhere.test"] {
        catalog.execute("INSERT INTO host (host, organization_id) VALUES (?, ?)", params![host, known]).unwrap();
    }
    let found = ask("asked.elsewhere.test");
    assert!(found == 404 || asked.elapsed() > Duration::from_secs(9), "{found}");
    assert_eq!(ask("fresh.elsewhere.test"), 200);
    // What appears through the server is known at once.
    assert_eq!(ask(&host_of("soon")), 404);
    operator.organization("soon");
    assert_eq!(ask(&host_of("soon")), 200);
}

#[test]
fn a_file_that_is_only_read_takes_no_descriptor_and_shows_every_change_at_once() {
    let deployment = Deployment::new();
    let key = deployment.operator_key();
    let server = deployment.serve();
    let id = Operator::new(&server, &key).organization("calm");
    let host = host_of("calm");
    let first = Person::at(&server, &host).sign_in(&owner_of("calm")).unwrap();
    server.stop();
    // One that was changed just now is likely to be changed again.
    let file = deployment.file(&id);
    until("the file is left alone", || {
        let changed = fs::metadata(&file).unwrap().modified().unwrap();
        changed.elapsed().is_ok_and(|since| since > Duration::from_secs(3))
    });

    let server = deployment.serve();
    let open = || -> Vec<PathBuf> {
        server.descriptors().into_iter().filter(|path| path.starts_with(deployment.place(&id))).collect()
    };
    let check = |session: &str| server.client().send(&session_check(&host, session)).unwrap().status;
    assert_eq!(check(&first), 200);
    let before = fs::read(&file).unwrap();
    assert_eq!(open(), Vec::<PathBuf>::new());

    let mut person = Person::at(&server, &host);
    let second = person.sign_in(&owner_of("calm")).unwrap();
    assert_eq!((check(&first), check(&second)), (200, 200));
    let request = person.form("/sign-out", &[]).cookie(&first);
    let signed_out = person.client.send(&request).unwrap();
    assert_eq!(signed_out.status, 303, "{}", signed_out.text());
    assert_eq!((check(&first), check(&second)), (401, 200));
    assert!(open().len() > 1, "{:?}", open());
    // What was acknowledged is in the WAL until that is folded.
    assert!(fs::read(&file).unwrap() == before);
    server.stop();
    assert!(fs::read(&file).unwrap() != before);
    assert_eq!(Operator::problems(&deployment), []);
}

/// The most that was open while others worked.
struct Watched {
    open: u64,
    descriptors: usize,
}

fn watch(server: &Server, key: &str, done: &AtomicBool) -> Watched {
    let mut operator = Operator::new(server, key);
    let mut most = Watched { open: 0, descriptors: 0 };
    while !done.load(Ordering::SeqCst) {
        let descriptors = server.descriptors().iter().filter(|path| path.to_string_lossy().contains("/orgs/")).count();
        most.descriptors = most.descriptors.max(descriptors);
        most.open = most.open.max(operator.open_files());
        thread::sleep(Duration::from_millis(2));
    }
    most
}

/// No path, no word of the reason, nothing of SQLite.
fn says_nothing(deployment: &Deployment, ruin: &Ruin, text: &str) {
    let directory = deployment.data_dir();
    for secret in [directory.to_str().unwrap(), "orgs/", ".sqlite", "sqlite", "SQL", "database", ruin.reason] {
        assert!(!text.contains(secret), "{} tells {secret:?}: {text}", ruin.slug);
    }
}

fn put_keys_back(deployment: &Deployment, kept: &Path) {
    let kept = Connection::open(kept.join("keyring.sqlite")).unwrap();
    let keyring = Connection::open(deployment.data_dir().join("keyring.sqlite")).unwrap();
    let mut statement = kept.prepare("SELECT name, wrapped, master_key_id, created_at FROM data_key").unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let (name, wrapped): (String, Vec<u8>) = (row.get(0).unwrap(), row.get(1).unwrap());
        let (master, at): (String, i64) = (row.get(2).unwrap(), row.get(3).unwrap());
        keyring
            .execute(
                "INSERT OR IGNORE INTO data_key (name, wrapped, master_key_id, created_at) VALUES (?, ?, ?, ?)",
                params![name, wrapped, master, at],
            )
            .unwrap();
    }
}

fn cut(path: &Path, to: fn(u64) -> u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(to(file.metadata().unwrap().len())).unwrap();
}

fn overwrite(path: &Path, from: usize, bytes: usize) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(path).unwrap();
    let end = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let garbage = vec![0xa5; end.min(from.saturating_add(bytes)) - from];
    file.write_all_at(&garbage, from as u64).unwrap();
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_all(&path, &copy);
        } else {
            fs::copy(path, copy).unwrap();
        }
    }
}

/// Every path below, so that a file which is made shows up.
fn listing(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(listing(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

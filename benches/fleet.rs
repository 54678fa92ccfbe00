//! Many organizations without asking the server for each: the file that it made for one, copied with another id,
//! another name and other credentials in it, and the rows of catalog and keyring that belong to the copies.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulkhead::base::{Credential, CredentialKind, OrganizationId, Timestamp};
use bulkhead::crypto::hash::{credential_hash, sha256};
use bulkhead::crypto::{DataKey, MasterKey};
use bulkhead::tenants::MIGRATIONS;
use rusqlite::{Connection, params};
use serde_json::json;

use crate::process::{Deployment, HOST, Operator, Person, host_of, owner_of, session_check};
use crate::wire::Request;

/// As long as the names of the copies, so that nothing moves in the file.
const SLUG: &str = "fleet-xxxxxx";
/// What an organization takes on the disk: its file, its directories, and what is made when it is opened.
const ROOM: u64 = 160 << 10;
/// The same with a copy of it in a folder beside it.
const ROOM_WITH_REPLICA: u64 = ROOM + (80 << 10);

/// The file of one organization with one owner, who is signed in, and one API key.
pub struct Template {
    bytes: Vec<u8>,
    id: String,
    session: [u8; 32],
    key: [u8; 32],
    /// The owner's id, the same in every copy.
    pub member: String,
    pub version: usize,
}

impl Template {
    /// As the server makes it.
    pub fn newest() -> Self {
        let deployment = Deployment::new();
        let operator_key = deployment.operator_key();
        let server = deployment.serve();
        let mut operator = Operator::new(&server, &operator_key);
        let id = operator.organization(SLUG);
        let cookie = Person::at(&server, &host_of(SLUG)).sign_in(&owner_of(SLUG)).unwrap();
        let session = cookie.split_once('=').unwrap().1.to_owned();
        let scopes = json!({ "name": "bench", "scopes": ["members:read", "members:write"] });
        let made = operator.post(&format!("/v1/organizations/{id}/api_keys"), &scopes).unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
        let key = made.json()["secret"].as_str().unwrap().to_owned();
        let members = operator.get(&format!("/v1/organizations/{id}/members")).unwrap().json();
        let member = members["data"][0]["id"].as_str().unwrap().to_owned();
        server.stop();
        let connection = Connection::open(deployment.file(&id)).unwrap();
        // Signs of life are written down once a minute: here never, so that a look stays a look.
        connection
            .execute_batch(
                "UPDATE session SET last_seen_at = last_seen_at + 604800000, expires_at = expires_at + 604800000,
                        idle_expires_at = idle_expires_at + 604800000;
                 UPDATE api_key SET last_used_at = created_at + 604800000",
            )
            .unwrap();
        let of = |kind, text: &str| credential_hash(&Credential::parse(kind, text).unwrap());
        let (session, key) = (of(CredentialKind::Session, &session), of(CredentialKind::ApiKey, &key));
        Self { bytes: folded(connection), id, session, key, member, version: MIGRATIONS.len() }
    }

    /// The same in the schema before.
    pub fn older(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (newest, older) = (directory.path().join("newest.sqlite"), directory.path().join("older.sqlite"));
        fs::write(&newest, &self.bytes).unwrap();
        let version = self.version - 1;
        let connection = Connection::open(&older).unwrap();
        MIGRATIONS[..version].iter().for_each(|step| connection.execute_batch(step).unwrap());
        connection.execute("ATTACH ? AS newest", [newest.to_str().unwrap()]).unwrap();
        let names = |sql: &str| -> Vec<String> {
            let mut statement = connection.prepare(sql).unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        for table in names("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'") {
            let columns = names(&format!("SELECT name FROM pragma_table_info('{table}', 'main')")).join(", ");
            let copy = format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newest.{table}");
            connection.execute(&copy, []).unwrap();
        }
        let stamp: i64 = connection.query_row("PRAGMA newest.application_id", [], |row| row.get(0)).unwrap();
        connection.execute_batch("DETACH newest").unwrap();
        connection.pragma_update(None, "application_id", stamp).unwrap();
        connection.pragma_update(None, "user_version", version as i64).unwrap();
        connection.execute_batch("VACUUM").unwrap();
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        let (id, member) = (self.id.clone(), self.member.clone());
        Self { bytes: folded(connection), id, member, session: self.session, key: self.key, version }
    }

    /// Where something stands in the file.
    fn places(&self, what: &[u8]) -> Vec<usize> {
        let found: Vec<usize> =
            self.bytes.windows(what.len()).enumerate().filter(|(_, bytes)| *bytes == what).map(|(at, _)| at).collect();
        assert!(!found.is_empty(), "the template has not got what is to be replaced in it");
        found
    }
}

/// The bytes of a database, with everything in one file.
fn folded(connection: Connection) -> Vec<u8> {
    let path = PathBuf::from(connection.path().unwrap());
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    connection.close().unwrap();
    fs::read(path).unwrap()
}

/// A deployment with many organizations, `fleet-000000` and so on.
pub struct Fleet {
    deployment: Option<Deployment>,
    ids: Vec<OrganizationId>,
    pub member: String,
    pub operator_key: String,
}

impl Fleet {
    pub fn make(count: usize, template: &Template) -> Self {
        let started = Instant::now();
        let deployment = Deployment::new();
        require_room(&deployment, count);
        let operator_key = deployment.operator_key();
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        // A month old: a start looks again at those that were made lately.
        let month_ago = i64::try_from(now).unwrap() - 30 * 86_400_000;
        let ids: Vec<OrganizationId> = (0..count)
            .map(|n| {
                let random = sha256(&n.to_be_bytes());
                let at = Timestamp::from_millis(month_ago + i64::try_from(n).unwrap());
                OrganizationId::new(at, random[..10].try_into().unwrap())
            })
            .collect();
        let fleet = Self { deployment: Some(deployment), ids, member: template.member.clone(), operator_key };
        fleet.register(template.version, month_ago);
        fleet.copy(template);
        // What the kernel has not written yet would be written during what is measured.
        rustix::fs::sync();
        eprintln!("  made {count} organizations in {:.1?}", started.elapsed());
        let_files_rest();
        fleet
    }

    fn register(&self, version: usize, at: i64) {
        let data = self.deployment().data_dir();
        let text = fs::read_to_string(data.join("master.key")).unwrap();
        let master = text.lines().find_map(|line| MasterKey::parse(line.split('#').next()?)).unwrap();
        let mut catalog = Connection::open(data.join("catalog.sqlite")).unwrap();
        let mut keyring = Connection::open(data.join("keyring.sqlite")).unwrap();
        let (entries, keys) = (catalog.transaction().unwrap(), keyring.transaction().unwrap());
        for (n, id) in self.ids.iter().map(ToString::to_string).enumerate() {
            entries
                .prepare_cached(
                    "INSERT INTO organization (id, slug, state, schema_version, created_at, updated_at)
                     VALUES (?1, ?2, 'active', ?3, ?4, ?4)",
                )
                .unwrap()
                .execute(params![id, slug(n), version as i64, at])
                .unwrap();
            keys.prepare_cached("INSERT INTO data_key (name, wrapped, master_key_id, created_at) VALUES (?, ?, ?, ?)")
                .unwrap()
                .execute(params![id, master.wrap(&id, &DataKey::generate()), master.id(), at])
                .unwrap();
        }
        entries.commit().unwrap();
        keys.commit().unwrap();
    }

    fn copy(&self, template: &Template) {
        let [ids, slugs, sessions, keys] = [template.id.as_bytes(), SLUG.as_bytes(), &template.session, &template.key]
            .map(|what| template.places(what));
        let part = self.ids.len().div_ceil(2).max(1);
        thread::scope(|scope| {
            for (half, part_of) in self.ids.chunks(part).enumerate() {
                let (ids, slugs, sessions, keys) = (&ids, &slugs, &sessions, &keys);
                scope.spawn(move || {
                    let mut bytes = template.bytes.clone();
                    for (n, id) in part_of.iter().enumerate().map(|(at, id)| (half * part + at, id)) {
                        let mut put = |places: &[usize], what: &[u8]| {
                            for at in places {
                                bytes[*at..at + what.len()].copy_from_slice(what);
                            }
                        };
                        put(ids, id.to_string().as_bytes());
                        put(slugs, slug(n).as_bytes());
                        put(sessions, &credential_hash(&self.credential(CredentialKind::Session, n)));
                        put(keys, &credential_hash(&self.credential(CredentialKind::ApiKey, n)));
                        let place = self.deployment().place(&id.to_string());
                        fs::create_dir_all(&place).unwrap();
                        fs::write(place.join("db.sqlite"), &bytes).unwrap();
                    }
                });
            }
        });
    }

    pub fn deployment(&self) -> &Deployment {
        self.deployment.as_ref().unwrap()
    }

    /// Another setting, from the next start on.
    pub fn set(&mut self, setting: &str, value: impl ToString) {
        self.deployment = self.deployment.take().map(|deployment| deployment.with(setting, value));
    }

    /// From now on copies go to a folder beside the data; where.
    pub fn back_up(&mut self) -> PathBuf {
        let replica = self.deployment().directory.path().join("replica");
        self.set("BACKUP_URL", format!("file://{}", replica.display()));
        replica
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn files(&self) -> Vec<PathBuf> {
        self.ids.iter().map(|id| self.deployment().file(&id.to_string())).collect()
    }

    /// The session check of one organization, as it goes over the wire.
    pub fn check(&self, n: usize) -> Vec<u8> {
        let token = self.credential(CredentialKind::Session, n);
        let cookie = format!("bh_session_{}={}", self.ids[n].hint(), token.expose());
        session_check(&host_of(&slug(n)), &cookie).bytes(self.deployment().port)
    }

    /// A request that changes a member, commits, and is in the audit log.
    pub fn write(&self, n: usize, title: &str) -> Vec<u8> {
        let path = format!("/v1/organizations/{}/members/{}", self.ids[n], self.member);
        let key = self.credential(CredentialKind::ApiKey, n);
        let request = Request::new("PATCH", HOST, path).bearer(key.expose());
        request.json(&json!({ "title": title })).bytes(self.deployment().port)
    }

    fn credential(&self, kind: CredentialKind, n: usize) -> Credential {
        Credential::mint(kind, Some(self.ids[n]), sha256(format!("{} {n}", kind.prefix()).as_bytes()))
    }
}

/// A file that was changed just now is taken for one that is about to be changed again.
pub fn let_files_rest() {
    thread::sleep(Duration::from_secs(3));
}

pub fn slug(n: usize) -> String {
    format!("fleet-{n:06}")
}

fn require_room(deployment: &Deployment, count: usize) {
    let found = rustix::fs::statvfs(deployment.directory.path()).unwrap();
    let (free, needed) = (found.f_bavail * found.f_frsize, count as u64 * ROOM_WITH_REPLICA);
    assert!(
        free > needed,
        "{count} organizations need {} MiB of disk, and {} MiB are free: use --organizations N",
        needed >> 20,
        free >> 20
    );
}

/// Numbers without order, the same in every run.
pub struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Knuth's MMIX generator.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    pub fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            all.swap(at, self.below(at + 1));
        }
        all
    }
}

//! Password hashing with Argon2id (RFC 9106), on threads of its own.
//!
//! One hash takes a core for some 30 ms and 19 MiB, by intent. So it happens on a few dedicated
//! threads of low priority behind a bounded queue: a flood of sign-ins makes further sign-ins wait or
//! be refused, while every other request stays as fast as before. Organizations wait in queues of their own
//! ([`Share`]), so it is the flooded one's sign-ins that wait.

use std::collections::TryReserveError;
use std::sync::Arc;
use std::time::Duration;

use argon2::{Algorithm, Argon2, Block, Params, PasswordHash, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::line::{Full, Line, Share};
use super::{background, hash, random};
use crate::base::{Error, Result, Secret, codes};

/// In bytes. Nobody types more, and hashing takes time in proportion.
const LONGEST_PASSWORD: usize = 1024;
const HASH: usize = 32;
const SALT: usize = 16;
/// What we agree to spend on one hash, whoever wrote the parameters.
const MOST_MEMORY_KIB: u32 = 256 * 1024;
const MOST_ITERATIONS: u32 = 16;
const MOST_PARALLELISM: u32 = 16;

/// What one hash costs. The default is the OWASP recommendation (Password Storage Cheat Sheet).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HashParameters {
    /// In KiB; at least 8 for each lane, at most 256 MiB.
    pub memory_kib: u32,
    /// Passes over the memory, 1 to 16.
    pub iterations: u32,
    /// Lanes, 1 to 16; they are computed one after the other.
    pub parallelism: u32,
}

impl Default for HashParameters {
    fn default() -> Self {
        Self { memory_kib: 19_456, iterations: 2, parallelism: 1 }
    }
}

impl HashParameters {
    fn to_params(self) -> Option<Params> {
        let bounded = self.memory_kib <= MOST_MEMORY_KIB
            && self.iterations <= MOST_ITERATIONS
            && self.parallelism <= MOST_PARALLELISM;
        bounded.then(|| Params::new(self.memory_kib, self.iterations, self.parallelism, Some(HASH)).ok())?
    }
}

/// What came of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Another password, or nobody's.
    No,
    /// The right one.
    Yes,
    /// The right one, but hashed with other parameters than today's: hash it again and store that.
    YesRehash,
}

/// The hashing threads; clones share them, and they end with the last clone.
#[derive(Clone)]
pub struct PasswordHasher(Arc<Door>);

/// Closes the line when the last hasher is gone: the threads hold the line and not this.
struct Door(Arc<Line<Job>>);

impl Drop for Door {
    fn drop(&mut self) {
        self.0.close();
    }
}

enum Job {
    Hash { password: Secret, reply: oneshot::Sender<Result<String>> },
    Verify { password: Secret, phc: Option<String>, reply: oneshot::Sender<Result<Verdict>> },
}

impl PasswordHasher {
    /// Starts `workers` threads with room for `queue` waiting requests (at least one of each). Fails
    /// if the parameters are out of bounds.
    pub fn new(parameters: HashParameters, workers: usize, queue: usize) -> Result<Self> {
        let ours = parameters.to_params().ok_or_else(|| {
            Error::internal(format!("these parameters for password hashing are out of bounds: {parameters:?}"))
        })?;
        let line = Arc::new(Line::new(queue));
        // First: if a thread cannot be started, those before it go home.
        let door = Door(Arc::clone(&line));
        let decoy = Stored::decoy(&ours);
        for n in 0..workers.max(1) {
            let line = Arc::clone(&line);
            let mut worker = Worker { ours: ours.clone(), decoy: decoy.clone(), memory: Vec::new() };
            background::spawn(format!("password-{n}"), move || {
                while let Some((organization, job)) = line.next() {
                    worker.run(job);
                    line.done(organization);
                }
            })?;
        }
        Ok(Self(Arc::new(door)))
    }

    /// How many wait for a thread.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.0.waiting()
    }

    /// A new PHC string: `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`.
    pub async fn hash(&self, share: Share, password: Secret) -> Result<String> {
        if password.expose().len() > LONGEST_PASSWORD {
            return Err(Error::new(&codes::VALIDATION_FAILED).field("password", "too_long", "This is too long."));
        }
        self.ask(share, |reply| Job::Hash { password, reply }).await
    }

    /// Compares with a stored PHC string. `None` is a member who is unknown or has no password: it
    /// costs as much and is always [`Verdict::No`], so that the time of an answer does not tell who
    /// exists.
    pub async fn verify(&self, share: Share, password: Secret, phc: Option<String>) -> Result<Verdict> {
        if password.expose().len() > LONGEST_PASSWORD {
            // Nobody has such a password, so a quick answer tells nothing either.
            return Ok(Verdict::No);
        }
        self.ask(share, |reply| Job::Verify { password, phc, reply }).await
    }

    async fn ask<T>(&self, share: Share, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        // Never waits for room: whoever waits in front of the queue is a queue without a bound.
        match self.0.0.join(share, job(reply)) {
            Ok(None) => {}
            Ok(Some(newest)) => newest.refuse(too_many_of_one()),
            Err(Full::Own) => return Err(too_many_of_one()),
            Err(Full::All) => {
                return Err(Error::new(&codes::OVERLOADED)
                    .retry_after(COME_BACK)
                    .because("the queue for passwords is full"));
            }
        }
        answer.await.map_err(|_| Error::internal("a password thread ended early"))?
    }
}

/// When whoever was refused may try again: a thread makes some room in this time.
const COME_BACK: Duration = Duration::from_secs(1);

fn too_many_of_one() -> Error {
    Error::new(&codes::ORGANIZATION_HASHING_LIMITED).retry_after(COME_BACK)
}

impl Job {
    /// Answers without any work.
    fn refuse(self, error: Error) {
        match self {
            Self::Hash { reply, .. } => drop(reply.send(Err(error))),
            Self::Verify { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// Whether a PHC string from elsewhere is one that can be compared with, at a price that we agree to.
#[must_use]
pub fn is_usable(phc: &str) -> bool {
    phc.len() <= 512 && Stored::parse(phc).is_some()
}

/// A PHC string taken apart (only Argon2id, within bounds).
#[derive(Clone)]
struct Stored {
    params: Params,
    version: Version,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Stored {
    /// Compared in place of a missing hash. Nobody has to know a password for it: the bits are random.
    fn decoy(params: &Params) -> Self {
        let (salt, hash): ([u8; SALT], [u8; HASH]) = (random::bytes(), random::bytes());
        Self { params: params.clone(), version: Version::V0x13, salt: salt.into(), hash: hash.into() }
    }

    fn parse(phc: &str) -> Option<Self> {
        let phc = PasswordHash::new(phc).ok()?;
        let params = Params::try_from(&phc).ok()?;
        // A damaged or planted hash must not cost more than we agree to.
        let bounded = params.m_cost() <= MOST_MEMORY_KIB
            && params.t_cost() <= MOST_ITERATIONS
            && params.p_cost() <= MOST_PARALLELISM;
        if phc.algorithm != argon2::ARGON2ID_IDENT || !bounded {
            return None;
        }
        let hash = phc.hash?.as_bytes().to_vec();
        Some(Self {
            params,
            // Strings without a version are of the first one.
            version: phc.version.map_or(Ok(Version::V0x10), Version::try_from).ok()?,
            salt: AsRef::<[u8]>::as_ref(&phc.salt?).to_vec(),
            // A short hash would be matched by many passwords.
            hash: (hash.len() >= 16).then_some(hash)?,
        })
    }

    fn is_like(&self, ours: &Params) -> bool {
        let costs = |params: &Params| (params.m_cost(), params.t_cost(), params.p_cost());
        costs(&self.params) == costs(ours)
            && self.version == Version::V0x13
            && self.salt.len() >= SALT
            && self.hash.len() == HASH
    }
}

/// One thread's state. The memory is allocated once and kept: 19 MiB of fresh pages for each sign-in
/// would be thousands of page faults, and a moving peak of memory.
struct Worker {
    ours: Params,
    decoy: Stored,
    memory: Vec<Block>,
}

impl Worker {
    fn run(&mut self, job: Job) {
        // Whoever asked may have hung up while this waited. A reply that nobody takes is dropped.
        match job {
            Job::Hash { reply, .. } if reply.is_closed() => {}
            Job::Verify { reply, .. } if reply.is_closed() => {}
            Job::Hash { password, reply } => drop(reply.send(self.hash(&password))),
            Job::Verify { password, phc, reply } => drop(reply.send(self.verify(&password, phc.as_deref()))),
        }
    }

    fn hash(&mut self, password: &Secret) -> Result<String> {
        let salt: [u8; SALT] = random::bytes();
        let mut hash = [0; HASH];
        let params = self.ours.clone();
        let head = format!("$argon2id$v=19$m={},t={},p={}", params.m_cost(), params.t_cost(), params.p_cost());
        self.derive(params, Version::V0x13, password, &salt, &mut hash)?;
        Ok(format!("{head}${}${}", STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash)))
    }

    fn verify(&mut self, password: &Secret, phc: Option<&str>) -> Result<Verdict> {
        let stored = match phc {
            Some(phc) => Stored::parse(phc).ok_or_else(|| Error::internal("a stored password hash is damaged"))?,
            None => self.decoy.clone(),
        };
        let mut hash = vec![0; stored.hash.len()];
        self.derive(stored.params.clone(), stored.version, password, &stored.salt, &mut hash)?;
        let same = hash::equal(&hash, &stored.hash);
        Ok(match (same && phc.is_some(), stored.is_like(&self.ours)) {
            (false, _) => Verdict::No,
            (true, true) => Verdict::Yes,
            (true, false) => Verdict::YesRehash,
        })
    }

    fn derive(
        &mut self,
        params: Params,
        version: Version,
        password: &Secret,
        salt: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let (blocks, passes) = (params.block_count(), params.t_cost());
        let failed = |error: argon2::Error| Error::internal(format!("a password could not be hashed: {error}"));
        self.reserve(blocks).map_err(|error| Error::new(&codes::OVERLOADED).source(error))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, version, params);
        let memory = &mut self.memory[..blocks];
        let result = argon2.hash_password_into_with_memory(password.expose().as_bytes(), salt, out, &mut *memory);
        // After a single pass the first blocks are a fast hash of the password: left behind, they would let
        // whoever reads this memory try passwords without Argon2's cost. A second pass has overwritten them
        // with what costs a whole pass to test, and wiping would cost a tenth of it at every sign-in.
        if passes == 1 {
            memory.fill(Block::new());
        }
        // An imported hash may have asked for much more than ours; it is not kept for ever.
        self.memory.truncate(self.ours.block_count());
        self.memory.shrink_to_fit();
        result.map_err(failed)
    }

    fn reserve(&mut self, blocks: usize) -> Result<(), TryReserveError> {
        self.memory.try_reserve_exact(blocks.saturating_sub(self.memory.len()))?;
        self.memory.resize(blocks.max(self.memory.len()), Block::new());
        Ok(())
    }
}

impl std::fmt::Debug for PasswordHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordHasher").field("waiting", &self.waiting()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Share = Share::of_nobody();
    const CHEAP: HashParameters = HashParameters { memory_kib: 64, iterations: 1, parallelism: 1 };

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn worker() -> Worker {
        let ours = CHEAP.to_params().unwrap();
        Worker { decoy: Stored::decoy(&ours), ours, memory: Vec::new() }
    }

    #[tokio::test]
    async fn a_password_is_recognised_and_another_is_not() {
        let hasher = PasswordHasher::new(CHEAP, 2, 8).unwrap();
        let phc = hasher.hash(NOBODY, secret("plum otter")).await.unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{phc}");
        assert_ne!(phc, hasher.hash(NOBODY, secret("plum otter")).await.unwrap(), "the salt is not random");
        assert_eq!(hasher.verify(NOBODY, secret("plum otter"), Some(phc.clone())).await.unwrap(), Verdict::Yes);
        assert_eq!(hasher.verify(NOBODY, secret("plum otters"), Some(phc.clone())).await.unwrap(), Verdict::No);
        assert_eq!(hasher.verify(NOBODY, secret(""), Some(phc)).await.unwrap(), Verdict::No);
    }

    #[tokio::test]
    async fn the_library_reads_what_we_write() {
        use argon2::PasswordVerifier as _;
        let hasher = PasswordHasher::new(HashParameters::default(), 1, 1).unwrap();
        let phc = hasher.hash(NOBODY, secret("plum otter")).await.unwrap();
        let parsed = PasswordHash::new(&phc).unwrap();
        Argon2::default().verify_password(b"plum otter", &parsed).unwrap();
    }

    #[test]
    fn an_unknown_member_costs_the_same_work_and_is_always_refused() {
        let mut worker = worker();
        assert_eq!(worker.verify(&secret("any"), None).unwrap(), Verdict::No);
        assert_eq!(worker.memory.len(), worker.ours.block_count());
        assert!(worker.decoy.is_like(&worker.ours));
        // Not even the decoy's own password would open it.
        let phc = worker.hash(&secret("decoy")).unwrap();
        worker.decoy = Stored::parse(&phc).unwrap();
        assert_eq!(worker.verify(&secret("decoy"), None).unwrap(), Verdict::No);
    }

    #[test]
    fn hashes_with_other_parameters_are_recognised_and_due_again() {
        let ours = HashParameters { memory_kib: 256, iterations: 2, parallelism: 2 }.to_params().unwrap();
        let mut other = Worker { decoy: Stored::decoy(&ours), ours, memory: Vec::new() };
        let phc = other.hash(&secret("plum otter")).unwrap();
        let mut worker = worker();
        assert_eq!(worker.verify(&secret("plum otter"), Some(&phc)).unwrap(), Verdict::YesRehash);
        assert_eq!(worker.verify(&secret("plum"), Some(&phc)).unwrap(), Verdict::No);
        assert_eq!(worker.memory.len(), worker.ours.block_count(), "the larger memory was kept");
    }

    #[test]
    fn damaged_hashes_are_faults_and_never_expensive() {
        let (salt, hash) = ("c29tZXNhbHRzb21lc2FsdA", "A".repeat(43));
        assert!(Stored::parse(&format!("$argon2id$v=19$m=64,t=1,p=1${salt}${hash}")).is_some());
        for damaged in [
            String::new(),
            "plaintext".to_owned(),
            format!("$argon2i$v=19$m=64,t=1,p=1${salt}${hash}"),
            format!("$argon2id$v=19$m=262145,t=1,p=1${salt}${hash}"),
            format!("$argon2id$v=19$m=64,t=17,p=1${salt}${hash}"),
            format!("$argon2id$v=19$m=4294967295,t=1,p=1${salt}${hash}"),
            format!("$argon2id$v=19$m=64,t=1,p=0${salt}${hash}"),
            format!("$argon2id$v=20$m=64,t=1,p=1${salt}${hash}"),
            format!("$argon2id$v=19$m=64,t=1,p=1${salt}$AAAAAAA"),
            format!("$argon2id$v=19$m=64,t=1,p=1${salt}"),
        ] {
            let mut worker = worker();
            assert!(worker.verify(&secret("any"), Some(&damaged)).is_err(), "{damaged}");
            assert!(worker.memory.is_empty(), "{damaged} was hashed");
        }
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let slow = HashParameters { memory_kib: 32 * 1024, iterations: 4, parallelism: 1 };
        let hasher = PasswordHasher::new(slow, 1, 1).unwrap();
        let refused_of_eight = async || {
            let tasks: Vec<_> = (0..8)
                .map(|_| {
                    let hasher = hasher.clone();
                    tokio::spawn(async move { hasher.hash(NOBODY, secret("plum otter")).await })
                })
                .collect();
            let mut refused = 0;
            for task in tasks {
                if let Err(error) = task.await.unwrap() {
                    assert!(error.is(&codes::OVERLOADED));
                    assert_eq!(error.retry(), Some(Duration::from_secs(1)));
                    refused += 1;
                }
            }
            refused
        };
        let mut refused = refused_of_eight().await;
        // This thread may be stopped between two of them for as long as a hash takes.
        for _ in 0..20 {
            if (5..8).contains(&refused) {
                break;
            }
            refused = refused_of_eight().await;
        }
        assert!((5..8).contains(&refused), "{refused} were refused");
        assert!(hasher.hash(NOBODY, secret("plum otter")).await.is_ok(), "the thread did not recover");
    }

    #[test]
    fn work_that_nobody_waits_for_is_skipped() {
        let mut worker = worker();
        let (reply, answer) = oneshot::channel();
        drop(answer);
        worker.run(Job::Verify { password: secret("any"), phc: None, reply });
        let (reply, answer) = oneshot::channel();
        drop(answer);
        worker.run(Job::Hash { password: secret("any"), reply });
        assert!(worker.memory.is_empty());
    }

    #[tokio::test]
    async fn very_long_passwords_are_never_hashed() {
        let hasher = PasswordHasher::new(CHEAP, 1, 1).unwrap();
        let long = "x".repeat(LONGEST_PASSWORD + 1);
        assert!(hasher.hash(NOBODY, secret(&long)).await.unwrap_err().is(&codes::VALIDATION_FAILED));
        assert_eq!(hasher.verify(NOBODY, secret(&long), None).await.unwrap(), Verdict::No);
    }

    #[test]
    fn parameters_out_of_bounds_are_refused_at_start() {
        for wrong in [
            HashParameters { memory_kib: 4, ..CHEAP },
            HashParameters { memory_kib: MOST_MEMORY_KIB + 1, ..CHEAP },
            HashParameters { iterations: 0, ..CHEAP },
            HashParameters { iterations: 17, ..CHEAP },
            HashParameters { parallelism: 0, ..CHEAP },
        ] {
            assert!(PasswordHasher::new(wrong, 1, 1).is_err(), "{wrong:?}");
        }
    }
}

//! The checking process: the same program, started again with nothing but one folder to work in, bounds on memory,
//! time and what it may write, and an empty environment. What it says is judged again by whoever asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use super::check::{Bounds, check};
use crate::base::{Error, Result, Secret, codes};
use crate::crypto::envelope::Key;
use crate::features::export::format::{Manifest, SecretValue};

/// The command line of the checking process, not to be typed by people.
pub const SUBCOMMAND: &str = "import-check";
/// The running program, wherever its file has gone.
const ITSELF: &str = "/proc/self/exe";
/// Archives that are checked at the same moment.
const AT_ONCE: usize = 2;
/// More than a verdict with all secrets has.
const LONGEST_VERDICT: u64 = 128 << 20;
pub(super) const ARCHIVE: &str = "archive.tar.zst";
pub(super) const ROWS: &str = "rows.jsonl";

/// What an upload may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the upload.
    pub upload: u64,
    pub bounds: Bounds,
    pub time: Duration,
    /// Address space of the process, in bytes.
    pub memory: u64,
    /// The program that checks; `None` is this one.
    pub program: Option<PathBuf>,
}

/// Checks uploads, each in a process and a folder of its own; cheap to clone.
#[derive(Clone)]
pub struct Checker(Arc<Inner>);

struct Inner {
    root: PathBuf,
    limits: Limits,
    hands: Semaphore,
}

/// What the process is told on its standard input.
#[derive(Serialize, Deserialize)]
struct Question {
    unpacked: u64,
    rows: u64,
    seconds: u64,
    memory: u64,
    /// A passphrase or a key for the secrets.
    key: Option<String>,
}

/// What it answers on its standard output.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Good(Box<Verdict>),
    Refused { code: String, detail: String },
}

/// A good archive. The rows are in the folder.
#[derive(Serialize, Deserialize)]
pub(super) struct Verdict {
    pub manifest: Manifest,
    pub manifest_sha256: String,
    pub signed_by: String,
    pub secrets: Option<Vec<SecretValue>>,
}

/// A private folder for one upload, gone when this is dropped.
pub(super) struct Spool(PathBuf);

impl Spool {
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "what was left of an upload could not be removed; the next start removes it");
        }
    }
}

impl Checker {
    /// What was being checked when the process ended is thrown away. Blocking.
    pub fn open(root: &Path, limits: Limits) -> Result<Self> {
        let cleared = match fs::remove_dir_all(root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        cleared.map_err(|error| Error::internal(format!("cannot clear {}", root.display())).source(error))?;
        Ok(Self(Arc::new(Inner { root: root.to_owned(), limits, hands: Semaphore::new(AT_ONCE) })))
    }

    #[must_use]
    pub fn largest_upload(&self) -> u64 {
        self.0.limits.upload
    }

    /// A new folder.
    pub(super) fn spool(&self, name: &str) -> Result<Spool> {
        let folder = self.0.root.join(name);
        let made = fs::create_dir_all(&folder);
        made.map_err(|error| Error::of_disk(&codes::INTERNAL, format!("cannot make {}", folder.display()), error))?;
        Ok(Spool(folder))
    }

    /// Has the archive in `spool` checked.
    pub(super) async fn check(&self, spool: &Spool, key: Option<&Secret>) -> Result<Verdict> {
        let _hand = self.0.hands.acquire().await.map_err(|_| Error::new(&codes::OVERLOADED))?;
        let limits = &self.0.limits;
        let program = match &limits.program {
            Some(program) => Ok(program.clone()),
            // Still this very program after an upgrade has put another in its place (proc(5)).
            None if Path::new(ITSELF).exists() => Ok(ITSELF.into()),
            None => std::env::current_exe(),
        };
        let program = program.map_err(|error| Error::internal("this program has no path").source(error))?;
        let question = Question {
            unpacked: limits.bounds.unpacked,
            rows: limits.bounds.rows,
            seconds: limits.time.as_secs(),
            memory: limits.memory,
            key: key.map(|key| key.expose().to_owned()),
        };
        let question = serde_json::to_vec(&question).map_err(|error| Error::internal("a question").source(error))?;
        let mut command = Command::new(program);
        command
            .arg(SUBCOMMAND)
            // Neither the master key nor anything else of ours.
            .env_clear()
            .current_dir(&spool.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let (mut child, _parent) = start(command).await?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let talk = async {
            let mut answer = Vec::new();
            let mut stdout = stdout.map(|stdout| stdout.take(LONGEST_VERDICT));
            if let Some(stdout) = &mut stdout {
                // It says something first: from then on it ends with us.
                stdout.read_buf(&mut answer).await?;
            }
            if let Some(mut stdin) = stdin {
                stdin.write_all(&question).await?;
                stdin.shutdown().await?;
            }
            if let Some(mut stdout) = stdout {
                stdout.read_to_end(&mut answer).await?;
            }
            child.wait().await.map(|status| (status, answer))
        };
        let ended = tokio::time::timeout(limits.time, talk).await;
        let overrun = |why: String| Error::new(&codes::IMPORT_CHECK_FAILED).because(why);
        let (status, answer) = ended
            .map_err(|_| overrun("it took too long".into()))?
            .map_err(|error| overrun(format!("it did not listen: {error}")))?;
        match serde_json::from_slice(&answer) {
            Ok(Answer::Good(verdict)) if status.success() => Ok(*verdict),
            Ok(Answer::Refused { code, detail }) => Err(refusal(&code, detail)),
            _ => Err(overrun(format!("it ended without a verdict: {status}"))),
        }
    }
}

/// A process that was started; it is killed when the second half is dropped.
async fn start(mut command: Command) -> Result<(Child, std::sync::mpsc::Sender<()>)> {
    let failed = || Error::internal("the checking process cannot be started");
    let runtime = tokio::runtime::Handle::current();
    let (sent, started) = tokio::sync::oneshot::channel();
    let (alive, ended) = std::sync::mpsc::channel();
    // Its parent is not this program but the thread that starts it (prctl(2), PR_SET_PDEATHSIG), and threads of the
    // runtime come and go: one that does nothing else stays for as long.
    let parent = move || {
        let _inside = runtime.enter();
        let _ = sent.send(command.spawn());
        let _ = ended.recv();
    };
    std::thread::Builder::new().name(SUBCOMMAND.to_owned()).spawn(parent).map_err(|error| failed().source(error))?;
    let child = started.await.map_err(|_| failed())?;
    Ok((child.map_err(|error| failed().source(error))?, alive))
}

/// The refusal in our own codes: a process that was taken over can choose among these and no others.
fn refusal(code: &str, detail: String) -> Error {
    if code == codes::STORAGE_FULL.name {
        return Error::new(&codes::STORAGE_FULL).retry_after(Duration::from_secs(10));
    }
    let known = codes::ALL.iter().find(|known| known.name == code && known.name.starts_with("import_"));
    let plain: String = detail.chars().filter(|c| !c.is_control()).take(300).collect();
    known.map_or_else(|| Error::new(&codes::IMPORT_CHECK_FAILED), |code| Error::new(code).detail(plain))
}

/// The whole of the checking process, in the folder that it was started in: ties its life to whoever started it, reads
/// the question, binds its own hands, looks, answers.
pub fn run_check(input: impl std::io::Read, mut output: impl std::io::Write) -> Result<()> {
    let failed = |what: &str| Error::internal(format!("the checking process: {what}"));
    // Nobody would read the answer, and until its time is over it would hold what it has unpacked.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed("it has no parent").source(error))?;
    // White space of the answer. Only then the question is sent: whoever ended before this never asked it, so that
    // what follows it is the end of the input.
    output.write_all(b"\n").and_then(|()| output.flush()).map_err(|_| failed("nobody listens"))?;
    let question: Question =
        serde_json::from_reader(input.take(1 << 20)).map_err(|_| failed("it was not asked properly"))?;
    bind_hands(&question).map_err(|error| failed("it cannot be confined").source(error))?;
    let answer = match look(&question) {
        Ok(verdict) => Answer::Good(Box::new(verdict)),
        Err(error) => Answer::Refused { code: error.code().name.to_owned(), detail: error.public_detail().to_owned() },
    };
    serde_json::to_writer(output, &answer).map_err(|_| failed("nobody listens"))
}

fn look(question: &Question) -> Result<Verdict> {
    let folder = Path::new("unpacked");
    fs::create_dir(folder).map_err(|error| Error::of_disk(&codes::INTERNAL, "no folder", error))?;
    let bounds = Bounds { unpacked: question.unpacked, rows: question.rows };
    let checked = check(Path::new(ARCHIVE), folder, &bounds, None)?;
    let key = question.key.as_ref().map(|key| Key::parse(&Secret::new(key.clone())));
    let secrets = key.map(|key| checked.secrets(&key)).transpose()?.flatten();
    checked.write_rows(Path::new(ROWS))?;
    Ok(Verdict {
        secrets,
        manifest: checked.manifest,
        manifest_sha256: checked.manifest_sha256,
        signed_by: checked.signed_by,
    })
}

/// From here on the kernel ends this process when it wants more than it was given (setrlimit(2)).
fn bind_hands(question: &Question) -> std::io::Result<()> {
    let limit = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::As, limit(question.memory))?;
    setrlimit(Resource::Cpu, limit(question.seconds))?;
    // Rows take more room as text than in the file: a blob is twice as long.
    setrlimit(Resource::Fsize, limit(question.unpacked.saturating_mul(3)))?;
    setrlimit(Resource::Nofile, limit(64))?;
    // Secrets are in this memory.
    setrlimit(Resource::Core, limit(0))?;
    // Nothing that it might be made to run gets more rights than it has (prctl(2), PR_SET_NO_NEW_PRIVS).
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

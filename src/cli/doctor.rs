//! `doctor`: everything outside the code that a deployment depends on, each with what to do.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Client, Intent};
use super::output::{cell, clean};
use super::{Context, Failure, Outcome, Verdict, config, log};
use crate::app::{App, copies};
use crate::base::codes;
use crate::config::{Addressing, BackupMode, Config, KeyProvider};
use crate::{backup, replica, sqlite, tenants};

const MIB: u64 = 1 << 20;
/// Writes fail soon.
const DISK_FULL: u64 = 100 * MIB;
/// Time to look for more room.
const DISK_LOW: u64 = 1024 * MIB;
const NAME_LOOKUP: Duration = Duration::from_secs(5);
const STORE_LOOKUP: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Ok,
    Warn,
    Fail,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of the report.
#[derive(Debug)]
pub(super) struct Finding {
    pub check: &'static str,
    pub state: State,
    pub detail: String,
    pub advice: Option<String>,
}

/// What has been found so far.
#[derive(Debug, Default)]
pub(super) struct Report(pub Vec<Finding>);

impl Report {
    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.0.push(Finding { check, state: State::Ok, detail: detail.into(), advice: None });
    }

    fn bad(&mut self, state: State, check: &'static str, detail: impl Into<String>, advice: impl Into<String>) {
        self.0.push(Finding { check, state, detail: detail.into(), advice: Some(advice.into()) });
    }

    pub fn is_good(&self) -> bool {
        self.0.iter().all(|finding| finding.state != State::Fail)
    }

    pub fn document(&self) -> Value {
        let checks = self.0.iter().map(|finding| {
            json!({
                "check": finding.check,
                "state": finding.state.as_str(),
                "detail": finding.detail,
                "advice": finding.advice,
            })
        });
        json!({ "object": "doctor_report", "ok": self.is_good(), "checks": checks.collect::<Vec<_>>() })
    }

    pub fn text(&self) -> String {
        let line = |finding: &Finding| {
            let line = format!("{:4}  {:14}  {}\n", finding.state.as_str(), finding.check, clean(&finding.detail));
            let advice = finding.advice.as_ref().map(|advice| format!("{:22}{}\n", "", clean(advice)));
            line + &advice.unwrap_or_default()
        };
        self.0.iter().map(line).collect()
    }
}

pub(super) async fn run(context: &Context) -> Outcome {
    log::warnings(context.output.json);
    let mut report = Report::default();
    match config::read(&context.options) {
        Err(problems) => {
            for problem in problems.0 {
                let detail = format!("{} {}", problem.key, problem.message);
                report.bad(State::Fail, "configuration", detail, "Correct it; the other checks need a configuration.");
            }
        }
        Ok(config) => examine(&config, &mut report).await,
    }
    context.output.answer(&report.document(), || report.text())?;
    Ok(if report.is_good() { Verdict::Good } else { Verdict::Bad })
}

async fn examine(config: &Config, report: &mut Report) {
    report.ok("configuration", "sound");
    report.ok("sqlite", format!("version {}", sqlite::version()));
    let data_dir = &config.server.data_dir;
    let exists = check_data_dir(data_dir, report);
    check_master_key(config, exists, report);
    check_disk(data_dir, report);
    check_descriptors(config, report);
    check_store(config, report).await;
    if exists {
        check_server(config, report).await;
    }
    check_names(config, report).await;
}

/// Whether there is a directory to look into.
pub(super) fn check_data_dir(data_dir: &Path, report: &mut Report) -> bool {
    let (check, shown) = ("data directory", data_dir.display());
    match std::fs::metadata(data_dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report.bad(State::Warn, check, format!("{shown} does not exist"), "`bulkhead serve` makes it.");
            return false;
        }
        Err(error) => {
            let advice = "Run this as the user that runs the server.";
            report.bad(State::Fail, check, format!("{shown} cannot be looked at: {error}"), advice);
            return false;
        }
        Ok(metadata) if !metadata.is_dir() => {
            let advice = "Name a directory in server.data_dir.";
            report.bad(State::Fail, check, format!("{shown} is not a directory"), advice);
            return false;
        }
        Ok(metadata) => {
            let mode = metadata.mode() & 0o777;
            let advice = format!("chmod 700 {shown}");
            if mode & 0o022 != 0 {
                report.bad(State::Fail, check, format!("{shown} can be changed by others (mode {mode:03o})"), advice);
            } else if mode & 0o077 != 0 {
                report.bad(State::Warn, check, format!("{shown} is open to others (mode {mode:03o})"), advice);
            } else {
                report.ok(check, format!("{shown}, mode {mode:03o}"));
            }
        }
    }
    true
}

fn check_master_key(config: &Config, data_dir_exists: bool, report: &mut Report) {
    let check = "master key";
    match config.keys.provider {
        KeyProvider::Command => {
            let program = config.keys.command.first().map_or("", String::as_str);
            return match std::fs::metadata(program) {
                Ok(found) if found.is_file() && found.mode() & 0o111 != 0 => {
                    report.ok(check, format!("with {program}"));
                }
                _ => {
                    let advice = "Correct keys.command: without it no organization's key can be unwrapped.";
                    report.bad(State::Fail, check, format!("{program} is no program"), advice);
                }
            };
        }
        KeyProvider::Http => return report.ok(check, "with the key service of keys.url"),
        KeyProvider::Auto | KeyProvider::File | KeyProvider::Env => {}
    }
    if config.keys.provider != KeyProvider::File && !config.keys.master_key.is_empty() {
        return report.ok(check, "from the environment");
    }
    let path = config.master_key_path();
    let shown = path.display();
    match std::fs::metadata(&path) {
        Ok(metadata) => {
            let mode = metadata.mode() & 0o777;
            if mode & 0o077 != 0 {
                let advice = format!("chmod 600 {shown}; whoever could read it can open every sealed value");
                report.bad(State::Fail, check, format!("{shown} can be used by others (mode {mode:03o})"), advice);
            } else {
                let advice = "keep a copy of it apart from the backups of the data";
                report.ok(check, format!("{shown}, mode {mode:03o}; {advice}"));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !data_dir_exists => {
            report.ok(check, "made on the first start");
        }
        Err(error) => {
            let advice = "Put the key back from its copy: without it no organization's data can be opened.";
            report.bad(State::Fail, check, format!("{shown} cannot be read: {error}"), advice);
        }
    }
}

fn check_disk(data_dir: &Path, report: &mut Report) {
    // Where the directory will be, if it is not there yet.
    let absolute = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let Some(place) = absolute.ancestors().find(|path| path.exists()) else { return };
    match rustix::fs::statvfs(place) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let detail = format!("{} MiB free at {}", free / MIB, place.display());
            let advice = "Make room, or move the data directory to a larger disk while the server is stopped.";
            match free {
                0..DISK_FULL => report.bad(State::Fail, "disk", detail, advice),
                DISK_FULL..DISK_LOW => report.bad(State::Warn, "disk", detail, advice),
                _ => report.ok("disk", detail),
            }
        }
        Err(error) => report.bad(State::Warn, "disk", format!("its room is not known: {error}"), "Look with `df`."),
    }
}

fn check_descriptors(config: &Config, report: &mut Report) {
    let files = &config.files;
    // The server takes as many as the system lets it.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(1 << 20);
    let limits = tenants::Limits {
        open: files.max_open,
        bytes: files.max_bytes_mib.saturating_mul(MIB),
        descriptors: limit.saturating_sub(files.reserve_descriptors).max(64),
        opening: files.open_concurrency,
        readers: files.readers,
        file_bytes: 0,
        replication: crate::base::Replication::Local,
        shares: crate::fairness::Values::default(),
    };
    let without = tenants::Limits { descriptors: u64::MAX, ..limits }.capacity();
    let detail = format!("{limit} allowed, room for {} open organizations", limits.capacity());
    if limits.capacity() < without {
        let advice =
            format!("The settings of [files] would allow {without}: raise `ulimit -Hn`, or LimitNOFILE= in systemd.");
        report.bad(State::Warn, "descriptors", detail, advice);
    } else {
        report.ok("descriptors", detail);
    }
}

/// Whether the store of the backup answers, and whose it is. Nothing is written there.
async fn check_store(config: &Config, report: &mut Report) {
    let (check, url) = ("backup store", &config.backup.url);
    if url.is_empty() {
        return;
    }
    let asked = async { copies::store(&config.backup)?.owner().await.map_err(backup::told) };
    let Ok(answer) = tokio::time::timeout(STORE_LOOKUP, asked).await else {
        let advice = "Until it does, what was written waits on this machine; everybody is served.";
        report.bad(State::Warn, check, format!("{url} does not answer"), advice);
        return;
    };
    match answer {
        Ok(owner) => tell_owner(config, owner, report),
        Err(error) => {
            let failure = Failure::of_server(&error);
            let detail = failure.problem["detail"].as_str().unwrap_or_default();
            let (state, advice) = match () {
                () if error.is(&codes::BACKUP_UNAVAILABLE) => (State::Warn, "See whether it can be reached from here."),
                () if error.is(&codes::BACKUP_REFUSED) => {
                    (State::Fail, "Look at the section [backup] and at the rights of its credentials.")
                }
                () if error.is(&codes::BACKUP_DAMAGED) => {
                    let advice = "What says whose the store is cannot be read. Once it is sure that it is this \
                                  deployment's alone, put that file back from a copy of the store, or use an empty place.";
                    (State::Fail, advice)
                }
                () => (State::Fail, "Look at this machine: its disk, its limits and its log."),
            };
            report.bad(state, check, format!("{url}: {detail} ({})", failure.code()), advice);
        }
    }
}

fn tell_owner(config: &Config, owner: Option<replica::Owner>, report: &mut Report) {
    let (check, url) = ("backup store", &config.backup.url);
    let is_ours = match backup::is_ours(&config.server.data_dir, url, owner.as_ref()) {
        Ok(is_ours) => is_ours,
        Err(error) => {
            let failure = Failure::of_server(&error);
            let detail = failure.problem["detail"].as_str().unwrap_or_default();
            let advice = "Nothing is shipped before it can be read: it holds the right to the store. Look at this \
                          machine's disk, or put the file back from a copy. Where there is none, remove it and \
                          run `bulkhead backup adopt`.";
            return report.bad(State::Fail, check, detail, advice);
        }
    };
    match owner {
        None => report.ok(check, format!("{url} answers")),
        Some(_) if is_ours => {
            report.ok(check, format!("{url} answers, and is this deployment's"));
        }
        Some(_) if config.backup.mode == BackupMode::Litestream => report.ok(check, format!("{url} answers")),
        Some(owner) => {
            let detail = format!("{url} belongs to {}", owner.described());
            let advice = "If that is gone for good, `bulkhead backup adopt` takes it over.";
            report.bad(State::Fail, check, detail, advice);
        }
    }
}

/// Who owns the directory, and whether its catalog and keyring can be opened.
async fn check_server(config: &Config, report: &mut Report) {
    let owned = App::is_owned(&config.server.data_dir);
    report.ok("server", if owned { "running, and owns the data directory" } else { "not running" });
    let answer = match Client::local(config.clone(), Intent::Use).await {
        Ok(client) => {
            let answer = client.get("/v1/status").await;
            client.close().await;
            answer
        }
        Err(failure) => Err(failure),
    };
    match answer {
        Ok(status) => {
            let facts = status.as_object().into_iter().flatten().filter(|(key, value)| {
                key.as_str() != "object" && !value.is_object() && !value.is_array() && !value.is_null()
            });
            let facts: Vec<String> =
                facts.map(|(key, _)| format!("{} {}", key.replace('_', " "), cell(&status, key))).collect();
            report.ok("data", format!("the catalog and the keyring can be opened ({})", facts.join(", ")));
        }
        Err(failure) => {
            let detail = failure.problem["detail"].as_str().unwrap_or("there was no answer");
            let advice =
                "If the files were moved or restored, check that all of them belong together, the master key too.";
            report.bad(State::Fail, "data", format!("{detail} ({})", failure.code()), advice);
        }
    }
}

/// Whether people's browsers will find the deployment and its organizations.
async fn check_names(config: &Config, report: &mut Report) {
    let check = "public_url";
    let Some(host) = config.server.host() else { return };
    if config.server.is_local() {
        return report.ok(check, format!("{} is for this machine", config.server.origin()));
    }
    let host = host.to_string();
    let mut names = vec![host.clone()];
    if config.server.addressing == Addressing::Subdomain {
        // Any organization's; this one does not exist.
        names.push(format!("bulkhead-doctor.{host}"));
    }
    for name in names {
        let found = tokio::time::timeout(NAME_LOOKUP, tokio::net::lookup_host((name.as_str(), 443))).await;
        if found.is_ok_and(|found| found.is_ok_and(|addresses| addresses.count() > 0)) {
            report.ok(check, format!("{name} is known to DNS"));
            continue;
        }
        let advice = if name == host {
            format!("Add an A or AAAA record for {host}, or correct server.public_url.")
        } else {
            format!("Organizations' addresses need a record for *.{host}; or set server.addressing to \"path\".")
        };
        report.bad(State::Warn, check, format!("{name} is not known to DNS here"), advice);
    }
}

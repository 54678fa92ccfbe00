//! `org erase`, `org certificate` and `member erase`: erasing for good, and the proof of it.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::args::{Certificate, EraseOrg, Limit, remote};
use super::client::{Client, Intent, fetch, organization, segment};
use super::output::{cell, clean, details, rows, table};
use super::progress::{Progress, Unit};
use super::{Context, Failure, Outcome, Verdict};
use crate::features::erasure::certificate;

const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn erase(context: &Context, erase: EraseOrg) -> Outcome {
    let is_at_once = erase.now || erase.after_days == Some(0);
    if is_at_once && !erase.dry_run {
        let org = clean(&erase.org.org);
        let what = format!("This erases {org} for good, now: its key, its file and its backup. --dry-run shows them.");
        context.confirm(&what, &erase.org.org)?;
    }
    context
        .with_client(Intent::Use, async |client| {
            let org = &erase.org.org;
            if erase.dry_run {
                return preview(context, client, org).await;
            }
            if erase.cancel {
                let answer = client.call(Method::DELETE, &organization(org, "/erasure"), None).await?;
                context.output.answer(&answer, || {
                    format!("Cancelled: {} is not erased. Its members can sign in as before.\n", clean(org))
                })?;
                return Ok(Verdict::Good);
            }
            let mut body = Map::new();
            if let Some(reason) = &erase.reason {
                body.insert("reason".to_owned(), reason.as_str().into());
            }
            if let Some(days) = erase.after_days {
                body.insert("after_days".to_owned(), days.into());
            }
            if erase.now {
                body.insert("immediately".to_owned(), true.into());
            }
            let mut answer = client.call(Method::PUT, &organization(org, "/erasure"), Some(body.into())).await?;
            if erase.now {
                context.output.remark("It is suspended and being erased; this cannot be undone.\n");
                answer = wait(context, client, answer, Duration::from_secs(erase.wait.into())).await?;
            }
            context.output.answer(&answer, || told(org, &answer))?;
            // Whoever has it done now relies on its being done.
            let is_done = !erase.now || answer["state"] == "erased";
            Ok(if is_done { Verdict::Good } else { Verdict::Bad })
        })
        .await
}

/// Until it is erased, as far as one waits.
async fn wait(context: &Context, client: &Client, asked: Value, patience: Duration) -> Result<Value, Failure> {
    let deadline = tokio::time::Instant::now() + patience;
    let path = format!("/v1/erasures/{}", segment(&cell(&asked, "organization_id")));
    let mut progress = Progress::new("erasing", Unit::Organizations, context.output.json);
    loop {
        let erasure = client.get(&path).await?;
        if erasure["state"] == "erased" || tokio::time::Instant::now() > deadline {
            return Ok(erasure);
        }
        let at = STEPS.iter().find(|step| erasure["next_step"] == step.name);
        // A step that nobody here knows is one that goes on.
        let (going_on, again) = at.map_or(("waiting for the server", "waiting for the server"), |step| {
            (step.waiting_for, step.waiting_again)
        });
        progress.waiting_for(if erasure["failure"].is_null() { going_on } else { again });
        tokio::time::sleep(LOOK).await;
    }
}

/// A step of an erasure, as the API calls it and as people are told of it.
struct Step {
    name: &'static str,
    waiting_for: &'static str,
    /// The same when it has failed before.
    waiting_again: &'static str,
    remains: &'static str,
}

/// In their order.
const STEPS: [Step; 5] = [
    Step {
        name: "examine",
        waiting_for: "waiting until requests for it have ended",
        waiting_again: "its file could not be looked at, and is tried again",
        remains: "writing down what there is",
    },
    Step {
        name: "destroy_key",
        waiting_for: "destroying its data key",
        waiting_again: "its data key could not be destroyed, and is tried again",
        remains: "destroying its data key",
    },
    Step {
        name: "remove_files",
        waiting_for: "removing its files",
        waiting_again: "its files could not be removed, and are tried again",
        remains: "removing its files",
    },
    Step {
        name: "remove_backup",
        waiting_for: "waiting for the store of the backup to delete its copies",
        waiting_again: "waiting for the store of the backup, which does not take the deletion of its copies",
        remains: "deleting its copies in the backup, and the keyring's of before",
    },
    Step {
        name: "certify",
        waiting_for: "signing the certificate",
        waiting_again: "the certificate could not be signed, and is tried again",
        remains: "signing the certificate",
    },
];

/// What is yet to be done, in words.
fn remaining(erasure: &Value) -> String {
    let at = STEPS.iter().position(|step| erasure["next_step"] == step.name).unwrap_or(0);
    STEPS[at..].iter().map(|step| step.remains).collect::<Vec<_>>().join("; ")
}

fn told(org: &str, erasure: &Value) -> String {
    let (org, id) = (clean(org), cell(erasure, "organization_id"));
    match erasure["state"].as_str() {
        Some("erased") => format!(
            "Erased {org}: its key, its file and its entries are gone for good.\n\
             The certificate says what was destroyed and what may remain: bulkhead org certificate {id}\n"
        ),
        Some("erasing") => {
            let mut text = format!(
                "{org} cannot be reached any more, but it is not erased to the end. What remains: {}.\n",
                remaining(erasure)
            );
            if let Some(code) = erasure["failure"].as_str() {
                let _ = writeln!(text, "The last try failed: {} ({})", cell(erasure, "failure_detail"), clean(code));
            }
            let _ = write!(
                text,
                "The server goes on by itself, every minute and after each start; nothing has to be asked for again.\n\
                 It is done when this shows a certificate: bulkhead org certificate {id}\n"
            );
            text
        }
        _ => format!(
            "{org} is suspended: every session has ended, and nobody gets in.\n\
             It will be erased for good at {}. Until then this calls it off: bulkhead org erase {org} --cancel\n\
             Afterwards its certificate is here: bulkhead org certificate {id}\n",
            cell(erasure, "due_at")
        ),
    }
}

async fn preview(context: &Context, client: &Client, org: &str) -> Outcome {
    let found = client.get(&organization(org, "/erasure/preview")).await?;
    context.output.answer(&found, || {
        let mut text = format!("Erasing {} ({}) would destroy:\n\n", clean(org), cell(&found, "organization_id"));
        let mut line = |what: &str, which: String| {
            let _ = writeln!(text, "  {what:14}{which}");
        };
        line(
            "data key",
            format!(
                "wrapped by {}, SHA-256 {}",
                cell(&found, "data_key.master_key_id"),
                cell(&found, "data_key.sha256")
            ),
        );
        for file in found["files"].as_array().into_iter().flatten() {
            line("file", format!("{}, {} bytes", cell(file, "name"), cell(file, "bytes")));
        }
        line("members", cell(&found, "members"));
        line("audit log", format!("{} events", cell(&found, "audit_head.sequence")));
        line(
            "replica",
            if found["has_replica"] == true { "all of it" } else { "none: no backup is configured" }.to_owned(),
        );
        for (table, count) in found["catalog_rows"].as_object().into_iter().flatten() {
            line("catalog", format!("{table}: {count}"));
        }
        text.push_str("\nNothing was changed. Its id and names would never be used again.\n");
        text
    })?;
    Ok(Verdict::Good)
}

pub(super) async fn certificate(context: &Context, wanted: Certificate) -> Outcome {
    let (Some(file), Some(keys)) = (&wanted.verify, &wanted.jwks) else {
        return context.with_client(Intent::Use, async |client| show(context, client, &wanted.id).await).await;
    };
    let text = read(file)?;
    let keys: Value = if keys.contains("://") {
        fetch(&remote(keys).map_err(Failure::usage)?).await?
    } else {
        serde_json::from_str(&read(Path::new(keys))?)
            .map_err(|error| Failure::usage(format!("{keys} is no JSON: {error}")))?
    };
    // A file may hold what `--json` has printed.
    let text = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|found| found["certificate"].as_str().map(str::to_owned))
        .unwrap_or(text);
    let says = certificate::verify(text.trim(), &keys).filter(|says| says["organization_id"] == wanted.id.as_str());
    let document = json!({ "object": "certificate_verification", "valid": says.is_some(), "certificate": says });
    context.output.answer(&document, || match &says {
        Some(says) => format!("The certificate is genuine and about {}. It says:\n\n{}", clean(&wanted.id), details(says)),
        None => format!(
            "This is NOT a genuine certificate about {}: none of these keys has signed it, it was changed, or it is about \
             another organization.\n",
            clean(&wanted.id)
        ),
    })?;
    Ok(if says.is_some() { Verdict::Good } else { Verdict::Bad })
}

async fn show(context: &Context, client: &Client, id: &str) -> Outcome {
    let erasure = client.get(&format!("/v1/erasures/{}", segment(id))).await?;
    let is_there = erasure["certificate"].is_string();
    context.output.answer(&erasure, || {
        if is_there {
            format!("{}\n", cell(&erasure, "certificate"))
        } else {
            format!("There is no certificate: the erasure is {}.\n", cell(&erasure, "state"))
        }
    })?;
    Ok(if is_there { Verdict::Good } else { Verdict::Bad })
}

/// `org erasures`.
pub(super) async fn list(context: &Context, client: &Client, limit: Limit) -> Outcome {
    let list = client.list("/v1/erasures", limit.limit).await?;
    context.output.answer(&list, || {
        table(
            &["SLUG", "ORGANIZATION ID", "STATE", "ASKED FOR", "DUE", "ERASED"],
            &rows(&list, &["slug", "organization_id", "state", "requested_at", "due_at", "erased_at"]),
            "Nothing was erased here, and nothing is going to be.",
        )
    })?;
    Ok(Verdict::Good)
}

/// What was done to a member, in words.
pub(super) fn of_member(member: &str, answer: &Value) -> String {
    let mut text = format!(
        "Erased {}: {} audit events have lost their content and {} waiting mails are gone. `bulkhead org audit verify` \
         finds the log whole.\n",
        clean(member),
        cell(answer, "audit_events"),
        cell(answer, "mails")
    );
    if answer["overwritten"] == false {
        text.push_str(
            "The write-ahead log beside its file still holds what was deleted, until the backup has read it. The same \
             command asks for that again and says whether it is so.\n",
        );
    }
    text
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new("unreadable_file", format!("{} cannot be read: {error}.", path.display())))
}

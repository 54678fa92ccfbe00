//! `keys`, and `org rotate-key`: rotating what the deployment and its organizations seal with.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::KeysCommand;
use super::client::{Client, Intent, organization};
use super::failure::Failure;
use super::output::{cell, clean, rows, table};
use super::progress::{Progress, Unit};
use super::{Context, Outcome, Verdict};

/// How often a rotation in the background is asked how far it is.
const ASK: Duration = Duration::from_millis(200);
/// How long a retirement is waited for: the backup of the keyring is replaced first.
const RETIREMENT: Duration = Duration::from_secs(30);

pub(super) async fn run(context: &Context, command: KeysCommand) -> Outcome {
    if let KeysCommand::RotateMaster { retire_now: true, dry_run: false } = command {
        let what = "The master keys before leave their file, and with them go earlier states of the keyring's backup. A \
                    copy of the keyring from before can then be opened by nobody who has no copy of that file.";
        context.confirm(what, "retire")?;
    }
    context
        .with_client(Intent::Use, async |client| match command {
            KeysCommand::Status => status(context, client).await,
            KeysCommand::RotateMaster { retire_now, dry_run } => {
                rotate_master(context, client, retire_now, dry_run).await
            }
            KeysCommand::RotateData { older_than, dry_run, .. } => {
                rotate_data(context, client, older_than.unwrap_or(0), dry_run).await
            }
        })
        .await
}

async fn status(context: &Context, client: &Client) -> Outcome {
    let keys = client.get("/v1/keys").await?;
    context.output.answer(&keys, || told(&keys))?;
    Ok(Verdict::Good)
}

fn told(keys: &Value) -> String {
    let mut text = format!(
        "provider:   {}, {} requests, {} failed\nmaster key: {}\ncache:      {} of {} organizations",
        cell(keys, "provider"),
        cell(keys, "provider_requests"),
        cell(keys, "provider_failures"),
        keys["current_key_id"].as_str().map_or_else(|| "not known yet".to_owned(), clean),
        cell(keys, "cache.entries"),
        cell(keys, "cache.capacity"),
    );
    if matches!(keys["provider"].as_str(), Some("command" | "http")) {
        let _ = write!(text, ", each for {} seconds", cell(keys, "cache.seconds"));
    }
    text.push('\n');
    if keys["last_error"].is_object() {
        let (at, why) = (cell(keys, "last_error.occurred_at"), cell(keys, "last_error.reason"));
        let _ = writeln!(text, "last error: {at}: {why}");
    }
    let wrapped = rows(&json!({ "data": keys["master_keys"] }), &["id", "current", "data_keys", "available"]);
    let _ = write!(
        text,
        "\n{}",
        table(&["MASTER KEY", "CURRENT", "WRAPS", "AVAILABLE"], &wrapped, "Nothing is wrapped yet.")
    );
    let rotation = &keys["master_rotation"];
    if rotation.is_object() {
        let [state, done, total] = ["state", "done", "total"].map(|key| cell(rotation, key));
        let _ = write!(text, "\nThe newest rotation of the master key is {state}: {done} of {total} keys.");
        if rotation["state"] == "waiting" {
            let _ = write!(text, " The key before is kept until {}.", cell(rotation, "retire_at"));
        }
        if !rotation["last_error"].is_null() {
            let _ = write!(text, " It does not get further: {}.", cell(rotation, "last_error"));
        }
        text.push('\n');
    }
    let sweep = &keys["data_rotation"];
    if sweep.is_object() {
        let [state, done, total, skipped, failed] =
            ["state", "done", "total", "skipped", "failed"].map(|key| cell(sweep, key));
        let _ = writeln!(
            text,
            "The newest rotation of data keys is {state}: {done} of {total} organizations, {skipped} skipped, \
             {failed} failed."
        );
    }
    let replaced = &keys["replaced"];
    if replaced["kept"] != 0 {
        let (kept, hours) = (cell(replaced, "kept"), cell(replaced, "keep_hours"));
        let _ = writeln!(text, "{kept} replaced data keys are kept, each for {hours} hours.");
    }
    if replaced["unfinished"] != 0 {
        let _ = writeln!(
            text,
            "{} organizations are not sealed anew yet; that goes on by itself.",
            cell(replaced, "unfinished")
        );
    }
    text
}

async fn rotate_master(context: &Context, client: &Client, retire_now: bool, dry_run: bool) -> Outcome {
    let body = json!({ "retire_now": retire_now, "dry_run": dry_run });
    let begun = client.post("/v1/keys/master_rotations", body).await?;
    if dry_run {
        context.output.answer(&begun, || {
            let to = begun["master_key_id"].as_str().map_or_else(|| "a new master key".to_owned(), clean);
            format!("{} keys would be wrapped anew, by {to}. No data key changes.\n", cell(&begun, "total"))
        })?;
        return Ok(Verdict::Good);
    }
    let mut last = to_its_end(context, client, "master_rotation", "wrapped anew").await?;
    let deadline = tokio::time::Instant::now() + RETIREMENT;
    while retire_now && last["state"] == "waiting" && last["last_error"].is_null() {
        if tokio::time::Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(ASK).await;
        last = client.get("/v1/keys").await?["master_rotation"].take();
    }
    context.output.answer(&last, || {
        let (done, to) = (cell(&last, "done"), cell(&last, "master_key_id"));
        let mut text = format!("{done} keys are wrapped by the master key {to}.\n");
        if last["state"] == "waiting" {
            let until = cell(&last, "retire_at");
            let when = match retire_now {
                true => "The keys before leave their file as soon as the backup of the keyring has been replaced; `bulkhead \
                         keys status` says when.\n"
                    .to_owned(),
                false => format!(
                    "The key before stays in its file until {until}: backups of the keyring need it. Keep a copy of the \
                     file.\n"
                ),
            };
            text.push_str(&when);
        } else if retire_now && last["state"] == "done" {
            text.push_str("No key before is left in the file. Keep a copy of it.\n");
        }
        text
    })?;
    Ok(if last["last_error"].is_null() { Verdict::Good } else { Verdict::Bad })
}

async fn rotate_data(context: &Context, client: &Client, days: u16, dry_run: bool) -> Outcome {
    let body = json!({ "older_than_days": days, "dry_run": dry_run });
    let begun = client.post("/v1/keys/data_rotations", body).await?;
    if dry_run {
        context
            .output
            .answer(&begun, || format!("{} organizations would get a new data key.\n", cell(&begun, "total")))?;
        return Ok(Verdict::Good);
    }
    let last = to_its_end(context, client, "data_rotation", "rotated").await?;
    context.output.answer(&last, || {
        let [done, total, skipped, failed] = ["done", "total", "skipped", "failed"].map(|key| cell(&last, key));
        let mut text =
            format!("{done} of {total} organizations have a new data key, {skipped} skipped, {failed} failed.\n");
        if !last["last_error"].is_null() {
            let _ = writeln!(text, "The last that has none: {}.", cell(&last, "last_error"));
        }
        text
    })?;
    Ok(if last["failed"] == 0 { Verdict::Good } else { Verdict::Bad })
}

/// Follows a rotation until it has ended, or does not get further by itself.
async fn to_its_end(context: &Context, client: &Client, kind: &str, what: &'static str) -> Result<Value, Failure> {
    let mut progress = Progress::new(what, Unit::Organizations, context.output.json);
    loop {
        let last = client.get("/v1/keys").await?[kind].take();
        let number = |key: &str| last[key].as_u64().unwrap_or(0);
        progress.at(number("done") + number("skipped") + number("failed"), number("total"));
        if last["state"] != "running" || (kind == "master_rotation" && !last["last_error"].is_null()) {
            return Ok(last);
        }
        tokio::time::sleep(ASK).await;
    }
}

/// `org rotate-key`.
pub(super) async fn rotate_one(context: &Context, client: &Client, org: &str) -> Outcome {
    let done = client.post(&organization(org, "/data_key_rotations"), json!({})).await?;
    context.output.answer(&done, || {
        let [version, resealed, until] = ["to_version", "resealed", "kept_until"].map(|key| cell(&done, key));
        let org = clean(org);
        format!(
            "{org} has the data key of version {version}; {resealed} values were sealed anew.\nThe key before is kept \
             until {until}, so that backups can be recovered.\n"
        )
    })?;
    Ok(Verdict::Good)
}

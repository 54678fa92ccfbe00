//! `org encrypt`, `org decrypt` and `org rotate-file-key`.

use std::fmt::Write as _;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::args::EncryptOrg;
use super::client::{Client, Intent, organization};
use super::output::{cell, clean};
use super::progress::{Progress, Unit};
use super::{Context, Failure, Outcome, Verdict};

/// Between two looks at a file that is written anew.
const LOOK: Duration = Duration::from_millis(100);
const NOTHING_LEFT: &str = "Nothing is left of before that could be deleted: no such file is in its directory, and the \
                            copies in the backup have been deleted or have expired with their key.\n";

pub(super) async fn encrypt(context: &Context, wanted: EncryptOrg, to: &'static str) -> Outcome {
    let ask = async |client: &Client| {
        let body = json!({ "encryption": to, "delete_copies": wanted.delete_copies, "dry_run": wanted.dry_run });
        client.call(Method::PUT, &organization(&wanted.org.org, "/encryption"), Some(body)).await
    };
    let done = if to == "file" { "is encrypted as a whole" } else { "is a plain file" };
    context
        .with_client(Intent::Use, async |client| follow(context, client, &wanted, ask(client).await?, done).await)
        .await
}

pub(super) async fn rotate(context: &Context, wanted: EncryptOrg) -> Outcome {
    let ask = async |client: &Client| {
        let body = json!({ "delete_copies": wanted.delete_copies, "dry_run": wanted.dry_run });
        client.post(&organization(&wanted.org.org, "/file_key_rotations"), body).await
    };
    let done = "is encrypted under another key";
    context
        .with_client(Intent::Use, async |client| follow(context, client, &wanted, ask(client).await?, done).await)
        .await
}

/// Until nothing is on its way any more.
async fn follow(context: &Context, client: &Client, wanted: &EncryptOrg, begun: Value, done: &str) -> Outcome {
    let org = clean(&wanted.org.org);
    if wanted.dry_run {
        context.output.answer(&begun, || match begun["changing_to"].is_null() {
            true => format!("{org} {done} already. Nothing was changed.\n"),
            false => format!(
                "Would write {} bytes anew, so that {org} {done}. Writers may wait for a moment. Nothing was changed.\n",
                cell(&begun, "bytes")
            ),
        })?;
        return Ok(Verdict::Good);
    }
    let mut progress = Progress::new("written", Unit::Bytes, context.output.json);
    let is_new = !begun["state"].is_null();
    let found = loop {
        let found = client.get(&organization(&wanted.org.org, "/encryption")).await?;
        if found["state"].is_null() || !found["failure"].is_null() {
            break found;
        }
        let number = |key: &str| found[key].as_u64().unwrap_or(0);
        progress.at(number("bytes_written").min(number("bytes")), number("bytes"));
        tokio::time::sleep(LOOK).await;
    };
    progress.end();
    if let Some(code) = found["failure"].as_str().filter(|_| is_new) {
        let detail = found["failure_detail"].as_str().unwrap_or("The server's log says why.");
        let advice = match found["state"].is_null() {
            true => "Its file is as it was, and in use.",
            false => "It is in use; the server goes on with it by itself.",
        };
        return Err(Failure::new(code, detail).advise(advice));
    }
    context.output.answer(&found, || told(&org, done, (is_new, wanted.delete_copies), &found))?;
    Ok(Verdict::Good)
}

/// What has come of it: whether anything was done, and what is left of before.
pub(super) fn told(org: &str, done: &str, (is_new, deletes): (bool, bool), found: &Value) -> String {
    let mut text = format!("{org} {done}{}.\n", if is_new { "" } else { " already" });
    if !found["copies_from_before_until"].is_null() {
        let until = cell(found, "copies_from_before_until");
        let command = if found["encryption"] == "file" { "encrypt" } else { "decrypt" };
        let _ = writeln!(
            text,
            "Copies from before stay in the backup as they are until {until}, so that earlier moments can be restored. \
             `bulkhead org {command} {org} --delete-copies` deletes them."
        );
    }
    let files = found["files_from_before"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let files: Vec<&str> = files.collect();
    for file in &files {
        let _ = writeln!(text, "In its directory, as the database was before: {}", clean(file));
    }
    if deletes && files.is_empty() {
        text.push_str(match is_new {
            true => "What was left of before is deleted, in its directory and in the backup.\n",
            false => NOTHING_LEFT,
        });
    }
    text
}

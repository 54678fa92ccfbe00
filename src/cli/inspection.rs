//! `org restore --as` and `org restore --output`: an earlier moment beside the live organization.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use super::args::RestoreOrg;
use super::backup::{asked, or_take, restore_command};
use super::client::{Client, LONG, organization};
use super::output::{cell, clean};
use super::progress::{Progress, Unit, waiting};
use super::{Context, Failure, Outcome, Verdict};

/// As an organization of its own.
pub(super) async fn beside(context: &Context, client: &Client, restore: &RestoreOrg, slug: &str) -> Outcome {
    let mut body = asked(&restore.moment);
    body.insert("slug".to_owned(), slug.into());
    body.insert("dry_run".to_owned(), restore.dry_run.into());
    let path = organization(&restore.org.org, "/copies");
    let making = client.call_within(Method::POST, &path, Some(Value::Object(body)), LONG);
    let done = waiting("putting that moment together", context.output.json, making).await;
    let done = done.map_err(|failure| or_take(failure, &restore_command(restore)))?;
    context.output.answer(&done, || told(&done, &restore.org.org))?;
    Ok(Verdict::Good)
}

fn told(done: &Value, org: &str) -> String {
    let (org, slug) = (clean(org), cell(done, "slug"));
    let holds = holds(done);
    if done["dry_run"] == true {
        return format!("Would make {slug} of {org} {holds}\nNothing was done.\n");
    }
    let mut text = format!("Made {slug} ({}) of {org} {holds}\n", cell(done, "organization_id"));
    for left_out in done["left_out"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "Left out: {}", clean(left_out.as_str().unwrap_or_default()));
    }
    let _ = writeln!(
        text,
        "It is suspended: look at it with `bulkhead org show {slug}`, `bulkhead member list {slug}` and `bulkhead org \
         audit list {slug}`.\nWhen you have seen enough: bulkhead org erase {slug} --now"
    );
    text
}

/// As a file.
pub(super) async fn to_file(context: &Context, client: &Client, restore: &RestoreOrg, to: &Path) -> Outcome {
    if fs::symlink_metadata(to).is_ok() {
        let detail = format!("{} is there already; a restore never overwrites a file.", to.display());
        return Err(Failure::new("target_exists", detail).advise("Name another file with --output."));
    }
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if let Some(at) = &restore.moment.at {
        query.append_pair("at", at);
    }
    if let Some(txid) = &restore.moment.txid {
        query.append_pair("txid", txid);
    }
    if restore.dry_run {
        query.append_pair("dry_run", "true");
    }
    let path = organization(&restore.org.org, &format!("/backup/snapshot?{}", query.finish()));
    let json = context.output.json;
    let damaged = |failure| or_take(failure, &restore_command(restore));
    if restore.dry_run {
        let found =
            waiting("looking", json, client.call_within(Method::GET, &path, None, LONG)).await.map_err(damaged)?;
        context
            .output
            .answer(&found, || format!("Would write {} {}\nNothing was done.\n", to.display(), holds(&found)))?;
        return Ok(Verdict::Good);
    }
    let written = client.download(&path, to, Progress::new("downloaded", Unit::Bytes, json)).await.map_err(damaged)?;
    let answer = json!({
        "object": "snapshot_file", "file": to.display().to_string(), "txid": written.txid, "as_of": written.as_of,
        "bytes": written.bytes, "sha256": written.sha256,
    });
    context.output.answer(&answer, || {
        format!(
            "Wrote {} as of {} (transaction {}) to {} ({} bytes).\nSHA-256 {}\n\
             What opens something is not in it. Any SQLite can read it: sqlite3 {} 'SELECT * FROM v_members'\n",
            clean(&restore.org.org),
            cell(&answer, "as_of"),
            cell(&answer, "txid"),
            to.display(),
            written.bytes,
            written.sha256,
            to.display(),
        )
    })?;
    Ok(Verdict::Good)
}

fn holds(found: &Value) -> String {
    let mut text = format!(
        "as of {} (transaction {}), with {} members and {} audit events.",
        cell(found, "as_of"),
        cell(found, "txid"),
        cell(found, "members"),
        cell(found, "audit_events"),
    );
    if found["erased_members"].as_u64().unwrap_or(0) > 0 {
        let _ = write!(text, " {} who were erased since stay erased.", cell(found, "erased_members"));
    }
    text
}

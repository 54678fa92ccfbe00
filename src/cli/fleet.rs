//! `fleet`: the care of all organizations' files.

use std::fmt::Write as _;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::args::FleetCommand;
use super::client::{Client, Intent, organization, segment};
use super::failure::Failure;
use super::org::done;
use super::output::{cell, clean, rows, table};
use super::progress::{Progress, Unit};
use super::{Context, Outcome, Verdict};

/// How often a walk in the background is asked how far it is.
const ASK: Duration = Duration::from_millis(200);

pub(super) async fn run(context: &Context, command: FleetCommand) -> Outcome {
    if let FleetCommand::Rollback(org) = &command {
        let what = format!(
            "This puts {} back to before its migration and sets it aside: what was written since is no longer served.",
            clean(&org.org)
        );
        context.confirm(&what, &org.org)?;
    }
    context
        .with_client(Intent::Use, async |client| match command {
            FleetCommand::Check { full, quarantine } => check(context, client, full, quarantine).await,
            FleetCommand::Stats { top } => stats(context, client, top).await,
            FleetCommand::Limited => super::limits::limited(context, client).await,
            FleetCommand::Quarantine { org, reason } => set_aside(context, client, &org.org, &reason).await,
            FleetCommand::Release(org) => release(context, client, &org.org).await,
            FleetCommand::Migrate { status: true, .. } => status(context, client).await,
            FleetCommand::Migrate { canary, pause_on_error, dry_run, .. } => {
                let body = json!({ "canary_percent": canary, "pause_on_error": pause_on_error, "dry_run": dry_run });
                migrate(context, client, body).await
            }
            FleetCommand::Rollback(org) => roll_back(context, client, &org.org).await,
        })
        .await
}

async fn check(context: &Context, client: &Client, full: bool, quarantine: bool) -> Outcome {
    let asked = json!({ "full": full, "quarantine": quarantine });
    let begun = begin(context, client, "checks", &asked).await?;
    let last = to_its_end(context, client, "checks", "checked", begun).await?;
    let is_good = last["state"] == "done" && last["findings_count"] == 0;
    context.output.answer(&last, || told(&last))?;
    Ok(if is_good { Verdict::Good } else { Verdict::Bad })
}

/// Starts a walk, or goes on with one that was asked for in the same words: it is there if this command was interrupted
/// before, since walks are the server's.
async fn begin(context: &Context, client: &Client, kind: &str, asked: &Value) -> Result<Value, Failure> {
    let path = format!("/v1/fleet/{kind}");
    match client.post(&path, asked.clone()).await {
        Err(failure) if failure.code() == "fleet_job_running" => {
            let errors = failure.problem["errors"].as_array();
            let Some(id) = errors
                .and_then(|errors| errors.iter().find(|one| one["field"] == "job"))
                .and_then(|job| job["message"].as_str())
            else {
                return Err(failure);
            };
            let running = client.get(&format!("{path}/{}", segment(id))).await?;
            let is_same = |key: &str| asked[key].is_null() || asked[key] == running[key];
            if !["full", "quarantine", "canary_percent", "dry_run", "pause_on_error"].iter().all(|key| is_same(key)) {
                return Err(failure);
            }
            context.output.remark("One is running already; this follows it.\n");
            Ok(running)
        }
        other => other,
    }
}

/// Follows a walk until it ends; returns it with everything that it has found.
async fn to_its_end(
    context: &Context,
    client: &Client,
    kind: &str,
    done: &'static str,
    begun: Value,
) -> Result<Value, Failure> {
    let path = format!("/v1/fleet/{kind}/{}", begun["id"].as_str().unwrap_or_default());
    let mut progress = Progress::new(done, Unit::Organizations, context.output.json);
    let (mut findings, mut last) = (Vec::new(), begun);
    while last["state"] == "running" || !caught_up(&last, &findings) {
        progress.at(last[done].as_u64().unwrap_or(0), last["total"].as_u64().unwrap_or(0));
        if last["state"] == "running" {
            tokio::time::sleep(ASK).await;
        }
        let after = findings.last().and_then(|finding: &Value| finding["sequence"].as_i64()).unwrap_or(0);
        last = client.get(&format!("{path}?after={after}")).await?;
        if let Value::Array(more) = last["findings"].take() {
            findings.extend(more);
        }
    }
    progress.end();
    last["findings"] = findings.into();
    Ok(last)
}

async fn migrate(context: &Context, client: &Client, body: Value) -> Outcome {
    let begun = begin(context, client, "migrations", &body).await?;
    let last = to_its_end(context, client, "migrations", "migrated", begun).await?;
    let is_good = last["state"] == "done" && last["findings_count"] == 0;
    context.output.answer(&last, || told_of_migration(&last))?;
    Ok(if is_good { Verdict::Good } else { Verdict::Bad })
}

fn told_of_migration(migration: &Value) -> String {
    let found = rows(&json!({ "data": migration["findings"] }), &["organization_id", "problem", "advice"]);
    let mut text = String::new();
    if !found.is_empty() {
        text = format!("{}\n", table(&["ORGANIZATION", "PROBLEM", "WHAT TO DO"], &found, ""));
    }
    let (done, total) = (cell(migration, "migrated"), cell(migration, "total"));
    let what = if migration["dry_run"] == true { "tried on copies" } else { "migrated" };
    let _ = match total.as_str() {
        "0" => writeln!(text, "No organization is older than the newest schema."),
        _ => writeln!(text, "{done} of {total} organizations {what}, {} failed.", found.len()),
    };
    if migration["state"] == "paused" {
        text.push_str("It has stopped there, as asked. The same command goes on with the rest.\n");
    }
    text
}

async fn status(context: &Context, client: &Client) -> Outcome {
    let status = client.get("/v1/fleet/migrations").await?;
    context.output.answer(&status, || {
        let (newest, pending) = (cell(&status, "schema_version"), cell(&status, "pending"));
        let latest = &status["latest"];
        let mut text = format!("The newest schema version is {newest}; {pending} organizations are older.\n");
        if latest.is_object() {
            let [state, done, total, failed] =
                ["state", "migrated", "total", "findings_count"].map(|key| cell(latest, key));
            let _ = writeln!(text, "The newest migration is {state}: {done} of {total}, {failed} failed.");
        }
        text
    })?;
    Ok(Verdict::Good)
}

async fn roll_back(context: &Context, client: &Client, org: &str) -> Outcome {
    let answer = client.post(&organization(org, "/migration_rollback"), json!({})).await?;
    context.output.answer(&answer, || {
        let version = cell(&answer, "schema_version");
        let org = clean(org);
        format!(
            "Put {org} back to schema version {version} and set it aside; `bulkhead fleet release {org}` ends that.\n"
        )
    })?;
    Ok(Verdict::Good)
}

fn caught_up(check: &Value, findings: &[Value]) -> bool {
    i64::try_from(findings.len()).is_ok_and(|known| check["findings_count"].as_i64().unwrap_or(0) <= known)
}

fn told(check: &Value) -> String {
    let (checked, count) = (cell(check, "checked"), cell(check, "findings_count"));
    if check["state"] != "done" {
        return format!("The check could not go on after {checked} organizations; the server's log says why.\n");
    }
    if check["findings_count"] == 0 {
        return format!("{checked} organizations checked: nothing is wrong.\n");
    }
    let found = rows(&json!({ "data": check["findings"] }), &["organization_id", "code", "problem", "advice"]);
    let lines = table(&["ORGANIZATION", "FINDING", "PROBLEM", "WHAT TO DO"], &found, "");
    format!("{lines}\n{checked} organizations checked, {count} findings. The others are not affected.\n")
}

async fn stats(context: &Context, client: &Client, top: u16) -> Outcome {
    let stats = client.get(&format!("/v1/fleet/stats?top={top}")).await?;
    context.output.answer(&stats, || {
        let counts = |key: &str, between: &str| {
            let counts = stats[key].as_object().into_iter().flatten();
            counts.map(|(name, count)| format!("{name}{between}{count}")).collect::<Vec<_>>().join(", ")
        };
        let mut text = format!(
            "organizations:    {} ({})\nschema versions:  {} (newest {})\nfiles:            {} bytes, {} missing\n\
             open:             {} of {}\n",
            cell(&stats, "organizations"),
            counts("by_state", " "),
            counts("by_schema_version", ": "),
            cell(&stats, "schema_version"),
            cell(&stats, "bytes"),
            cell(&stats, "without_file"),
            cell(&stats, "open"),
            cell(&stats, "capacity"),
        );
        if stats["by_volume"].as_object().is_some_and(|volumes| volumes.len() > 1) {
            let _ = writeln!(text, "volumes:          {}", counts("by_volume", " "));
        }
        for (title, key, columns) in [
            ("The largest", "largest", &["bytes", "slug", "organization_id"]),
            ("Set aside", "quarantined", &["organization_id", "since", "reason"]),
        ] {
            let found = rows(&json!({ "data": stats[key] }), columns);
            if !found.is_empty() {
                let headings: Vec<String> = columns.iter().map(|name| name.replace('_', " ").to_uppercase()).collect();
                let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
                let _ = write!(text, "\n{title}:\n{}", table(&headings, &found, ""));
            }
        }
        text
    })?;
    Ok(Verdict::Good)
}

async fn set_aside(context: &Context, client: &Client, org: &str, reason: &str) -> Outcome {
    let path = organization(org, "/quarantine");
    let answer = client.call(Method::PUT, &path, Some(json!({ "reason": reason }))).await?;
    context.output.answer(&answer, || {
        let org = clean(org);
        if answer["already_quarantined"] == true {
            let (since, first) = (cell(&answer, "since"), cell(&answer, "reason"));
            return format!(
                "{org} is set aside already, since {since}: {first}\nThat reason stays and this one is not kept. To give \
                 another: `bulkhead fleet release {org}`, then set it aside again.\n"
            );
        }
        format!("Set {org} aside: it answers nobody until `bulkhead fleet release`. Its file stays as it is.\n")
    })?;
    Ok(Verdict::Good)
}

async fn release(context: &Context, client: &Client, org: &str) -> Outcome {
    let answer = client.call(Method::DELETE, &organization(org, "/quarantine"), None).await?;
    context.output.answer(&done(answer), || format!("Released {}.\n", clean(org)))?;
    Ok(Verdict::Good)
}

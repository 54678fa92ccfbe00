//! Going back: `org history`, `org diff`, `org restore`, and `backup fetch`, which needs no server and no directory.

use std::fmt::Write;
use std::path::Path;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::args::{BackupCommand, Fetch, Moment, RestoreOrg};
use super::client::{Client, Intent, organization};
use super::failure::Failure;
use super::output::{cell, clean, details, rows, table};
use super::{Context, Outcome, Verdict};
use crate::app::copies;
use crate::backup::Source;
use crate::base::OrganizationId;
use crate::replica::{self, Target};

pub(super) async fn run(context: &Context, command: BackupCommand) -> Outcome {
    match command {
        BackupCommand::Status => {
            context
                .with_client(Intent::Use, async |client| {
                    let found = client.get("/v1/backup").await?;
                    context.output.answer(&found, || details(&found))?;
                    Ok(Verdict::Good)
                })
                .await
        }
        BackupCommand::Fetch(fetch) => self::fetch(context, fetch).await,
    }
}

pub(super) async fn history(context: &Context, client: &Client, org: &str) -> Outcome {
    let found = client.get(&organization(org, "/backup")).await?;
    context.output.answer(&found, || {
        if found["oldest"].is_null() {
            return format!("There is no copy of {} yet.\n", clean(org));
        }
        let mut text = format!(
            "{} can be restored to every moment\n  from {} (transaction {})\n  to   {} (transaction {})\n",
            clean(org),
            cell(&found, "oldest.at"),
            cell(&found, "oldest.txid"),
            cell(&found, "newest.at"),
            cell(&found, "newest.txid"),
        );
        for gap in found["gaps"].as_array().into_iter().flatten() {
            let _ = writeln!(text, "  but not transactions {} to {}", cell(gap, "from_txid"), cell(gap, "to_txid"));
        }
        let _ = write!(text, "The copy takes up {} bytes.", cell(&found, "bytes"));
        if !found["progress"]["last_error"].is_null() {
            let _ = write!(text, " Shipping fails: {}", cell(&found, "progress.last_error"));
        }
        text.push('\n');
        text
    })?;
    Ok(Verdict::Good)
}

pub(super) async fn diff(context: &Context, client: &Client, org: &str, from: &str, to: Option<&str>) -> Outcome {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("from", from);
    if let Some(to) = to {
        query.append_pair("to", to);
    }
    let found = client.get(&organization(org, &format!("/differences?{}", query.finish()))).await?;
    context.output.answer(&found, || changes(&found["differences"], "Nothing differs."))?;
    Ok(Verdict::Good)
}

pub(super) async fn restore(context: &Context, client: &Client, restore: &RestoreOrg) -> Outcome {
    let mut body = asked(&restore.moment);
    body.insert("dry_run".to_owned(), restore.dry_run.into());
    let path = organization(&restore.org.org, "/restorations");
    let done = client.call(Method::POST, &path, Some(Value::Object(body))).await?;
    context.output.answer(&done, || restored(&done, &restore.org.org, restore.dry_run))?;
    Ok(Verdict::Good)
}

pub(super) async fn recover(context: &Context, client: &Client, org: &str, moment: &Moment) -> Outcome {
    let body = Value::Object(asked(moment));
    let done = client.call(Method::POST, &organization(org, "/recovery"), Some(body)).await?;
    context.output.answer(&done, || {
        let point = format!("{} (transaction {})", cell(&done, "as_of"), cell(&done, "txid"));
        let mut text = format!("{} is back as of {point}. Everybody signs in again.\n", clean(org));
        if !done["kept"].is_null() {
            let _ = writeln!(text, "What was there is kept in {}.", cell(&done, "kept"));
        }
        text
    })?;
    Ok(Verdict::Good)
}

fn asked(moment: &Moment) -> Map<String, Value> {
    super::org::present([("at", moment.at.clone()), ("txid", moment.txid.clone())])
}

fn restored(done: &Value, org: &str, dry_run: bool) -> String {
    let point = format!("{} (transaction {})", cell(done, "as_of"), cell(done, "txid"));
    let mut text = if dry_run {
        format!("{} would be what it was at {point}; every session would end. What would change:\n", clean(org))
    } else {
        format!(
            "{} is what it was at {point}; {} sessions ended. What changed:\n",
            clean(org),
            cell(done, "sessions_ended")
        )
    };
    text += &changes(&done["changes"], "Nothing.");
    let withheld = rows(&json!({ "data": done["withheld"] }), &["kind", "name", "id", "reason"]);
    if !withheld.is_empty() {
        text += "\nNot brought back, because it was taken away since:\n";
        text += &table(&["KIND", "NAME", "ID", "REASON"], &withheld, "");
    }
    if !done["previous_txid"].is_null() {
        let _ = writeln!(text, "\nTo undo: bulkhead org restore {} --txid {}", clean(org), cell(done, "previous_txid"));
    }
    text
}

fn changes(differences: &Value, empty: &str) -> String {
    let mut lines = Vec::new();
    for difference in differences.as_array().into_iter().flatten() {
        let row = |field: String, before: String, after: String| {
            vec![
                cell(difference, "change"),
                cell(difference, "kind"),
                cell(difference, "name"),
                cell(difference, "id"),
                field,
                before,
                after,
            ]
        };
        let fields = difference["fields"].as_array().map_or(&[][..], Vec::as_slice);
        if fields.is_empty() {
            lines.push(row(String::new(), String::new(), String::new()));
        }
        lines.extend(fields.iter().map(|field| row(cell(field, "field"), cell(field, "before"), cell(field, "after"))));
    }
    table(&["CHANGE", "KIND", "NAME", "ID", "FIELD", "BEFORE", "AFTER"], &lines, empty)
}

/// Straight from the store: for the day on which there is no server and no directory any more.
async fn fetch(context: &Context, fetch: Fetch) -> Outcome {
    let config = super::config::load(&context.options)?;
    if config.backup.url.is_empty() {
        return Err(Failure::new(
            "backup_not_configured",
            "No backup is configured: set backup.url, or BULKHEAD_BACKUP_URL.",
        ));
    }
    let store = copies::store(&config.backup).map_err(|error| Failure::of_server(&error))?;
    let target = target(&fetch.moment)?;
    let wanted = wanted(&fetch)?;
    let mut done = Vec::new();
    for source in wanted {
        let replica = store.replica(&source.path()).map_err(|error| failed(&error))?;
        let out = if fetch.whole { fetch.to.join(source.path()) } else { fetch.to.clone() };
        done.push(one(&replica, source, target, &out, fetch.dry_run).await?);
    }
    if fetch.whole {
        done.extend(organizations(&store, target, &fetch.to, fetch.dry_run).await?);
    }
    let answer = json!({ "object": "fetched", "dry_run": fetch.dry_run, "data": done });
    context.output.answer(&answer, || {
        let verb = if fetch.dry_run { "Would fetch" } else { "Fetched" };
        let lines = rows(&answer, &["source", "txid", "as_of", "path"]);
        format!("{verb}:\n{}", table(&["WHAT", "TRANSACTION", "AS OF", "TO"], &lines, "Nothing."))
    })?;
    Ok(Verdict::Good)
}

/// Every organization that the catalog of that time names.
async fn organizations(
    store: &replica::Store,
    target: Target,
    to: &Path,
    dry_run: bool,
) -> Result<Vec<Value>, Failure> {
    let catalog = to.join(Source::Catalog.path());
    if dry_run {
        return Ok(Vec::new());
    }
    let ids = crate::catalog::ids_in(&catalog).map_err(|error| Failure::of_server(&error))?;
    let mut done = Vec::new();
    for (count, id) in ids.iter().enumerate() {
        let source = Source::Organization(*id);
        let replica = store.replica(&source.path()).map_err(|error| failed(&error))?;
        done.push(one(&replica, source, target, &to.join(source.path()), false).await?);
        if (count + 1).is_multiple_of(100) {
            super::output::note(&format!("{} of {} organizations\n", count + 1, ids.len()));
        }
    }
    Ok(done)
}

async fn one(
    replica: &replica::Replica,
    source: Source,
    target: Target,
    out: &Path,
    dry_run: bool,
) -> Result<Value, Failure> {
    let what = source.to_string();
    let told = |error: replica::Error| Failure::new("backup_failed", format!("{what}: {error}."));
    if dry_run {
        let mut items = replica.list_all().await.map_err(told)?;
        if let Target::Time(time) = target {
            items = replica.date_for(items, time).await.map_err(told)?;
        }
        let plan = replica::plan(&items, target).map_err(|error| told(error.into()))?;
        let last = plan.last().map(|item| item.name.max.to_string());
        return Ok(json!({ "source": what, "txid": last, "as_of": null, "path": out.display().to_string() }));
    }
    let restored = replica::restore(replica, target, out).await.map_err(told)?;
    Ok(json!({
        "source": what,
        "txid": restored.txid.to_string(),
        "as_of": restored.timestamp.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        "path": out.display().to_string(),
    }))
}

fn failed(error: &replica::Error) -> Failure {
    Failure::new("backup_failed", format!("{error}."))
}

fn wanted(fetch: &Fetch) -> Result<Vec<Source>, Failure> {
    if fetch.whole {
        return Ok(vec![Source::Keyring, Source::Catalog]);
    }
    match fetch.what.as_deref() {
        Some("catalog") => Ok(vec![Source::Catalog]),
        Some("keyring") => Ok(vec![Source::Keyring]),
        Some(id) => {
            let id: OrganizationId = id.parse().map_err(|_| {
                Failure::usage("name what to fetch: an organization's id (org_…), catalog, keyring, or --whole")
            })?;
            Ok(vec![Source::Organization(id)])
        }
        None => Err(Failure::usage("name what to fetch: an organization's id (org_…), catalog, keyring, or --whole")),
    }
}

fn target(moment: &Moment) -> Result<Target, Failure> {
    if let Some(at) = &moment.at {
        let time = chrono::DateTime::parse_from_rfc3339(at)
            .map_err(|_| Failure::usage("--at takes a time such as 2026-11-22T09:30:00Z"))?;
        return Ok(Target::Time(time.to_utc()));
    }
    match &moment.txid {
        Some(txid) => txid.parse().map(Target::Txid).map_err(|_| Failure::usage("--txid takes 16 hexadecimal digits")),
        None => Ok(Target::Latest),
    }
}

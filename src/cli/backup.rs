//! Going back: `org history`, `org diff`, `org restore`, `org recover`.

use std::fmt::Write;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::args::{BackupCommand, Moment, RestoreOrg};
use super::client::{Client, Intent, LONG, organization};
use super::output::{cell, clean, details, rows, table};
use super::progress::waiting;
use super::{Context, Outcome, Verdict, fetch, inspection, unless_interrupted};

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
        BackupCommand::Adopt { dry_run } => super::replication::adopt(context, dry_run).await,
        BackupCommand::Fetch(fetch) => unless_interrupted(fetch::fetch(context, fetch)).await,
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
    if let Some(slug) = &restore.beside {
        return inspection::beside(context, client, restore, slug).await;
    }
    if let Some(to) = &restore.output {
        return inspection::to_file(context, client, restore, to).await;
    }
    let mut body = asked(&restore.moment);
    body.insert("dry_run".to_owned(), restore.dry_run.into());
    body.insert("reinstate".to_owned(), restore.reinstate.into());
    let path = organization(&restore.org.org, "/restorations");
    let restoring = client.call_within(Method::POST, &path, Some(Value::Object(body)), LONG);
    let done = waiting("restoring", context.output.json, restoring).await?;
    context.output.answer(&done, || restored(&done, &restore.org.org, restore.dry_run))?;
    Ok(Verdict::Good)
}

pub(super) async fn recover(context: &Context, client: &Client, org: &str, moment: &Moment) -> Outcome {
    let body = Value::Object(asked(moment));
    let path = organization(org, "/recovery");
    let recovering = client.call_within(Method::POST, &path, Some(body), LONG);
    let done = waiting("recovering", context.output.json, recovering).await?;
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

pub(super) fn asked(moment: &Moment) -> Map<String, Value> {
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
    for (list, heading) in [
        ("reinstated", "Given back, although it was taken away since:"),
        ("withheld", "Not brought back, because it was taken away since (--reinstate gives members theirs back):"),
    ] {
        let found = rows(&json!({ "data": done[list] }), &["kind", "name", "id", "reason"]);
        if !found.is_empty() {
            let _ = writeln!(text, "\n{heading}");
            text += &table(&["KIND", "NAME", "ID", "REASON"], &found, "");
        }
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

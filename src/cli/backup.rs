//! Going back: `org history`, `org diff`, `org restore`, `org recover`.

use std::fmt::Write;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::args::{BackupCommand, Moment, RestoreOrg};
use super::client::{Client, Intent, LONG, organization};
use super::output::{cell, clean, rows, table};
use super::progress::waiting;
use super::{Context, Failure, Outcome, Verdict, fetch, inspection, unless_interrupted};

pub(super) async fn run(context: &Context, command: BackupCommand) -> Outcome {
    match command {
        BackupCommand::Status => {
            context
                .with_client(Intent::Use, async |client| {
                    let found = client.get("/v1/backup").await?;
                    context.output.answer(&found, || status(&found))?;
                    Ok(Verdict::Good)
                })
                .await
        }
        BackupCommand::Adopt { dry_run } => super::replication::adopt(context, dry_run).await,
        BackupCommand::Fetch(fetch) => {
            context.refuse_url("backup fetch", "the store of this configuration")?;
            unless_interrupted(fetch::fetch(context, fetch)).await
        }
    }
}

fn status(found: &Value) -> String {
    if found["mode"] == "litestream" {
        return "A stock litestream ships the files, and tells nobody how far it is. `bulkhead org history ORG` looks at \
                the store.\n"
            .to_owned();
    }
    let mut text = format!(
        "mode:     {}\nwaiting:  {} databases to be shipped, {} answers for the store\n",
        cell(found, "mode"),
        cell(found, "waiting"),
        cell(found, "confirming")
    );
    if !found["superseded"].is_null() {
        let _ = writeln!(text, "STOPPED:  {}", cell(found, "superseded"));
    }
    let mut remarks = String::new();
    let lines: Vec<Vec<String>> = ["catalog", "keyring"]
        .map(|name| -> Vec<String> {
            let one = &found[name];
            for (key, word) in [("stopped", "stopped"), ("last_error", "last error"), ("damaged", "damaged")] {
                if !one[key].is_null() {
                    let _ = writeln!(remarks, "{name}, {word}: {}", cell(one, key));
                }
            }
            let cells = ["txid", "shipped_at", "behind_since"].map(|key| cell(one, key));
            std::iter::once(name.to_owned()).chain(cells).collect()
        })
        .into();
    let _ = write!(text, "\n{}", table(&["DATABASE", "TRANSACTION", "SHIPPED", "BEHIND SINCE"], &lines, ""));
    if !remarks.is_empty() {
        let _ = write!(text, "\n{remarks}");
    }
    text + "\nOf one organization: bulkhead org history ORG\n"
}

pub(super) async fn history(context: &Context, client: &Client, org: &str) -> Outcome {
    let found = client.get(&organization(org, "/backup")).await?;
    context.output.answer(&found, || {
        if found["store_reachable"] == false {
            return format!(
                "The store cannot be reached: which moments of {} it has is not known now.\n{}",
                clean(org),
                progress(&found["progress"])
            );
        }
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
        for found in found["clock_set_back"].as_array().into_iter().flatten() {
            let _ = writeln!(
                text,
                "  the clock was set back between transactions {} ({}) and {} ({}): there, ask for a transaction",
                cell(found, "before.txid"),
                cell(found, "before.at"),
                cell(found, "after.txid"),
                cell(found, "after.at"),
            );
        }
        let _ = write!(text, "The copy takes up {} bytes.", cell(&found, "bytes"));
        text.push('\n');
        text.push_str(&progress(&found["progress"]));
        text
    })?;
    Ok(if found["store_reachable"] == false { Verdict::Bad } else { Verdict::Good })
}

/// What is not as it should be with the shipping of one organization.
fn progress(progress: &Value) -> String {
    let mut text = String::new();
    let failed = match progress["behind_since"].is_null() {
        true => format!("Shipping failed last at {}:", cell(progress, "last_error_at")),
        false => "Shipping fails:".to_owned(),
    };
    for (key, words) in [
        ("behind_since", "Not shipped yet: what was written since"),
        ("last_error", failed.as_str()),
        ("stopped", "Shipping has stopped:"),
        ("damaged", "A file of the copy was damaged, and was made up for:"),
    ] {
        if !progress[key].is_null() {
            let _ = writeln!(text, "{words} {}", cell(progress, key));
        }
    }
    text
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

/// Undone it can be, but for the sessions that end.
pub(super) fn confirm(context: &Context, restore: &RestoreOrg) -> Result<(), Failure> {
    if restore.dry_run || restore.beside.is_some() || restore.output.is_some() {
        return Ok(());
    }
    let org = &restore.org.org;
    let what = format!(
        "This makes {} what it was, for everybody in it, and ends every session. --dry-run shows what would change.",
        clean(org)
    );
    context.confirm(&what, org)
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
    let done = waiting("restoring", context.output.json, restoring).await;
    let done = done.map_err(|failure| or_take(failure, &restore_command(restore)))?;
    context.output.answer(&done, || restored(&done, &restore.org.org, restore.dry_run))?;
    Ok(Verdict::Good)
}

pub(super) async fn recover(context: &Context, client: &Client, org: &str, moment: &Moment, dry_run: bool) -> Outcome {
    let mut body = asked(moment);
    body.insert("dry_run".to_owned(), dry_run.into());
    let body = Value::Object(body);
    let path = organization(org, "/recovery");
    let recovering = client.call_within(Method::POST, &path, Some(body), LONG);
    let done = waiting("recovering", context.output.json, recovering).await;
    let done = done.map_err(|failure| or_take(failure, &format!("recover {}", clean(org))))?;
    context.output.answer(&done, || {
        let point = format!("{} (transaction {})", cell(&done, "as_of"), cell(&done, "txid"));
        if done["frozen"] == true {
            return recovered_frozen(&done, org, dry_run);
        }
        if dry_run {
            return format!(
                "Would put {} back as of {point}, in the place of its file, and everybody would sign in again.\nNothing was \
                 done.\n",
                clean(org)
            );
        }
        let mut text = format!("{} is back as of {point}. Everybody signs in again.\n", clean(org));
        if !done["kept"].is_null() {
            let _ = writeln!(text, "What was there is kept in {}.", cell(&done, "kept"));
        }
        text
    })?;
    Ok(Verdict::Good)
}

/// What a legal hold has left of a recovery.
fn recovered_frozen(done: &Value, org: &str, dry_run: bool) -> String {
    let (org, txid) = (clean(org), cell(done, "txid"));
    if dry_run {
        return format!(
            "Would put the frozen file of {org} back (transaction {txid}); it would stay frozen.\nNothing was done.\n"
        );
    }
    let mut text = format!("The frozen file of {org} is back (transaction {txid}), and {org} is still frozen.\n");
    if !done["kept"].is_null() {
        let _ = writeln!(text, "What was there is kept in {}.", cell(done, "kept"));
    }
    text
}

/// Where a point is damaged and another one is named, the command that takes that: nobody takes it unasked.
pub(super) fn or_take(failure: Failure, command: &str) -> Failure {
    match failure.problem["whole_point"]["txid"].as_str().map(clean) {
        Some(txid) => failure.advise(format!("To take that one: bulkhead org {command} --txid {txid}")),
        None => failure,
    }
}

/// The same command but for the moment.
pub(super) fn restore_command(restore: &RestoreOrg) -> String {
    let mut command = format!("restore {}", clean(&restore.org.org));
    if restore.reinstate {
        command.push_str(" --reinstate");
    }
    if let Some(slug) = &restore.beside {
        let _ = write!(command, " --as {}", clean(slug));
    }
    if let Some(to) = &restore.output {
        let _ = write!(command, " --output {}", clean(&to.display().to_string()));
    }
    command
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

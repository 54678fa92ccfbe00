//! `catalog check`: whether the directory of organizations and their files agree.

use std::fmt::Write as _;

use super::args::CatalogCommand;
use super::client::{Client, Intent};
use super::failure::Failure;
use super::output::{cell, clean, rows, table};
use super::progress::{Progress, Unit};
use super::{Context, Outcome, Verdict, config, log};
use crate::app::rebuild_catalog;
use serde_json::{Value, json};

pub(super) async fn run(context: &Context, command: CatalogCommand) -> Outcome {
    match command {
        CatalogCommand::Rebuild { dry_run } => rebuild(context, dry_run).await,
        CatalogCommand::Check => context.with_client(Intent::Use, async |client| check(context, client).await).await,
    }
}

/// The one command that works on files by itself: it is for when no server can start on them.
async fn rebuild(context: &Context, dry_run: bool) -> Outcome {
    log::warnings(context.output.json);
    context.refuse_url("catalog rebuild", "the directory of a stopped server")?;
    let config = config::load(&context.options)?;
    if !dry_run {
        let what = "The catalog is made again from the files of the organizations; the one that is there is kept. --dry-run \
                    says what would come of it.";
        context.confirm(what, "rebuild")?;
    }
    let mut progress = Progress::new("read", Unit::Organizations, context.output.json);
    // How many there are is what is being found out.
    let rebuilt = rebuild_catalog(&config, dry_run, &mut |read| progress.at(read, 0)).await;
    progress.end();
    let report = rebuilt.map_err(|error| super::serve::not_ours(&config.server.data_dir, &error))?;
    let report = serde_json::to_value(&report).map_err(|error| Failure::new("unreadable_answer", error.to_string()))?;
    context.output.answer(&report, || told(&report))?;
    let is_whole = |key: &str| report[key].as_array().is_none_or(Vec::is_empty);
    let is_good = ["conflicts", "left_out", "set_aside"].into_iter().all(is_whole);
    Ok(if is_good { Verdict::Good } else { Verdict::Bad })
}

fn told(report: &Value) -> String {
    let list = |key: &str, columns: &[&str], headings: &[&str], title: &str| {
        let lines = rows(&json!({ "data": report[key] }), columns);
        if lines.is_empty() { String::new() } else { format!("{title}:\n{}\n", table(headings, &lines, "")) }
    };
    let mut text = list(
        "conflicts",
        &["organization_id", "problem"],
        &["ORGANIZATION", "PROBLEM"],
        "Not entered as the files say",
    );
    text.push_str(&list("left_out", &["path", "why"], &["PATH", "WHY"], "Left out"));
    text.push_str(&list(
        "set_aside",
        &["path", "kept", "why"],
        &["PATH", "KEPT AT", "WHY"],
        if report["dry_run"] == true { "Would be set aside" } else { "Set aside" },
    ));
    text.push_str(&list(
        "on_their_way",
        &["organization_id", "transfer_id", "direction", "state"],
        &["ORGANIZATION", "TRANSFER", "DIRECTION", "STATE"],
        "On their way",
    ));
    text.push_str(&list(
        "copied",
        &["table", "copied", "left_out", "lost"],
        &["TABLE", "ROWS", "DO NOT FIT", "LOST"],
        "Copied from the old catalog",
    ));
    if let Some(why) = report["old_unreadable"].as_str() {
        let _ = writeln!(text, "The old catalog could not be read as a whole: {}", clean(why));
    }
    let (count, old) = (cell(report, "organizations"), cell(report, "from_the_old_catalog"));
    let made = if report["dry_run"] == true { "The new catalog would have" } else { "The new catalog has" };
    let _ = writeln!(text, "{made} {count} organizations, {old} of them as the old one had them.");
    if let Some(kept) = report["kept"].as_str() {
        let _ = writeln!(text, "The old one is kept at {}.", clean(kept));
    }
    text
}

async fn check(context: &Context, client: &Client) -> Outcome {
    let found = client.get("/v1/catalog/check").await?;
    let ok = found["ok"].as_bool() == Some(true);
    context.output.answer(&found, || {
        let organizations = cell(&found, "organizations");
        if ok {
            return format!("The catalog agrees with the files of all {organizations} organizations.\n");
        }
        let problems = serde_json::json!({ "data": found["problems"] });
        let lines = rows(&problems, &["organization_id", "problem", "advice"]);
        let count = lines.len();
        let lines = table(&["ORGANIZATION", "PROBLEM", "WHAT TO DO"], &lines, "");
        format!("{lines}\n{count} problems in {organizations} organizations. The others are not affected.\n")
    })?;
    Ok(if ok { Verdict::Good } else { Verdict::Bad })
}

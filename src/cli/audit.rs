//! `org audit`, `audit`: what happened in an organization or to the deployment, and whether the log of it is whole.

use super::args::{AuditCommand, OperatorsLog};
use super::client::{Client, Intent, organization};
use super::output::{cell, clean, rows, table};
use super::{Context, Outcome, Verdict};

const EVENTS: &str = "/audit_events";

pub(super) async fn run(context: &Context, command: AuditCommand) -> Outcome {
    match command {
        AuditCommand::Verify(org) => {
            let (path, whose) = (organization(&org.org, EVENTS), format!("The audit log of {}", clean(&org.org)));
            context.with_client(Intent::Use, async |client| verify(context, client, &path, &whose).await).await
        }
        AuditCommand::List { org, limit } => {
            let path = organization(&org.org, EVENTS);
            context.with_client(Intent::Use, async |client| list(context, client, &path, limit.limit).await).await
        }
    }
}

/// `audit`.
pub(super) async fn of_operators(context: &Context, command: OperatorsLog) -> Outcome {
    let path = format!("/v1{EVENTS}");
    context
        .with_client(Intent::Use, async |client| match command {
            OperatorsLog::Verify => verify(context, client, &path, "The operators' log").await,
            OperatorsLog::List(limit) => list(context, client, &path, limit.limit).await,
        })
        .await
}

async fn verify(context: &Context, client: &Client, path: &str, whose: &str) -> Outcome {
    let found = client.get(&format!("{path}/verification")).await?;
    let intact = found["intact"].as_bool() == Some(true);
    context.output.answer(&found, || {
        let (events, head) = (cell(&found, "events"), cell(&found, "head"));
        if intact {
            format!(
                "{whose} is whole: {events} events, each following from the one before.\n\
                 Its newest hash is {head}; kept elsewhere, it would show if the end were cut off.\n"
            )
        } else {
            let (at, reason) = (cell(&found, "broken_at"), cell(&found, "reason"));
            format!(
                "{whose} is NOT whole. Event {at}: {reason}.\n\
                 Keep a copy of the file that it is in as evidence, and compare it with a backup.\n"
            )
        }
    })?;
    Ok(if intact { Verdict::Good } else { Verdict::Bad })
}

async fn list(context: &Context, client: &Client, path: &str, limit: Option<u64>) -> Outcome {
    let list = client.list(path, limit).await?;
    context.output.answer(&list, || {
        let mut lines = rows(&list, &["sequence", "occurred_at", "action", "outcome"]);
        let events = list["data"].as_array().into_iter().flatten();
        for (line, event) in lines.iter_mut().zip(events) {
            let actor = &event["actor"];
            let who = if actor["name"].is_string() { cell(actor, "name") } else { cell(actor, "id") };
            line.push(if who == "-" { cell(actor, "type") } else { format!("{} {who}", cell(actor, "type")) });
            let targets = event["targets"].as_array().into_iter().flatten();
            let targets: Vec<String> =
                targets.map(|target| format!("{} {}", cell(target, "type"), cell(target, "id"))).collect();
            line.push(targets.join(", "));
        }
        table(&["NO", "TIME", "ACTION", "OUTCOME", "ACTOR", "TARGETS"], &lines, "Nothing has happened yet.")
    })?;
    Ok(Verdict::Good)
}

//! `org audit`: what happened in an organization, and whether the log of it is whole.

use super::args::AuditCommand;
use super::client::{Client, Intent, organization};
use super::output::{cell, clean, rows, table};
use super::{Context, Outcome, Verdict};

pub(super) async fn run(context: &Context, command: AuditCommand) -> Outcome {
    match command {
        AuditCommand::Verify(org) => {
            context.with_client(Intent::Use, async |client| verify(context, client, &org.org).await).await
        }
        AuditCommand::List { org, limit } => {
            context.with_client(Intent::Use, async |client| list(context, client, &org.org, limit.limit).await).await
        }
    }
}

async fn verify(context: &Context, client: &Client, org: &str) -> Outcome {
    let found = client.get(&organization(org, "/audit_events/verification")).await?;
    let intact = found["intact"].as_bool() == Some(true);
    context.output.answer(&found, || {
        let (org, events, head) = (clean(org), cell(&found, "events"), cell(&found, "head"));
        if intact {
            format!(
                "The audit log of {org} is whole: {events} events, each following from the one before.\n\
                 Its newest hash is {head}; kept elsewhere, it would show if the end were cut off.\n"
            )
        } else {
            let (at, reason) = (cell(&found, "broken_at"), cell(&found, "reason"));
            format!(
                "The audit log of {org} is NOT whole. Event {at}: {reason}.\n\
                 Keep a copy of the organization's file as evidence, and compare it with a backup.\n"
            )
        }
    })?;
    Ok(if intact { Verdict::Good } else { Verdict::Bad })
}

async fn list(context: &Context, client: &Client, org: &str, limit: Option<u64>) -> Outcome {
    let list = client.list(&organization(org, "/audit_events"), limit).await?;
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

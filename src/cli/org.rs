//! `org`: organizations.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::args::{CreateOrg, Limit, OrgCommand};
use super::client::{Client, Intent, LONG, organization};
use super::output::{cell, clean, details, rows, table, titled};
use super::progress::waiting;
use super::{
    Context, Outcome, Verdict, audit, backup, encryption, erasure, export, limits, moving, password, replication,
    transfer,
};

pub(super) async fn run(context: &Context, command: OrgCommand) -> Outcome {
    match command {
        OrgCommand::Create(create) => {
            let body = body_of(create)?;
            context.with_client(Intent::Create, async |client| self::create(context, client, body).await).await
        }
        OrgCommand::List(limit) => {
            context.with_client(Intent::Use, async |client| list(context, client, limit).await).await
        }
        OrgCommand::Show(org) => {
            context.with_client(Intent::Use, async |client| show(context, client, &org.org).await).await
        }
        OrgCommand::Suspend { org, reason } => {
            context
                .with_client(Intent::Use, async |client| {
                    let path = organization(&org.org, "/suspension");
                    let answer = client.call(Method::PUT, &path, Some(json!({ "reason": reason }))).await?;
                    let text = format!("Suspended {}: nobody gets in until `bulkhead org resume`.\n", clean(&org.org));
                    context.output.answer(&done(answer), || text)?;
                    Ok(Verdict::Good)
                })
                .await
        }
        OrgCommand::Resume(org) => {
            context
                .with_client(Intent::Use, async |client| {
                    let answer = client.call(Method::DELETE, &organization(&org.org, "/suspension"), None).await?;
                    context.output.answer(&done(answer), || format!("Resumed {}.\n", clean(&org.org)))?;
                    Ok(Verdict::Good)
                })
                .await
        }
        OrgCommand::Freeze(wanted) => moving::freeze(context, wanted).await,
        OrgCommand::Unfreeze(org) => moving::unfreeze(context, &org.org).await,
        OrgCommand::VerifyFreeze(wanted) => moving::verify(context, &wanted),
        OrgCommand::Push(wanted) => transfer::push(context, wanted).await,
        OrgCommand::Pull(wanted) => transfer::pull(context, wanted).await,
        OrgCommand::Move(wanted) => moving::relocate(context, wanted).await,
        OrgCommand::Erase(erase) => erasure::erase(context, erase).await,
        OrgCommand::Erasures(limit) => {
            context.with_client(Intent::Use, async |client| erasure::list(context, client, limit).await).await
        }
        OrgCommand::Certificate(wanted) => erasure::certificate(context, wanted).await,
        OrgCommand::RotateKey(org) => {
            let rotate = async |client: &Client| super::keys::rotate_one(context, client, &org.org).await;
            context.with_client(Intent::Use, rotate).await
        }
        OrgCommand::Encrypt(wanted) => encryption::encrypt(context, wanted, "file").await,
        OrgCommand::Decrypt(wanted) => encryption::encrypt(context, wanted, "columns").await,
        OrgCommand::RotateFileKey(wanted) => encryption::rotate(context, wanted).await,
        OrgCommand::Compact(org) => {
            context.with_client(Intent::Use, async |client| compact(context, client, &org.org).await).await
        }
        OrgCommand::Quota(wanted) => {
            context.with_client(Intent::Use, async |client| limits::quota(context, client, &wanted).await).await
        }
        OrgCommand::Limit(wanted) => {
            context.with_client(Intent::Use, async |client| limits::limit(context, client, &wanted).await).await
        }
        OrgCommand::Replication { org, mode } => replication::run(context, &org.org, mode).await,
        OrgCommand::Audit(command) => audit::run(context, command).await,
        OrgCommand::Export(args) => export::export(context, args).await,
        OrgCommand::VerifyExport(args) => export::verify(context, &args),
        OrgCommand::Import(args) => export::import(context, args).await,
        OrgCommand::History(org) => {
            context.with_client(Intent::Use, async |client| backup::history(context, client, &org.org).await).await
        }
        OrgCommand::Diff { org, from, to } => {
            context
                .with_client(Intent::Use, async |client| {
                    backup::diff(context, client, &org.org, &from, to.as_deref()).await
                })
                .await
        }
        OrgCommand::Recover { org, moment, dry_run } => {
            context
                .with_client(Intent::Use, async |client| {
                    backup::recover(context, client, &org.org, &moment, dry_run).await
                })
                .await
        }
        OrgCommand::Restore(restore) => {
            backup::confirm(context, &restore)?;
            context.with_client(Intent::Use, async |client| backup::restore(context, client, &restore).await).await
        }
    }
}

fn body_of(create: CreateOrg) -> Result<Value, super::Failure> {
    let mut body = present([
        ("name", Some(create.name)),
        ("slug", create.slug),
        ("external_id", create.external_id),
        ("accent", create.accent),
        ("encryption", create.encrypted.then(|| "file".to_owned())),
    ]);
    if let Some(email) = create.owner_email {
        let mut owner = present([("email", Some(email)), ("name", create.owner_name)]);
        if create.owner_password_stdin {
            owner.insert("password".to_owned(), password::from_stdin()?.expose().into());
        }
        body.insert("owner".to_owned(), owner.into());
    }
    Ok(body.into())
}

async fn create(context: &Context, client: &Client, body: Value) -> Outcome {
    let made = client.post("/v1/organizations", body).await?;
    context.output.answer(&made, || titled(&format!("Made the organization {}.", cell(&made, "slug")), &made))?;
    Ok(Verdict::Good)
}

async fn list(context: &Context, client: &Client, limit: Limit) -> Outcome {
    let list = client.list("/v1/organizations", limit.limit).await?;
    context.output.answer(&list, || {
        table(
            &["SLUG", "ID", "EXTERNAL ID", "STATE", "ADDRESS", "CREATED"],
            &rows(&list, &["slug", "id", "external_id", "state", "url", "created_at"]),
            "There is no organization yet. Make one: bulkhead org create --name NAME --owner-email E-MAIL",
        )
    })?;
    Ok(Verdict::Good)
}

async fn compact(context: &Context, client: &Client, org: &str) -> Outcome {
    let path = organization(org, "/compaction");
    let compacting = client.call_within(Method::POST, &path, Some(json!({})), LONG);
    let answer = waiting("compacting", context.output.json, compacting).await?;
    context.output.answer(&answer, || {
        let (before, after) = (cell(&answer, "bytes_before"), cell(&answer, "bytes_after"));
        format!("Compacted {}: {before} bytes before, {after} after.\n", clean(org))
    })?;
    Ok(Verdict::Good)
}

async fn show(context: &Context, client: &Client, org: &str) -> Outcome {
    let found = client.get(&organization(org, "")).await?;
    context.output.answer(&found, || details(&found))?;
    Ok(Verdict::Good)
}

/// An object of what was given; what was not is left to the API's defaults.
pub(super) fn present<const N: usize>(pairs: [(&str, Option<String>); N]) -> Map<String, Value> {
    pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))).collect()
}

/// The document of an answer that has none.
pub(super) fn done(answer: Value) -> Value {
    if answer.is_null() { json!({ "ok": true }) } else { answer }
}

//! `app`: the applications that sign people in.

use serde_json::json;

use super::args::{AppCommand, CreateApp, Limit};
use super::client::{Client, Intent};
use super::output::{cell, rows, table, titled};
use super::{Context, Outcome, Verdict};

pub(super) async fn run(context: &Context, command: AppCommand) -> Outcome {
    match command {
        AppCommand::Create(app) => {
            context.with_client(Intent::Create, async |client| create(context, client, app).await).await
        }
        AppCommand::List(limit) => {
            context.with_client(Intent::Use, async |client| list(context, client, limit).await).await
        }
    }
}

async fn create(context: &Context, client: &Client, app: CreateApp) -> Outcome {
    let mut body = json!({
        "name": app.name,
        "type": if app.public { "public" } else { "confidential" },
        "redirect_uris": app.redirect_uris,
        "post_logout_redirect_uris": app.post_logout_redirect_uris,
    });
    if let Some(algorithm) = app.alg {
        body["id_token_signed_response_alg"] = algorithm.as_str().into();
    }
    let made = client.post("/v1/applications", body).await?;
    context.output.answer(&made, || {
        titled(&format!("Registered {}; its client_id is {}.", cell(&made, "name"), cell(&made, "id")), &made)
    })?;
    Ok(Verdict::Good)
}

async fn list(context: &Context, client: &Client, limit: Limit) -> Outcome {
    let list = client.list("/v1/applications", limit.limit).await?;
    context.output.answer(&list, || {
        table(
            &["NAME", "TYPE", "STATE", "ID", "REDIRECT ADDRESSES"],
            &rows(&list, &["name", "type", "state", "id", "redirect_uris"]),
            "There is no application yet. Register one: bulkhead app create --name NAME --redirect-uri URI",
        )
    })?;
    Ok(Verdict::Good)
}

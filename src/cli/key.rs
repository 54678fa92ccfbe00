//! `key`: API keys, of the deployment or of one organization.

use reqwest::Method;
use serde_json::{Value, json};

use super::args::{KeyCommand, KeyOf};
use super::client::{Client, Intent, organization, segment};
use super::org::done;
use super::output::{cell, clean, rows, table, titled};
use super::{Context, Outcome, Verdict};

pub(super) async fn run(context: &Context, command: KeyCommand) -> Outcome {
    match command {
        KeyCommand::Create { name, scopes, of } => {
            let intent = if of.org.is_some() { Intent::Use } else { Intent::Create };
            let body = json!({ "name": name, "scopes": scopes });
            context.with_client(intent, async |client| create(context, client, &path(&of), body).await).await
        }
        KeyCommand::List { of, limit } => {
            context.with_client(Intent::Use, async |client| list(context, client, &path(&of), limit.limit).await).await
        }
        KeyCommand::Revoke { key, of } => {
            context
                .with_client(Intent::Use, async |client| {
                    let path = format!("{}/{}", path(&of), segment(&key));
                    let answer = client.call(Method::DELETE, &path, None).await?;
                    context.output.answer(&done(answer), || format!("Revoked {}.\n", clean(&key)))?;
                    Ok(Verdict::Good)
                })
                .await
        }
    }
}

fn path(of: &KeyOf) -> String {
    of.org.as_deref().map_or_else(|| "/v1/api_keys".to_owned(), |org| organization(org, "/api_keys"))
}

async fn create(context: &Context, client: &Client, path: &str, body: Value) -> Outcome {
    let made = client.post(path, body).await?;
    context.output.answer(&made, || titled(&format!("Made the key {}.", cell(&made, "name")), &made))?;
    Ok(Verdict::Good)
}

async fn list(context: &Context, client: &Client, path: &str, limit: Option<u64>) -> Outcome {
    let list = client.list(path, limit).await?;
    context.output.answer(&list, || {
        table(
            &["NAME", "ID", "ENDS IN", "LAST USED", "EXPIRES", "REVOKED", "SCOPES"],
            &rows(&list, &["name", "id", "suffix", "last_used_at", "expires_at", "revoked_at", "scopes"]),
            "There is no key yet. Make one: bulkhead key create --name NAME --scope organizations:read",
        )
    })?;
    Ok(Verdict::Good)
}

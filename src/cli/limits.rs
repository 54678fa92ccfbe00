//! `org limit` and `fleet limited`: what an organization may take, and who wanted more.

use reqwest::Method;
use serde_json::{Value, json};

use super::args::{LimitOrg, QuotaOrg};
use super::client::{Client, organization};
use super::output::{cell, clean, table, titled};
use super::{Context, Outcome, Verdict};

pub(super) async fn limit(context: &Context, client: &Client, wanted: &LimitOrg) -> Outcome {
    let limits = json!({
        "requests_per_second": wanted.requests_per_second,
        "request_burst": wanted.request_burst,
        "concurrent_requests": wanted.concurrent_requests,
        "concurrent_hashes": wanted.concurrent_hashes,
        "queued_hashes": wanted.queued_hashes,
        "written_bytes_per_minute": wanted.written_bytes_per_minute,
    });
    set(context, client, &wanted.org.org, "limits", limits, wanted.default).await
}

/// `org quota`.
pub(super) async fn quota(context: &Context, client: &Client, wanted: &QuotaOrg) -> Outcome {
    let quotas = json!({ "max_bytes": wanted.max_bytes, "max_members": wanted.max_members });
    set(context, client, &wanted.org.org, "quotas", quotas, wanted.default).await
}

/// All of one kind are replaced. Who names none wants to see them, and says so to take them away.
async fn set(context: &Context, client: &Client, org: &str, kind: &str, wanted: Value, default: bool) -> Outcome {
    let path = organization(org, "");
    let is_question = !default && wanted.as_object().into_iter().flatten().all(|(_, value)| value.is_null());
    let answer = match is_question {
        true => client.get(&path).await?,
        false => client.call(Method::PATCH, &path, Some(json!({ kind: wanted }))).await?,
    };
    context.output.answer(&answer, || {
        let org = clean(org);
        let title = match (is_question, default) {
            (true, _) => format!("Set for {org}; \"-\" is what [{kind}] of the configuration says:"),
            (false, true) => format!("{org} follows [{kind}] of the configuration."),
            (false, false) => format!("Limited {org}; \"-\" is what [{kind}] of the configuration says:"),
        };
        titled(&title, &answer[kind])
    })?;
    Ok(Verdict::Good)
}

pub(super) async fn limited(context: &Context, client: &Client) -> Outcome {
    let answer = client.get("/v1/fleet/limited").await?;
    context.output.answer(&answer, || {
        let headings = ["ORGANIZATION ID", "SLUG", "LIMIT", "REFUSED", "FIRST", "LAST"];
        let since = cell(&answer, "since");
        table(&headings, &lines(&answer), &format!("Nobody was limited since {since}, when the server was started."))
    })?;
    Ok(Verdict::Good)
}

/// One line a limit.
fn lines(answer: &Value) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for one in answer["data"].as_array().into_iter().flatten() {
        for hit in one["limits"].as_array().into_iter().flatten() {
            let of_hit = ["limit", "refused", "first_at", "last_at"].map(|key| cell(hit, key));
            lines.push([cell(one, "organization_id"), cell(one, "slug")].into_iter().chain(of_hit).collect());
        }
    }
    let others = answer["others"].as_object().into_iter().flatten().filter(|(_, refused)| **refused != 0);
    for (limit, refused) in others {
        lines.push(["others", "-", limit, &refused.to_string(), "-", "-"].map(str::to_owned).into());
    }
    lines
}

//! `org limit` and `fleet limited`: what an organization may take, and who wanted more.

use reqwest::Method;
use serde_json::{Value, json};

use super::args::LimitOrg;
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
    let path = organization(&wanted.org.org, "");
    let answer = client.call(Method::PATCH, &path, Some(json!({ "limits": limits }))).await?;
    context.output.answer(&answer, || titled(&format!("Limited {}.", clean(&wanted.org.org)), &answer))?;
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

//! `org push` and `org pull`: carrying an organization from one deployment to another. Everything that matters is kept
//! by the two sides, so the same command again goes on from wherever the last one stopped.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use super::args::{PullOrg, PushOrg};
use super::client::{Client, Intent, organization, segment};
use super::export::{Scratch, unreadable};
use super::output::{cell, clean, note};
use super::progress::{Progress, Unit};
use super::{Context, Failure, Outcome, Verdict};
use crate::base::Secret;

/// Larger than any file with a key.
const LONGEST_KEY: u64 = 4 << 10;

pub(super) async fn push(context: &Context, push: PushOrg) -> Outcome {
    let other = match (&push.to, &push.to_key_file) {
        (Some(url), Some(file)) => Some((Client::remote(url.as_str(), key_of(file)?)?, origin(url))),
        _ => None,
    };
    context
        .with_client(Intent::Use, async |client| {
            let org = &push.org.org;
            if push.cancel {
                return cancel(context, client, other.as_ref().map(|(target, _)| target), org).await;
            }
            let Some((target, to)) = &other else {
                return Err(Failure::usage("--to and --to-key-file say where it goes"));
            };
            if push.dry_run {
                return rehearse(context, client, target, org, to).await;
            }
            carry(context, client, target, org, to).await
        })
        .await
}

pub(super) async fn pull(context: &Context, pull: PullOrg) -> Outcome {
    let source = Client::remote(pull.from.as_str(), key_of(&pull.from_key_file)?)?;
    context
        .with_client(Intent::Use, async |client| {
            let org = &pull.org.org;
            if pull.cancel {
                return cancel(context, &source, Some(client), org).await;
            }
            let here = cell(&client.get("/v1/status").await?, "url");
            if pull.dry_run {
                return rehearse(context, &source, client, org, &here).await;
            }
            carry(context, &source, client, org, &here).await
        })
        .await
}

/// The whole of it; each step is taken again without harm.
async fn carry(context: &Context, source: &Client, target: &Client, org: &str, to: &str) -> Outcome {
    let say = |text: &str| {
        if !context.output.json {
            note(&format!("{text}\n"));
        }
    };
    let departure_path = organization(org, "/departure");
    let mut departure = source.call(Method::PUT, &departure_path, Some(json!({ "to": to }))).await?;
    let arrival_path = arrival_of(&departure);
    let mut arrival = match target.call(Method::PUT, &arrival_path, Some(announced(&departure))).await {
        Ok(arrival) => arrival,
        Err(failure) => {
            if departure["state"] == "prepared" {
                forget(source, &departure_path, target, &arrival_path).await?;
            }
            return Err(failure);
        }
    };
    if arrival["state"] == "prepared" {
        say("From here on it takes no writes, until it is served there or this is called off with --cancel.");
        let mut body = json!({ "recipient": arrival["recipient"], "waiver_sha256": arrival["waiver_sha256"] });
        tell_encryption(&arrival, &mut body);
        departure = match source.call(Method::PUT, &format!("{departure_path}/archive"), Some(body)).await {
            Ok(departure) => departure,
            Err(failure) => {
                if source.get(&departure_path).await.is_ok_and(|now| now["state"] == "prepared") {
                    forget(source, &departure_path, target, &arrival_path).await?;
                }
                return Err(failure);
            }
        };
        let folder = Scratch::new()?;
        let archive = folder.path().join("archive.tar.zst");
        let progress = Progress::new("fetched", Unit::Bytes, context.output.json);
        source.download(&format!("{departure_path}/archive"), &archive, progress).await?;
        let content = format!("{arrival_path}/content?sha256={}", cell(&departure, "archive_sha256"));
        let progress = Progress::new("sent", Unit::Bytes, context.output.json);
        arrival = match target.upload(&content, &archive, None, progress).await {
            Ok(arrival) => arrival,
            Err(failure) => return Err(call_off(source, &departure_path, target, &arrival_path, failure).await),
        };
    }
    let arrived = json!({ "archive_sha256": arrival["archive_sha256"], "audit": arrival["audit"] });
    let departure = source.call(Method::PUT, &format!("{departure_path}/completion"), Some(arrived)).await?;
    say("It has left, and takes no write there any more.");
    let proof = json!({ "proof": departure["proof"] });
    let mut active = target.call(Method::PUT, &format!("{arrival_path}/activation"), Some(proof)).await?;
    let id = cell(&active, "organization_id");
    let mut without = Vec::new();
    for host in departure["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let path = organization(&id, &format!("/hosts/{}", segment(host)));
        if let Err(failure) = target.call(Method::PUT, &path, None).await {
            without.push(json!({ "host": host, "code": failure.code() }));
        }
    }
    active["hosts_left_out"] = without.clone().into();
    context.output.answer(&active, || {
        let mut text = format!(
            "Moved {} to {}: it is served there, and nowhere else.\n\
             Members sign in again; passwords, keys and the audit log came along.\n\
             Its file stays here, read by nobody, until: bulkhead org erase {id}\n",
            clean(org),
            clean(to)
        );
        for host in &without {
            let (host, code) = (cell(host, "host"), cell(host, "code"));
            let _ = writeln!(text, "The host {host} could not be added there: {code}");
        }
        text
    })?;
    Ok(if without.is_empty() { Verdict::Good } else { Verdict::Bad })
}

fn arrival_of(departure: &Value) -> String {
    format!("/v1/arrivals/{}", segment(&cell(departure, "id")))
}

/// What the target is told of what is to come.
fn announced(departure: &Value) -> Value {
    let mut body = json!({
        "organization_id": departure["organization_id"], "slug": departure["slug"],
        "external_id": departure["external_id"], "hosts": departure["hosts"], "from": departure["from"],
        "key": departure["key"], "bytes": departure["bytes"],
    });
    tell_encryption(departure, &mut body);
    body
}

/// What one side says that the whole file is. Of a plain one nothing is said: a deployment from before this was told
/// would refuse the word.
fn tell_encryption(said: &Value, body: &mut Value) {
    if said["encryption"] == "file" {
        body["encryption"] = said["encryption"].clone();
    }
}

/// Nothing has happened yet on either side, and nothing shall remain of it. The target is asked also where it has
/// refused: if only its answer was lost, its arrival would be in the way of every later one.
async fn forget(source: &Client, departure: &str, target: &Client, arrival: &str) -> Result<(), Failure> {
    let stays = source.call(Method::DELETE, departure, None).await;
    let _ = target.call(Method::DELETE, arrival, None).await;
    stays.map(drop)
}

/// The archive was not taken in. If the target says that nothing has arrived, the source goes on as before; if it says
/// nothing, nobody knows, and the same command again finds out.
async fn call_off(source: &Client, departure: &str, target: &Client, arrival: &str, failure: Failure) -> Failure {
    let has_not_arrived = target.get(arrival).await.is_ok_and(|found| found["state"] == "prepared");
    if !has_not_arrived {
        return failure.advise("It takes no writes: the same command again goes on, and --cancel calls it off.");
    }
    match source.call(Method::DELETE, departure, None).await {
        Ok(_) => {
            // Nothing is in it. Where it stays it keeps nobody from anything.
            let _ = target.call(Method::DELETE, arrival, None).await;
            failure.advise("Nothing of it is there; it stays, and takes writes again.")
        }
        Err(_) => failure.advise("It takes no writes until --cancel calls it off, or the same command goes on."),
    }
}

/// Agrees upon it with both sides, then calls that off. What somebody else has agreed upon is not called off.
async fn rehearse(context: &Context, source: &Client, target: &Client, org: &str, to: &str) -> Outcome {
    let path = organization(org, "/departure");
    match source.get(&path).await {
        Ok(departure) => {
            let detail = format!("It is on its way already: {}.", cell(&departure, "state"));
            let advice = "The same command without --dry-run goes on, and --cancel calls it off.";
            return Err(Failure::new("transfer_state", &detail).advise(advice));
        }
        Err(failure) if failure.code() == "transfer_not_found" => {}
        Err(failure) => return Err(failure),
    }
    let departure = source.call(Method::PUT, &path, Some(json!({ "to": to }))).await?;
    let arrival_path = arrival_of(&departure);
    let agreed = target.call(Method::PUT, &arrival_path, Some(announced(&departure))).await;
    let stays = source.call(Method::DELETE, &path, None).await;
    // Also where it has refused: perhaps only its answer was lost.
    let cleared = target.call(Method::DELETE, &arrival_path, None).await;
    stays?;
    let mut plan = agreed?;
    match cleared {
        Err(failure) if failure.code() != "transfer_not_found" => return Err(failure),
        _ => {}
    }
    plan["dry_run"] = true.into();
    context.output.answer(&plan, || {
        format!(
            "{} would take {} ({}). It takes no writes for as long as its archive is on the way. Nothing was changed.\n",
            clean(to),
            clean(org),
            cell(&plan, "organization_id")
        )
    })?;
    Ok(Verdict::Good)
}

/// The source first: once it stays, nothing can make the arrival active. One that has left and is not served yet comes
/// back: the target gives it up for good, and what it says then is shown to the source.
async fn cancel(context: &Context, source: &Client, target: Option<&Client>, org: &str) -> Outcome {
    let path = organization(org, "/departure");
    let departure = source.get(&path).await.ok();
    let arrival = departure.as_ref().map(arrival_of);
    let has_left = departure.as_ref().is_some_and(|departure| departure["state"] == "gone");
    let cleared = match (target, &arrival) {
        (Some(target), Some(arrival)) if has_left => {
            let given_up = target.call(Method::DELETE, &format!("{arrival}?give_up=true"), None).await?;
            let body = json!({ "waiver": given_up["waiver"] });
            source.call(Method::PUT, &format!("{path}/return"), Some(body)).await?;
            true
        }
        _ => {
            source.call(Method::DELETE, &path, None).await?;
            match (target, &arrival) {
                (Some(target), Some(arrival)) => {
                    match target.call(Method::DELETE, &format!("{arrival}?give_up=true"), None).await {
                        Ok(_) => true,
                        // It never got to hear of it.
                        Err(failure) if failure.code() == "transfer_not_found" => true,
                        Err(failure) => return Err(failure),
                    }
                }
                _ => false,
            }
        }
    };
    let done = json!({ "ok": true, "arrival": arrival, "arrival_cleared": cleared, "came_back": has_left });
    context.output.answer(&done, || {
        let stays = match has_left {
            true => format!("{} is here again, and takes writes.\n", clean(org)),
            false => format!("{} stays, and takes writes again.\n", clean(org)),
        };
        match (&arrival, cleared) {
            (Some(arrival), false) => {
                format!(
                    "{stays}What has arrived there can never be served. It goes with: DELETE {arrival}?give_up=true\n"
                )
            }
            _ => stays,
        }
    })?;
    Ok(Verdict::Good)
}

fn origin(url: &url::Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

fn key_of(file: &Path) -> Result<Secret, Failure> {
    let size = fs::metadata(file).map_err(|error| unreadable(file, &error))?.len();
    if size > LONGEST_KEY {
        return Err(Failure::new("unusable_key", format!("{} is too large for an API key.", file.display())));
    }
    let text = fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
    Ok(Secret::new(text.trim().to_owned()))
}

//! `org freeze`, `org unfreeze`, `org verify-freeze` and `org move`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::args::{FreezeOrg, MoveOrg, VerifyFreeze};
use super::client::{Client, Intent, organization};
use super::export::{read_key, unreadable};
use super::output::{cell, clean, details};
use super::progress::{Progress, Unit};
use super::{Context, Failure, Outcome, Verdict};
use crate::crypto::hash;
use crate::features::freeze::certificate;

/// Between two looks at a file that is being moved.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn freeze(context: &Context, freeze: FreezeOrg) -> Outcome {
    context
        .with_client(Intent::Use, async |client| {
            let org = &freeze.org.org;
            if freeze.show {
                let found = client.get(&organization(org, "/freeze")).await?;
                context.output.answer(&found, || match found["frozen"] == true {
                    true => details(&found),
                    false => format!("{} is not frozen.\n", clean(org)),
                })?;
                return Ok(Verdict::Good);
            }
            if freeze.verify {
                return verify_here(context, client, org).await;
            }
            if let Some(to) = &freeze.fetch {
                return fetch(context, client, org, to).await;
            }
            let body = json!({ "reason": freeze.reason });
            let frozen = client.call(Method::PUT, &organization(org, "/freeze"), Some(body)).await?;
            context.output.answer(&frozen, || {
                format!(
                    "Froze {org}: it can be read, and nothing in its file changes until `bulkhead org unfreeze {org}`.\n\
                     The certificate says what the file is, to the bit:\n\n{}\n",
                    cell(&frozen, "certificate"),
                    org = clean(org),
                )
            })?;
            Ok(Verdict::Good)
        })
        .await
}

pub(super) async fn unfreeze(context: &Context, org: &str) -> Outcome {
    context
        .with_client(Intent::Use, async |client| {
            let released = client.call(Method::DELETE, &organization(org, "/freeze"), None).await?;
            let (org, is_damaged) = (clean(org), released["file_damaged"] == true);
            context.output.answer(&json!({ "ok": true, "file_damaged": is_damaged }), || match is_damaged {
                true => format!(
                    "Released {org}. Its file is damaged, so only the operators' log tells of that.\n\
                     To put back what the backup has: bulkhead org recover {org}\n"
                ),
                false => format!("Released {org}.\n"),
            })?;
            Ok(Verdict::Good)
        })
        .await
}

async fn verify_here(context: &Context, client: &Client, org: &str) -> Outcome {
    let found = client.get(&organization(org, "/freeze/verification")).await?;
    let is_identical = found["identical"] == true;
    context.output.answer(&found, || {
        let (sha256, at) = (cell(&found, "certified_sha256"), cell(&found, "certified_at"));
        if is_identical {
            format!("The file of {} is the one that was certified at {at}, to the bit.\nSHA-256 {sha256}\n", clean(org))
        } else {
            format!(
                "The file of {} is NOT the one that was certified at {at}.\nSHA-256 then {sha256}\nSHA-256 now  {}\n",
                clean(org),
                cell(&found, "sha256")
            )
        }
    })?;
    Ok(if is_identical { Verdict::Good } else { Verdict::Bad })
}

async fn fetch(context: &Context, client: &Client, org: &str, to: &Path) -> Outcome {
    if fs::exists(to).unwrap_or(false) {
        let detail = format!("{} is there already; nothing is overwritten.", to.display());
        return Err(Failure::new("target_exists", detail).advise("Name another file with --fetch."));
    }
    let progress = Progress::new("fetched", Unit::Bytes, context.output.json);
    let fetched = client.download(&organization(org, "/freeze/file"), to, progress).await?;
    let found = json!({ "file": to.display().to_string(), "bytes": fetched.bytes, "sha256": fetched.sha256 });
    context.output.answer(&found, || {
        format!("Wrote {} ({} bytes).\nSHA-256 {}\n", to.display(), fetched.bytes, fetched.sha256)
    })?;
    Ok(Verdict::Good)
}

/// Needs nothing but the two files and the key: no server, no data directory, no network.
pub(super) fn verify(context: &Context, verify: &VerifyFreeze) -> Outcome {
    let text = fs::read_to_string(&verify.certificate).map_err(|error| unreadable(&verify.certificate, &error))?;
    let text = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|found| found["certificate"].as_str().map(str::to_owned))
        .unwrap_or(text);
    let says = certificate::verify(text.trim(), &read_key(&verify.public_key)?);
    let read = fs::File::open(&verify.file).and_then(hash::sha256_of);
    let (sha256, bytes) = read.map_err(|error| unreadable(&verify.file, &error))?;
    let sha256 = hex::encode(sha256);
    let is_it = says.as_ref().is_some_and(|says| says.file.sha256 == sha256 && says.file.bytes == bytes);
    let found = json!({
        "object": "freeze_verification", "genuine": says.is_some(), "identical": is_it, "sha256": sha256,
        "bytes": bytes, "certificate": says,
    });
    context.output.answer(&found, || match &says {
        None => "This is NOT a genuine certificate: none of these keys has signed it, or it was changed.\n".to_owned(),
        Some(says) if is_it => format!(
            "{} is the file of {} that was certified at {}, to the bit.\nIts audit log has {} events.\n",
            verify.file.display(),
            says.organization_id,
            says.certified_at,
            says.audit_head.sequence
        ),
        Some(says) => format!(
            "The certificate is genuine, and {} is NOT the file that it is about.\nSHA-256 certified {}\n\
             SHA-256 found     {sha256}\n",
            verify.file.display(),
            says.file.sha256
        ),
    })?;
    Ok(if is_it { Verdict::Good } else { Verdict::Bad })
}

pub(super) async fn relocate(context: &Context, wanted: MoveOrg) -> Outcome {
    context
        .with_client(Intent::Use, async |client| {
            let org = &wanted.org.org;
            let path = organization(org, "/placement");
            let body = json!({ "volume": wanted.to, "dry_run": wanted.dry_run });
            let plan = client.call(Method::PUT, &path, Some(body)).await?;
            if wanted.dry_run {
                context.output.answer(&plan, || {
                    format!(
                        "Would move {} from {} to {}: {} bytes, and {} are free there. Nothing was changed.\n",
                        clean(org),
                        cell(&plan, "volume"),
                        cell(&plan, "moving_to"),
                        cell(&plan, "bytes"),
                        cell(&plan, "bytes_free"),
                    )
                })?;
                return Ok(Verdict::Good);
            }
            let mut progress = Progress::new("copied", Unit::Bytes, context.output.json);
            let moved = loop {
                let found = client.get(&path).await?;
                // One that has failed may not be cleared up as long as its volume is not well.
                if found["state"].is_null() || !found["failure"].is_null() {
                    break found;
                }
                let number = |key: &str| found[key].as_u64().unwrap_or(0);
                progress.at(number("bytes_copied"), number("bytes"));
                tokio::time::sleep(LOOK).await;
            };
            progress.end();
            if moved["volume"] != plan["moving_to"] {
                let code = moved["failure"].as_str().unwrap_or("relocation_failed");
                let detail = moved["failure_detail"].as_str().unwrap_or("The server's log says why.");
                return Err(Failure::new(code, detail).advise("Its file is where it was, and in use."));
            }
            context.output.answer(&moved, || {
                format!(
                    "Moved {} from {} to {}: {} bytes, {} of them while requests waited.\n",
                    clean(org),
                    cell(&plan, "volume"),
                    cell(&moved, "volume"),
                    cell(&moved, "bytes"),
                    cell(&moved, "bytes_while_held"),
                )
            })?;
            Ok(Verdict::Good)
        })
        .await
}

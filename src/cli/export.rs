//! `org export`, `org verify-export`, `org import`: an organization as one file.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::args::{ExportOrg, ImportOrg, VerifyExport};
use super::client::{Client, Intent, organization, segment};
use super::output::{cell, clean, note};
use super::progress::{Progress, Unit, waiting};
use super::{Context, Failure, Outcome, Verdict, password};
use crate::base::Secret;
use crate::features::import;

/// Between two looks at an export that is being made.
const PAUSE: Duration = Duration::from_millis(200);
/// Larger than any file with an age key.
const LONGEST_IDENTITY: u64 = 8 << 10;

pub(super) async fn export(context: &Context, export: ExportOrg) -> Outcome {
    if fs::exists(&export.to).unwrap_or(false) {
        let detail = format!("{} is there already; an export never overwrites a file.", export.to.display());
        return Err(Failure::new("target_exists", detail).advise("Name another file with --to."));
    }
    let body = match (&export.recipient, export.passphrase_stdin) {
        (Some(recipient), _) => json!({ "secrets": "age", "recipient": recipient }),
        (None, true) => json!({ "secrets": "passphrase", "passphrase": password::from_stdin()?.expose() }),
        (None, false) => json!({ "secrets": "omit" }),
    };
    context
        .with_client(Intent::Use, async |client| {
            if export.dry_run {
                return say_export(context, client, &export, &body).await;
            }
            let exports = organization(&export.org.org, "/exports");
            let mut made = client.post(&exports, body).await?;
            let path = format!("{exports}/{}", segment(&cell(&made, "id")));
            let building = async {
                while made["state"] == "building" {
                    tokio::time::sleep(PAUSE).await;
                    made = client.get(&path).await?;
                }
                Ok(made)
            };
            let mut made = waiting("making the archive", context.output.json, building).await?;
            if made["state"] != "ready" {
                let code = cell(&made, "failure");
                return Err(Failure::new(&code, "The export could not be made; the server's log says why."));
            }
            let progress = Progress::new("downloaded", Unit::Bytes, context.output.json);
            let fetched = client.download(&format!("{path}/content"), &export.to, progress).await;
            // Whether it arrived or not, it need not lie there until tomorrow.
            let removed = client.call(Method::DELETE, &path, None).await;
            let sha256 = fetched?.sha256;
            removed?;
            if made["sha256"] != sha256.as_str() {
                let _ = fs::remove_file(&export.to);
                return Err(Failure::new("download_damaged", "What arrived is not what was exported. Try again."));
            }
            made["file"] = export.to.display().to_string().into();
            context.output.answer(&made, || {
                format!(
                    "Exported {} to {} ({} bytes, secrets {}).\n\
                     SHA-256 {sha256}\n\
                     Check it anywhere with: bulkhead org verify-export {}\n",
                    clean(&export.org.org),
                    export.to.display(),
                    cell(&made, "size"),
                    cell(&made, "secrets"),
                    export.to.display(),
                )
            })?;
            Ok(Verdict::Good)
        })
        .await
}

async fn say_export(context: &Context, client: &Client, export: &ExportOrg, body: &Value) -> Outcome {
    let found = client.get(&organization(&export.org.org, "")).await?;
    let plan = json!({
        "dry_run": true, "organization_id": found["id"], "slug": found["slug"], "name": found["name"],
        "secrets": if body["secrets"] == "omit" { "omitted".into() } else { body["secrets"].clone() }, "file": export.to.display().to_string(),
    });
    context.output.answer(&plan, || {
        format!(
            "Would export {} ({}) to {}, secrets: {}. Nothing was done.\n",
            cell(&plan, "name"),
            cell(&plan, "organization_id"),
            export.to.display(),
            cell(&plan, "secrets"),
        )
    })?;
    Ok(Verdict::Good)
}

/// Needs nothing but the archive: no server, no data directory, no network.
pub(super) fn verify(context: &Context, verify: &VerifyExport) -> Outcome {
    let trusted = verify.public_key.as_deref().map(read_key).transpose()?;
    // A name that was mistyped says nothing about an export.
    let looked_at = fs::File::open(&verify.file).and_then(|file| file.metadata());
    if !looked_at.map_err(|error| unreadable(&verify.file, &error))?.is_file() {
        return Err(unreadable(&verify.file, &io::Error::other("it is no file")));
    }
    let folder = Scratch::new()?;
    let checked = import::check(&verify.file, &folder.0, &import::Bounds::GENEROUS, trusted.as_ref())
        .map_err(|error| Failure::of_server(&error).advise("Do not rely on this file; ask for another export."))?;
    let manifest = &checked.manifest;
    let found = json!({
        "object": "export_verification", "intact": true, "key_was_given": trusted.is_some(),
        "organization": &manifest.organization, "created_at": manifest.created_at,
        "product_version": &manifest.product_version, "schema_version": manifest.schema_version,
        "counts": &manifest.counts, "audit": &manifest.audit, "secrets": manifest.secrets,
        "signed_by": checked.signed_by, "manifest_sha256": checked.manifest_sha256,
    });
    context.output.answer(&found, || {
        let whose = if trusted.is_some() {
            "It was signed with the key that you gave.".to_owned()
        } else {
            "The key is the one in the archive: nothing was changed since it was signed, and by whom it was signed is \
             not shown.\nGive --public-key with what the organization's sign-in address has at /oauth2/jwks."
                .to_owned()
        };
        format!(
            "This is the whole export of {} ({}) of {}.\n\
             Every part has its digest, the counts are right, and the audit log is whole: {} events.\n\
             Signed by {}. {whose}\n",
            clean(&manifest.organization.name),
            manifest.organization.id,
            manifest.created_at,
            manifest.audit.sequence,
            clean(&checked.signed_by),
        )
    })?;
    Ok(Verdict::Good)
}

pub(super) async fn import(context: &Context, import: ImportOrg) -> Outcome {
    let key = match (&import.identity, import.passphrase_stdin) {
        (Some(file), _) => Some(read_identity(file)?),
        (None, true) => Some(password::from_stdin()?),
        (None, false) => None,
    };
    let mut path = format!("/v1/imports?new_id={}&dry_run={}", import.new_id, import.dry_run);
    if let Some(slug) = &import.slug {
        path = format!("{path}&slug={}", segment(slug));
    }
    if import.encrypted {
        path.push_str("&encryption=file");
    }
    // What changes nothing does not make a deployment either.
    let intent = if import.dry_run { Intent::Use } else { Intent::Create };
    context
        .with_client(intent, async |client| {
            let progress = Progress::new("sent", Unit::Bytes, context.output.json);
            let done = client.upload(&path, &import.file, key.as_ref(), progress).await?;
            context.output.answer(&done, || told(&done))?;
            Ok(Verdict::Good)
        })
        .await
}

fn told(done: &Value) -> String {
    let (id, slug) = (cell(done, "organization_id"), cell(done, "slug"));
    let what = if done["dry_run"] == true {
        format!("The archive is good. Would import {} as {slug} ({id}). Nothing was done.\n", cell(done, "from.name"))
    } else {
        format!("Imported {} as {slug} ({id}).\n", cell(done, "from.name"))
    };
    let count = |name: &str| cell(done, &format!("imported.{name}"));
    let mut text = format!(
        "{what}{} members, {} passwords, {} signing keys, {} API keys, {} audit events.\n",
        count("members"),
        count("passwords"),
        count("signing_keys"),
        count("api_keys"),
        count("audit_events"),
    );
    for left_out in done["left_out"].as_array().into_iter().flatten() {
        text.push_str("Left out: ");
        text.push_str(&clean(left_out.as_str().unwrap_or_default()));
        text.push('\n');
    }
    text
}

/// The hidden subcommand: what checks an upload.
pub(super) fn check_import() -> Outcome {
    import::run_check(io::stdin().lock(), io::stdout().lock()).map_err(|error| Failure::of_server(&error))?;
    Ok(Verdict::Good)
}

pub(super) fn read_key(file: &Path) -> Result<Value, Failure> {
    let text = fs::read(file).map_err(|error| unreadable(file, &error))?;
    serde_json::from_slice(&text)
        .map_err(|_| Failure::new("unusable_key", format!("{} is no JWK and no set of them.", file.display())))
}

fn read_identity(file: &Path) -> Result<Secret, Failure> {
    let mut text = String::new();
    let opened = fs::File::open(file).and_then(|file| file.take(LONGEST_IDENTITY).read_to_string(&mut text));
    opened.map_err(|error| unreadable(file, &error))?;
    Ok(Secret::new(text))
}

pub(super) fn unreadable(file: &Path, error: &io::Error) -> Failure {
    Failure::new("unreadable_file", format!("{} cannot be read: {error}.", file.display()))
}

/// A private folder that is gone when the command ends.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn new() -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("bulkhead-verify-{}", hex::encode(crate::crypto::random::bytes::<8>()));
        let folder = std::env::temp_dir().join(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| Failure::new("no_scratch", format!("{} cannot be made: {error}.", folder.display())))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            note(&format!("warning: {} could not be removed: {error}\n", self.0.display()));
        }
    }
}

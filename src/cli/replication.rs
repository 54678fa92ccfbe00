//! `org replication` and `backup adopt`: what an acknowledgement is worth, and whose the store is.

use reqwest::Method;
use serde_json::json;

use super::args::ReplicationMode;
use super::client::{Intent, organization};
use super::failure::Failure;
use super::output::clean;
use super::{Context, Outcome, Verdict};
use crate::app::{App, copies};
use crate::backup;
use crate::base::{Clock, Error};
use crate::replica::Owner;

pub(super) async fn run(context: &Context, org: &str, mode: ReplicationMode) -> Outcome {
    let (wanted, text) = match mode {
        ReplicationMode::Local => (json!("local"), "once this machine's disk has it"),
        ReplicationMode::Object => (json!("object"), "once the store of the backup has it as well"),
        ReplicationMode::Default => (json!(null), "as backup.replication says"),
    };
    context
        .with_client(Intent::Use, async |client| {
            let body = json!({ "replication": wanted });
            let answer = client.call(Method::PATCH, &organization(org, ""), Some(body)).await?;
            context.output.answer(&answer, || format!("A write of {} is acknowledged {text}.\n", clean(org)))?;
            Ok(Verdict::Good)
        })
        .await
}

/// Whose the store was, and is.
struct Adopted {
    before: Option<Owner>,
    /// Nothing where nothing was changed.
    after: Option<Owner>,
    was_ours: bool,
}

/// Without a server and without the API: both refuse to work with a store that is somebody else's.
pub(super) async fn adopt(context: &Context, dry_run: bool) -> Outcome {
    context.refuse_url("backup adopt", "the store and the data directory of this configuration")?;
    let config = super::config::load(&context.options)?;
    if config.backup.url.is_empty() {
        return Err(Failure::new(
            "backup_not_configured",
            "No backup is configured: set backup.url, or BULKHEAD_BACKUP_URL.",
        ));
    }
    let data_dir = &config.server.data_dir;
    let of_server = |error: Error| super::serve::not_ours(data_dir, &error);
    let store = copies::store(&config.backup).map_err(|error| Failure::of_server(&error))?;
    let (url, name) = (&config.backup.url, config.server.origin());
    let before = store.owner().await.map_err(|error| Failure::of_server(&backup::told(error)))?;
    let is_ours = backup::is_ours(data_dir, url, before.as_ref()).map_err(of_server)?;
    let found = if dry_run || is_ours {
        Adopted { after: None, was_ours: is_ours, before }
    } else {
        context.confirm(
            &format!(
                "{} becomes the store of this deployment alone. Whoever has it now ships nothing there any more; \
                 --dry-run says who that is.",
                clean(url)
            ),
            "adopt",
        )?;
        let _alone = App::alone_in(data_dir).map_err(of_server)?;
        let taken = backup::adopt(&store, data_dir, url, &name, Clock::system().now()).await.map_err(of_server)?;
        Adopted { before: taken.before, after: Some(taken.after), was_ours: taken.was_ours }
    };
    let shown =
        |owner: &Owner| json!({ "deployment": owner.deployment, "since": owner.since, "epoch": owner.right.epoch });
    let answer = json!({
        "object": "backup_adoption",
        "dry_run": dry_run,
        "url": config.backup.url,
        "already_ours": found.was_ours,
        "before": found.before.as_ref().map(shown),
        "after": found.after.as_ref().map(shown),
    });
    context.output.answer(&answer, || {
        let url = clean(&config.backup.url);
        let had = found.before.as_ref().map_or_else(|| "nobody".to_owned(), |owner| clean(&owner.described()));
        if found.was_ours {
            return format!("{url} is this deployment's already: {had}. Nothing was changed.\n");
        }
        match dry_run {
            true => format!("{url} belongs to {had}. Nothing was changed.\n"),
            false => format!(
                "{url} belonged to {had}; now it is this deployment's. Whoever had it ships nothing there any more.\n\
                 Everything is shipped once more after the next start.\n"
            ),
        }
    })?;
    Ok(Verdict::Good)
}

//! `litestream config`: what a stock litestream needs to know to look after the files of this deployment.
//!
//! It prints and does nothing else. The layout is that of our own backup, so `org history`, `org diff`, `org restore`
//! and `backup fetch` read what litestream has shipped, and either can go on where the other stopped.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::args::LitestreamCommand;
use super::failure::Failure;
use super::{Context, Outcome, Verdict};
use crate::backup::Source;
use crate::config::{Backup, BackupMode, Config};
use crate::replica::Location;

/// A directory of the file tree in which organizations are: `orgs/<2 hex>/<2 hex>/<uuid>/db.sqlite`.
const ORGANIZATIONS: &str = "orgs";

pub(super) fn run(context: &Context, command: LitestreamCommand) -> Outcome {
    let LitestreamCommand::Config { replica } = command;
    let config = super::config::load(&context.options)?;
    context.refuse_url("litestream config", "the configuration of this machine")?;
    let url = replica.unwrap_or_else(|| config.backup.url.clone());
    if url.is_empty() {
        return Err(Failure::new("backup_not_configured", "There is nowhere to replicate to.")
            .advise("Set backup.url, or name a place with --replica, such as s3://bucket/prefix."));
    }
    // The server reads what is shipped there, so it must be a place that it knows.
    if let Err(error) = url.parse::<Location>() {
        return Err(Failure::usage(format!("--replica: {error}")));
    }
    let text = yaml(&config, url.trim_end_matches('/')).map_err(|error| {
        Failure::new("unusable_path", format!("The data directory cannot be named as a whole: {error}."))
    })?;
    let document = json!({ "object": "litestream_config", "replica": url, "yaml": text });
    context.output.answer(&document, || text.clone())?;
    if config.backup.mode != BackupMode::Litestream && !context.output.json {
        super::output::note(
            "warning: backup.mode is not \"litestream\": a server that ships by itself and a litestream on the same files \
             spoil each other's work\n",
        );
    }
    Ok(Verdict::Good)
}

fn yaml(config: &Config, url: &str) -> std::io::Result<String> {
    let backup = &config.backup;
    let data_dir = std::path::absolute(&config.server.data_dir)?;
    let hours = |hours: u64| format!("{hours}h");
    let mut text = format!(
        "# Made by `bulkhead litestream config`. Run it as the user of the server:\n\
         #   litestream replicate -config litestream.yml\n\
         # and set backup.mode = \"litestream\" and backup.url = {} for the server, which then never folds a\n\
         # write-ahead log. One litestream only, and no server without that mode, may look after these files.\n\
         snapshot:\n  interval: {}\n  retention: {}\ndbs:\n",
        quoted(url),
        hours(backup.snapshot_hours),
        hours(backup.retention_hours),
    );
    for source in [Source::Catalog, Source::Keyring] {
        let _ = writeln!(text, "  - path: {}", path(&data_dir.join(source.path())));
        if source == Source::Keyring {
            // It holds the wrapped keys: as long as it is kept, an erased organization's key is in it.
            let kept = backup.keyring_retention_hours;
            let interval = hours(kept.min(backup.snapshot_hours));
            let _ = writeln!(text, "    snapshot:\n      interval: {interval}\n      retention: {}", hours(kept));
        }
        replica(&mut text, backup, &format!("{url}/{}", source.path()));
    }
    let volumes = config.files.volumes.0.values().map(|volume| volume.join(ORGANIZATIONS));
    for directory in std::iter::once(data_dir.join(ORGANIZATIONS)).chain(volumes) {
        let _ = writeln!(
            text,
            "  - dir: {}\n    pattern: db.sqlite\n    recursive: true\n    watch: true",
            path(&directory)
        );
        replica(&mut text, backup, &format!("{url}/{ORGANIZATIONS}"));
    }
    Ok(text)
}

fn replica(text: &mut String, backup: &Backup, url: &str) {
    let _ = writeln!(
        text,
        "    replica:\n      url: {}\n      sync-interval: {}ms",
        quoted(url),
        backup.delay_milliseconds
    );
    if !url.starts_with("s3://") {
        return;
    }
    for (key, value) in [("endpoint", &backup.endpoint), ("region", &backup.region)] {
        if !value.is_empty() {
            let _ = writeln!(text, "      {key}: {}", quoted(value));
        }
    }
    if backup.force_path_style {
        let _ = writeln!(text, "      force-path-style: true");
    }
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// A text of JSON is one of YAML as well (yaml.org/spec/1.2.2, section 1.3).
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

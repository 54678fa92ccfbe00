//! `backup fetch`: databases straight from the store, for the day on which there is no server and no directory any more.
//!
//! A file appears whole or not at all and is never replaced. A whole deployment takes long: what is interrupted says so
//! in its directory, and the same command goes on there.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::args::{Fetch, Moment};
use super::output::{rows, table};
use super::progress::{Progress, Unit};
use super::{Context, Failure, Outcome, Verdict};
use crate::app::{UNFINISHED, copies};
use crate::backup::{self, Source};
use crate::base::{Clock, Error, OrganizationId, codes};
use crate::replica::{self, Target};
use crate::sqlite::{Aside, CatalogDb, KeyringDb, is_of_disk, place_file, remove_wal, salt_in};
use crate::tenants::whose;

/// Straight from the store: for the day on which there is no server and no directory any more.
pub(super) async fn fetch(context: &Context, fetch: Fetch) -> Outcome {
    let config = super::config::load(&context.options)?;
    if config.backup.url.is_empty() {
        return Err(Failure::new(
            "backup_not_configured",
            "No backup is configured: set backup.url, or BULKHEAD_BACKUP_URL.",
        ));
    }
    let store = copies::store(&config.backup).map_err(|error| Failure::of_server(&error))?;
    let target = target(&fetch.moment)?;
    let wanted = wanted(&fetch)?;
    let unfinished = if fetch.whole && !fetch.dry_run { Some(begin(&fetch, &config.backup.url)?) } else { None };
    let mut done = Vec::new();
    for source in wanted {
        let out = if fetch.whole { fetch.to.join(source.path()) } else { fetch.to.clone() };
        done.push(one(&store, source, target, &out, &fetch).await?);
    }
    if let Some(unfinished) = unfinished {
        let progress = Progress::new("fetched", Unit::Organizations, context.output.json);
        done.extend(organizations(&store, target, &fetch, progress).await?);
        fs::remove_file(&unfinished).map_err(|error| unwritable(&unfinished, &error))?;
    }
    let answer = json!({ "object": "fetched", "dry_run": fetch.dry_run, "data": done });
    context.output.answer(&answer, || summary(&fetch, &answer))?;
    Ok(Verdict::Good)
}

/// For people, who read no line for each of many organizations.
fn summary(fetch: &Fetch, answer: &Value) -> String {
    let verb = if fetch.dry_run { "Would fetch" } else { "Fetched" };
    let mut lines = rows(answer, &["source", "txid", "as_of", "path"]);
    let organizations = if fetch.whole { lines.split_off(lines.len().min(2)) } else { Vec::new() };
    let mut text = format!("{verb}:\n{}", table(&["WHAT", "TRANSACTION", "AS OF", "TO"], &lines, "Nothing."));
    if fetch.whole && fetch.dry_run {
        text.push_str("And every organization that this catalog names.\n");
    } else if fetch.whole {
        let found = answer["data"].as_array().into_iter().flatten().skip(2);
        let before = found.filter(|one| one["txid"].is_null()).count();
        let _ = write!(text, "And {} organizations, below {}", organizations.len(), fetch.to.join("orgs").display());
        // Of the try before.
        let _ = if before > 0 { writeln!(text, "; {before} were there already.") } else { writeln!(text, ".") };
    }
    text
}

/// Makes the directory, or finds it as the same command has left it when it was interrupted. What says that it is not
/// finished is there before anything else, and a server does not start on it.
fn begin(fetch: &Fetch, url: &str) -> Result<PathBuf, Failure> {
    let to = &fetch.to;
    let mark = to.join(UNFINISHED);
    let what = json!({ "store": url, "at": fetch.moment.at, "txid": fetch.moment.txid });
    if let Ok(text) = fs::read(&mark) {
        if serde_json::from_slice::<Value>(&text).ok().as_ref() == Some(&what) {
            return Ok(mark);
        }
        let detail = format!("{} has what another fetch has left when it was interrupted.", to.display());
        return Err(Failure::new("target_exists", detail).advise("Run that one again, or name another directory."));
    }
    // A master key, or the right to the store, may lie there already.
    let databases = [Source::Keyring.path(), Source::Catalog.path(), "orgs".to_owned()];
    if let Some(there) = databases.iter().map(|name| to.join(name)).find(|path| path.symlink_metadata().is_ok()) {
        let detail = format!("{} is there already; a fetch never overwrites anything.", there.display());
        return Err(Failure::new("target_exists", detail).advise("Name another directory with --to."));
    }
    private(to).map_err(|error| unwritable(to, &error))?;
    place_file(&mark, what.to_string().as_bytes()).map_err(|error| Failure::of_server(&error))?;
    Ok(mark)
}

/// A directory that is nobody else's business.
fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).recursive(true).create(path)
}

/// Every organization that the catalog of that time names.
async fn organizations(
    store: &replica::Store,
    target: Target,
    fetch: &Fetch,
    mut progress: Progress,
) -> Result<Vec<Value>, Failure> {
    let catalog = fetch.to.join(Source::Catalog.path());
    let ids = crate::catalog::ids_in(&catalog).map_err(|error| Failure::of_server(&error))?;
    let (mut done, total) = (Vec::new(), ids.len() as u64);
    for (count, id) in ids.iter().enumerate() {
        progress.at(count as u64, total);
        // A folder is read without ever waiting, and Ctrl-C is heard where something waits.
        tokio::task::yield_now().await;
        let source = Source::Organization(*id);
        done.push(one(store, source, target, &fetch.to.join(source.path()), fetch).await?);
    }
    progress.at(total, total);
    Ok(done)
}

async fn one(
    store: &replica::Store,
    source: Source,
    target: Target,
    out: &Path,
    fetch: &Fetch,
) -> Result<Value, Failure> {
    let what = source.to_string();
    let told = |error: replica::Error| {
        let mut failure = Failure::of_server(&backup::told(error));
        let detail = failure.problem["detail"].as_str().unwrap_or_default();
        failure.problem["detail"] = format!("{what}: {detail}").into();
        failure
    };
    let replica = store.replica(&source.path()).map_err(told)?.seen_at(Clock::system().now().to_utc());
    if fetch.dry_run {
        let mut items = replica.list_all().await.map_err(told)?;
        if let Target::Time(time) = target {
            items = replica.date_for(items, time).await.map_err(told)?;
        }
        let plan = replica::plan(&items, target).map_err(|error| told(error.into()))?;
        let last = plan.last().map(|item| item.name.max.to_string());
        return Ok(json!({ "source": what, "txid": last, "as_of": null, "path": out.display().to_string() }));
    }
    // Of the try before: what has its name is whole.
    if fetch.whole && out.exists() {
        return Ok(json!({ "source": what, "txid": null, "as_of": null, "path": out.display().to_string() }));
    }
    // Of many, one that cannot be used must not keep the others from being had back: its own is refused when it is
    // opened.
    let check = |file: &Path| if fetch.whole { Ok(()) } else { require_kind(source, file) };
    let restored = replica::restore_checked(&replica, target, out, check).await.map_err(told)?;
    Ok(json!({
        "source": what,
        "txid": restored.txid.to_string(),
        "as_of": restored.timestamp.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        "path": out.display().to_string(),
    }))
}

/// Refuses what is another database than it should be. Ciphertext is given as it is: only its key could tell.
fn require_kind(source: Source, file: &Path) -> replica::Result<()> {
    let is_plain = salt_in(file).map_err(|error| unread(file, error))?.is_none();
    let wrong = if is_plain { wrong_kind(source, file) } else { Ok(None) };
    // What SQLite makes beside a file that it reads.
    let _ = remove_wal(file);
    match wrong.map_err(|error| unread(file, error))? {
        Some(why) => Err(replica::Error::Damaged { object: format!("the copy of {source}"), source: why.into() }),
        None => Ok(()),
    }
}

/// Why it is another database, if it is. Fails where the disk is the reason that this cannot be told.
fn wrong_kind(source: Source, file: &Path) -> Result<Option<String>, Error> {
    let now = Clock::system().now();
    let found = match source {
        Source::Catalog => Aside::<CatalogDb>::open(file, now).and_then(|aside| aside.version()).map(|_| None),
        Source::Keyring => Aside::<KeyringDb>::open(file, now).and_then(|aside| aside.version()).map(|_| None),
        Source::Organization(id) => whose(file, now).map(|found| match found {
            Some(found) if found == id => None,
            Some(other) => Some(format!("it belongs to {other}")),
            None => Some("it belongs to no organization".to_owned()),
        }),
    };
    match found {
        Err(error) if is_of_disk(&error) => Err(error),
        Err(error) => Ok(Some(error.cause().unwrap_or_else(|| error.to_string()))),
        Ok(wrong) => Ok(wrong),
    }
}

/// What the store gave could not be read here: the store is fine.
fn unread(file: &Path, error: Error) -> replica::Error {
    let kind = if error.is(&codes::STORAGE_FULL) { ErrorKind::StorageFull } else { ErrorKind::Other };
    replica::Error::Local { path: file.to_owned(), source: std::io::Error::new(kind, error) }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new("unwritable_file", format!("{} cannot be written: {error}.", path.display()))
}

fn wanted(fetch: &Fetch) -> Result<Vec<Source>, Failure> {
    if fetch.whole {
        return Ok(vec![Source::Keyring, Source::Catalog]);
    }
    match fetch.what.as_deref() {
        Some("catalog") => Ok(vec![Source::Catalog]),
        Some("keyring") => Ok(vec![Source::Keyring]),
        Some(id) => {
            let id: OrganizationId = id.parse().map_err(|_| {
                Failure::usage("name what to fetch: an organization's id (org_…), catalog, keyring, or --whole")
            })?;
            Ok(vec![Source::Organization(id)])
        }
        None => Err(Failure::usage("name what to fetch: an organization's id (org_…), catalog, keyring, or --whole")),
    }
}

fn target(moment: &Moment) -> Result<Target, Failure> {
    if let Some(at) = &moment.at {
        let time = chrono::DateTime::parse_from_rfc3339(at)
            .map_err(|_| Failure::usage("--at takes a time such as 2026-11-22T09:30:00Z"))?;
        return Ok(Target::Time(time.to_utc()));
    }
    match &moment.txid {
        Some(txid) => txid.parse().map(Target::Txid).map_err(|_| Failure::usage("--txid takes 16 hexadecimal digits")),
        None => Ok(Target::Latest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_here_is_not_held_against_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let failed = require_kind(Source::Catalog, &directory.path().join("gone.sqlite")).unwrap_err();
        let failed = backup::told(failed);
        assert!(failed.is(&codes::STORAGE_FAILED), "{failed:?}");
        let full = backup::told(unread(directory.path(), Error::new(&codes::STORAGE_FULL)));
        assert!(full.is(&codes::STORAGE_FULL), "{full:?}");
    }

    /// SQLite reads such a file only with what it makes beside it.
    #[test]
    fn a_copy_that_cannot_be_opened_here_is_told_from_one_of_no_use() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("catalog.sqlite");
        let id: OrganizationId = "org_01m81bsqcbfpbrwkepcd47zc6z".parse().unwrap();
        let sources = [Source::Catalog, Source::Keyring, Source::Organization(id)];
        let bytes = crate::sqlite::bytes_of_new::<CatalogDb>(directory.path(), &["SELECT 1"]).unwrap();
        fs::write(&file, &bytes).unwrap();
        fs::create_dir(directory.path().join("catalog.sqlite-wal")).unwrap();
        for source in sources {
            let failed = backup::told(require_kind(source, &file).unwrap_err());
            assert!(failed.is(&codes::STORAGE_FAILED), "{source}: {failed:?}");
        }
        fs::remove_dir(directory.path().join("catalog.sqlite-wal")).unwrap();
        require_kind(Source::Catalog, &file).unwrap();
        for source in &sources[1..] {
            let failed = backup::told(require_kind(*source, &file).unwrap_err());
            assert!(failed.is(&codes::BACKUP_DAMAGED), "{source}: {failed:?}");
        }
        fs::write(&file, [&bytes[..100], &[0xff; 8092][..]].concat()).unwrap();
        let failed = backup::told(require_kind(Source::Catalog, &file).unwrap_err());
        assert!(failed.is(&codes::BACKUP_DAMAGED), "{failed:?}");
    }
}

//! What an erasure leaves of copies: nothing, and nothing of the key in the keyring's either.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead::base::time::length;
use serde_json::json;

use crate::erasure::{bytes_of, certified, erase_now, erased, holds, wrapped_key};
use crate::organizations::file_of;
use crate::process::patience;
use crate::world::World;

/// Every file below a directory.
pub fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replica_goes_and_that_of_the_keyring_forgets_the_key() {
    let replica = tempfile::tempdir().unwrap();
    let url = format!("file://{}", replica.path().display());
    let settings = [("BULKHEAD_BACKUP_URL", url.as_str()), ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "20")];
    let mut world = World::with(&settings).await;
    let id = world.organization("acme").await;
    world.organization("beside").await;
    let own = replica.path().join(file_of(&world, &id).strip_prefix(world.data_dir()).unwrap());
    let of_keyring = replica.path().join("keyring.sqlite");
    let key = world.while_stopped(|data| wrapped_key(data, &id).unwrap()).await;
    let keeps_it = || files_below(&of_keyring).iter().any(|file| holds(&fs::read(file).unwrap_or_default(), &key));
    let deadline = patience();
    while files_below(&own).is_empty() || !keeps_it() {
        assert!(Instant::now() < deadline, "nothing was shipped");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let erasure = erase_now(&world, "acme").await;
    let says = certified(&world, &erasure).await;
    assert!(says["destroyed"]["replica"]["objects"].as_u64().unwrap() > 0, "{says}");
    assert!(says["destroyed"]["replica"]["bytes"].as_u64().unwrap() > 1000, "{says}");
    assert!(!keeps_it(), "the wrapped key is in the keyring's replica");
    assert!(!files_below(&of_keyring).is_empty(), "the keyring has no replica any more");
    // Nothing comes back after it.
    world.member("beside", "new@beside.test").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(files_below(&own), Vec::<std::path::PathBuf>::new());
    assert!(!holds(&bytes_of(&world.data_dir().join("keyring.sqlite")), &key));
}

/// The keyring holds the keys of all organizations: its replica is replaced once for all that go, and has none of theirs.
#[tokio::test(flavor = "multi_thread")]
async fn those_that_are_erased_together_leave_the_keyrings_replica_together() {
    use rustix::fs::inotify;
    let replica = tempfile::tempdir().unwrap();
    let url = format!("file://{}", replica.path().display());
    let settings = [("BULKHEAD_BACKUP_URL", url.as_str()), ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "20")];
    let mut world = World::with(&settings).await;
    let mut ids = Vec::new();
    for slug in ["one", "two", "three"] {
        ids.push(world.organization(slug).await);
        world.operator().put(&format!("/v1/organizations/{slug}/erasure"), &json!({"after_days": 1})).await.expect(202);
    }
    let of_keyring = replica.path().join("keyring.sqlite");
    let deadline = patience();
    while files_below(&of_keyring).is_empty() {
        assert!(Instant::now() < deadline, "nothing was shipped");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.clock.advance(length::days(2));
    // The next start finds them all due in the same moment.
    let seen = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
    let keys: Vec<Vec<u8>> = world
        .while_stopped(|data| {
            inotify::add_watch(&seen, replica.path(), inotify::WatchFlags::DELETE).unwrap();
            ids.iter().map(|id| wrapped_key(data, id).unwrap()).collect()
        })
        .await;
    for id in &ids {
        let erasure = erased(&world, id).await;
        certified(&world, &erasure).await;
    }
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&seen, &mut buffer);
    let mut replaced = 0;
    while let Ok(event) = events.next() {
        replaced += usize::from(event.file_name().is_some_and(|name| name.to_bytes() == b"keyring.sqlite"));
    }
    assert_eq!(replaced, 1);
    let left = files_below(&of_keyring);
    assert!(!left.is_empty(), "the keyring has no replica any more");
    for key in &keys {
        assert!(!left.iter().any(|file| holds(&fs::read(file).unwrap_or_default(), key)), "a destroyed key is there");
    }
}

//! A sweep of migrations is cut off by a power cut: whatever the disk has kept of it by then, the file is that of one
//! schema or the next, and whole. A shim writes down what the program asks of the disk; each moment of that is played
//! again without what was never synced.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use bulkhead::crypto::hash;
use rusqlite::Connection;
use serde_json::json;

use crate::backup_faults::shim;
use crate::fleet_migrate::{file, migrate, newer};
use crate::world::World;

/// Writes down what is done to organizations' files and their WALs, from the moment on at which the list is there.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

struct record { uint32_t what, path; uint64_t offset, count; };

static int is_ours(const char *path) {
    const char *name = strstr(path, "/orgs/");
    if (!name || strstr(path, "/.building/")) return 0;
    name = strrchr(path, '/');
    return !strcmp(name, "/db.sqlite") || !strcmp(name, "/db.sqlite-wal");
}

static void note(uint32_t what, const char *path, uint64_t offset, const void *bytes, uint64_t count) {
    const char *list = getenv("POWER_CUT_LIST");
    int out = list ? open(list, O_WRONLY | O_APPEND) : -1;
    if (out < 0) return;
    struct record record = { what, (uint32_t)strlen(path), offset, count };
    struct iovec parts[3] = {
        { &record, sizeof record }, { (void *)path, record.path }, { (void *)bytes, bytes ? count : 0 },
    };
    if (writev(out, parts, 3) < 0) abort();
    close(out);
}

static void note_fd(uint32_t what, int fd, uint64_t offset, const void *bytes, uint64_t count) {
    char path[4096], link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return;
    path[length] = 0;
    if (is_ours(path)) note(what, path, offset, bytes, count);
}

#define NEXT(type, name, ...) \
    static type (*next)(__VA_ARGS__); \
    if (!next) next = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    NEXT(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    ssize_t done = next(fd, bytes, count, offset);
    if (done > 0) note_fd(1, fd, offset, bytes, done);
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    NEXT(ssize_t, "pwrite", int, const void *, size_t, off_t);
    ssize_t done = next(fd, bytes, count, offset);
    if (done > 0) note_fd(1, fd, offset, bytes, done);
    return done;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    NEXT(ssize_t, "write", int, const void *, size_t);
    ssize_t done = next(fd, bytes, count);
    off_t end = done > 0 ? lseek(fd, 0, SEEK_CUR) : -1;
    if (end >= done) note_fd(1, fd, end - done, bytes, done);
    return done;
}

int ftruncate64(int fd, off64_t size) {
    NEXT(int, "ftruncate64", int, off64_t);
    int done = next(fd, size);
    if (done == 0) note_fd(2, fd, size, NULL, 0);
    return done;
}

int ftruncate(int fd, off_t size) {
    NEXT(int, "ftruncate", int, off_t);
    int done = next(fd, size);
    if (done == 0) note_fd(2, fd, size, NULL, 0);
    return done;
}

int fdatasync(int fd) {
    NEXT(int, "fdatasync", int);
    int done = next(fd);
    if (done == 0) note_fd(3, fd, 0, NULL, 0);
    return done;
}

int fsync(int fd) {
    NEXT(int, "fsync", int);
    int done = next(fd);
    if (done == 0) note_fd(3, fd, 0, NULL, 0);
    return done;
}

int unlink(const char *path) {
    NEXT(int, "unlink", const char *);
    int done = next(path);
    if (done == 0 && is_ours(path)) note(4, path, 0, NULL, 0);
    return done;
}
"#;

const LIST: &str = "POWER_CUT_LIST";

/// One thing that was asked of the disk.
struct Step {
    what: u32,
    /// The directory of the organization.
    organization: String,
    is_wal: bool,
    offset: usize,
    bytes: Vec<u8>,
}

fn steps(list: &[u8]) -> Vec<Step> {
    let mut rest = list;
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count)?;
        rest = left;
        Some(taken.to_vec())
    };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let mut steps = Vec::new();
    while let Some(head) = take(24) {
        let what = u32::try_from(number(&head[..4])).unwrap();
        let [path, offset, count] =
            [&head[4..8], &head[8..16], &head[16..]].map(|part| usize::try_from(number(part)).unwrap());
        let path = String::from_utf8(take(path).unwrap()).unwrap();
        let bytes = take(if what == 1 { count } else { 0 }).unwrap();
        let organization = Path::new(&path).parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        steps.push(Step { what, organization, is_wal: path.ends_with("-wal"), offset, bytes });
    }
    steps
}

/// A file as the program sees it, and as the disk is sure to have it.
#[derive(Clone, Default)]
struct Kept {
    now: Option<Vec<u8>>,
    synced: Option<Vec<u8>>,
}

impl Kept {
    fn take(&mut self, step: &Step) {
        match step.what {
            1 => {
                let now = self.now.get_or_insert_default();
                let end = step.offset + step.bytes.len();
                now.resize(now.len().max(end), 0);
                now[step.offset..end].copy_from_slice(&step.bytes);
            }
            2 => self.now.get_or_insert_default().resize(step.offset, 0),
            3 => self.synced.clone_from(&self.now),
            // The directory may have kept it, or not.
            _ => self.now = None,
        }
    }
}

/// The schema that a file has after a power cut, which must be whole.
fn schema_after(file: Option<&[u8]>, wal: Option<&[u8]>, today: i64, what: &str) -> i64 {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("db.sqlite");
    fs::write(&at, file.unwrap()).unwrap();
    if let Some(wal) = wal {
        fs::write(directory.path().join("db.sqlite-wal"), wal).unwrap();
    }
    let db = Connection::open(&at).unwrap();
    let one = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
    let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok", "{what}");
    assert_eq!(one("SELECT count(*) FROM organization").unwrap(), 1, "{what}");
    let version = one("PRAGMA user_version").unwrap();
    let found = (one("SELECT count(*) FROM shelf").ok(), one("SELECT count(more) FROM shelf").ok());
    let expected = [(None, None), (Some(1), None), (Some(0), Some(0))];
    let step = usize::try_from(version - today).unwrap_or_else(|_| panic!("{what}: version {version}"));
    assert_eq!(Some(&found), expected.get(step), "{what}: version {version}");
    version
}

/// In the process that the shim is loaded into.
async fn sweep(list: &Path) {
    let mut world = World::new().await;
    let ids = [world.organization("acme").await, world.organization("globex").await];
    world.set_schema(newer());
    let files = ids.map(|id| file(&world, &id));
    world
        .while_stopped(|_| {
            for file in &files {
                let organization = file.parent().unwrap().file_name().unwrap();
                assert!(!file.with_extension("sqlite-wal").exists(), "the WAL was not folded");
                fs::copy(file, list.with_file_name(organization)).unwrap();
            }
            fs::write(list, "").unwrap();
        })
        .await;
    let done = migrate(&world, json!({})).await;
    assert_eq!((done["state"].as_str(), done["migrated"].as_i64()), (Some("done"), Some(2)), "{done}");
    // What comes after it was told that it is done is not part of it.
    fs::rename(list, list.with_extension("done")).unwrap();
}

#[test]
fn a_sweep_that_is_cut_off_leaves_files_that_are_whole() {
    if let Some(list) = std::env::var_os(LIST) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(sweep(Path::new(&list)));
    }
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("list");
    let Some(library) = shim(directory.path(), SHIM) else { return };
    let name = "power_cut::a_sweep_that_is_cut_off_leaves_files_that_are_whole";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child =
        child.args(["--exact", name, "--nocapture"]).env(LIST, &list).env("LD_PRELOAD", &library).output().unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&[child.stdout, child.stderr].concat()));

    let today = i64::try_from(bulkhead::tenants::MIGRATIONS.len()).unwrap();
    let mut files: BTreeMap<String, [Kept; 2]> = BTreeMap::new();
    let mut seen = HashSet::new();
    let (mut versions, mut is_cut_before) = (HashSet::new(), false);
    for (n, step) in steps(&fs::read(list.with_extension("done")).unwrap()).iter().enumerate() {
        let [main, wal] = files.entry(step.organization.clone()).or_insert_with(|| {
            let bytes = Some(fs::read(list.with_file_name(&step.organization)).unwrap());
            [Kept { now: bytes.clone(), synced: bytes }, Kept::default()]
        });
        (if step.is_wal { &mut *wal } else { &mut *main }).take(step);
        // The disk may have kept nothing that was not synced, all of it, or all of one file and nothing of the other.
        let [[file, log], [file_synced, log_synced]] =
            [[&main.now, &wal.now], [&main.synced, &wal.synced]].map(|both| both.map(Option::as_deref));
        for (file, log) in [(file_synced, log_synced), (file, log), (file, log_synced), (file_synced, log)] {
            let image = [file.unwrap_or_default(), log.unwrap_or_default()].concat();
            if seen.insert((file.map(<[u8]>::len), log.is_some(), hash::sha256_of(&*image).unwrap().0)) {
                let what = format!("step {n} ({} of {})", step.what, if step.is_wal { "the WAL" } else { "the file" });
                versions.insert(schema_after(file, log, today, &what));
            }
        }
        is_cut_before |= wal.now != wal.synced;
    }
    // Otherwise the shim has seen nothing of it.
    assert!(versions.contains(&today) && versions.contains(&(today + 2)) && is_cut_before, "{versions:?}");
    assert_eq!(files.len(), 2);
    // What was told to be done is done, whatever happens then.
    for (organization, [main, wal]) in &files {
        for log in [&wal.synced, &wal.now] {
            let version = schema_after(main.synced.as_deref(), log.as_deref(), today, organization);
            assert_eq!(version, today + 2, "{organization}");
        }
    }
}

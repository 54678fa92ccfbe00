//! The local mailbox: mail that a development server keeps to itself, one file a message.
//!
//! Files are named by time and number, so that their order is the order of arrival, and each is
//! written whole: a reader never meets half a message, not even after a crash.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::fs;
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

use super::mail::Message;
use crate::base::{Clock, Error, Result, Timestamp};

/// How many messages are kept; the oldest go first.
const KEPT: usize = 200;

/// A message as it lies in the mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    pub to: String,
    pub subject: String,
    pub text: String,
    pub code: Option<String>,
    pub sent_at: Timestamp,
}

/// The directory `<data_dir>/mailbox/`; cheap to clone.
#[derive(Clone)]
pub struct Mailbox(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    clock: Clock,
    /// Names are given out, and old messages taken away, by one delivery at a time.
    number: Mutex<u64>,
}

impl Mailbox {
    /// The directory is made by the first delivery.
    #[must_use]
    pub fn new(data_dir: &Path, clock: Clock) -> Self {
        Self(Arc::new(Inner { directory: data_dir.join("mailbox"), clock, number: Mutex::new(0) }))
    }

    pub(super) async fn deliver(&self, message: &Message) -> Result<()> {
        let failed =
            |error: io::Error| Error::internal("a message could not be put into the local mailbox").source(error);
        let stored = Stored {
            to: message.to.to_string(),
            subject: message.subject.clone(),
            text: message.text.clone(),
            code: message.code.clone(),
            sent_at: self.0.clock.now(),
        };
        let bytes = serde_json::to_vec_pretty(&stored).map_err(|error| failed(error.into()))?;
        let mut number = self.0.number.lock().await;
        self.make_directory().await.map_err(failed)?;
        let path = self.free_path(stored.sent_at, &mut number).await;
        write_whole(&path, &bytes).await.map_err(failed)?;
        self.forget_oldest().await.map_err(failed)
    }

    /// Newest first; what cannot be read is left out.
    pub async fn list(&self, limit: usize) -> Result<Vec<Stored>> {
        let names =
            self.names().await.map_err(|error| Error::internal("the local mailbox cannot be read").source(error))?;
        let mut messages = Vec::new();
        for name in names.iter().rev() {
            if messages.len() == limit {
                break;
            }
            if let Ok(bytes) = fs::read(self.0.directory.join(name)).await
                && let Ok(message) = serde_json::from_slice(&bytes)
            {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    async fn make_directory(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0.directory).await
    }

    /// The number alone would begin again with every start, and a clock can stand still.
    async fn free_path(&self, at: Timestamp, number: &mut u64) -> PathBuf {
        loop {
            let path = self.0.directory.join(format!("{:015}-{:06}.json", at.millis().max(0), *number));
            *number += 1;
            if !fs::try_exists(&path).await.unwrap_or(false) {
                return path;
            }
        }
    }

    async fn forget_oldest(&self) -> io::Result<()> {
        let names = self.names().await?;
        for name in &names[..names.len().saturating_sub(KEPT)] {
            match fs::remove_file(self.0.directory.join(name)).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Oldest first.
    async fn names(&self) -> io::Result<Vec<OsString>> {
        let mut entries = match fs::read_dir(&self.0.directory).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name();
            if Path::new(&name).extension().is_some_and(|extension| extension == "json") {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

async fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    // Codes are as good as passwords for their ten minutes.
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished).await?;
    file.write_all(bytes).await?;
    file.flush().await?;
    fs::rename(&unfinished, path).await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::base::Email;
    use crate::base::time::length;

    fn message(subject: String) -> Message {
        Message {
            to: Email::parse("ada@acme.test").unwrap(),
            subject,
            text: "Your code is 123456.".into(),
            code: Some("123456".into()),
        }
    }

    #[tokio::test]
    async fn messages_come_back_newest_first() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_millis(1_764_000_000_000));
        let mailbox = Mailbox::new(directory.path(), clock.clone());
        assert_eq!(mailbox.list(10).await.unwrap(), []);
        for n in 0..3 {
            mailbox.deliver(&message(format!("number {n}"))).await.unwrap();
        }
        clock.advance(length::seconds(1));
        // Another start, with the same clock and its numbers from zero.
        let mailbox = Mailbox::new(directory.path(), clock);
        mailbox.deliver(&message("number 3".into())).await.unwrap();
        let subjects: Vec<_> = mailbox.list(3).await.unwrap().into_iter().map(|message| message.subject).collect();
        assert_eq!(subjects, ["number 3", "number 2", "number 1"]);
        let newest = mailbox.list(1).await.unwrap().remove(0);
        assert_eq!((newest.to.as_str(), newest.code.as_deref()), ("ada@acme.test", Some("123456")));
        let file = std::fs::read_dir(directory.path().join("mailbox")).unwrap().next().unwrap().unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn the_oldest_are_forgotten_and_a_damaged_one_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let mailbox = Mailbox::new(directory.path(), Clock::manual(Timestamp::from_millis(1)));
        for n in 0..KEPT + 5 {
            mailbox.deliver(&message(format!("number {n}"))).await.unwrap();
        }
        assert_eq!(mailbox.list(1000).await.unwrap().len(), KEPT);
        assert_eq!(mailbox.list(1000).await.unwrap().last().unwrap().subject, "number 5");
        std::fs::write(directory.path().join("mailbox/999999999999999-000000.json"), "{").unwrap();
        std::fs::write(directory.path().join("mailbox/999999999999999-000001.new"), "{").unwrap();
        assert_eq!(mailbox.list(1).await.unwrap()[0].subject, format!("number {}", KEPT + 4));
    }

    #[tokio::test]
    async fn deliveries_at_the_same_moment_do_not_overwrite_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let mailbox = Mailbox::new(directory.path(), Clock::manual(Timestamp::from_millis(1)));
        let deliveries: Vec<_> = (0..20)
            .map(|n| {
                let mailbox = mailbox.clone();
                tokio::spawn(async move { mailbox.deliver(&message(n.to_string())).await })
            })
            .collect();
        for delivery in deliveries {
            delivery.await.unwrap().unwrap();
        }
        assert_eq!(mailbox.list(100).await.unwrap().len(), 20);
    }
}

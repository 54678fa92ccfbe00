//! F1. What leaves this process: mail, over SMTP or into a local mailbox, and requests to a key-management service.
//!
//! It is the only room that names lettre. It may touch `base`, the network and its own directory
//! `<data_dir>/mailbox/`. It knows neither the settings nor the outbox that a message waits in: a
//! delivery is tried once, and whether it is tried again is decided by who asked for it.

mod key_service;
pub mod mail;
mod mailbox;

pub use key_service::{Bearer, KeyService, Trouble};
pub use mail::{Encryption, Mailer, Message, SmtpServer};
pub use mailbox::{Mailbox, Stored};

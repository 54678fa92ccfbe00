//! Mail: what a message is, and the two ways that it can go.

use std::error::Error as StdError;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

use super::mailbox::Mailbox;
use crate::base::{Clock, Email, Error, Result, Secret, Timestamp};

/// How long one step of the conversation with the mail server may take.
const STEP: Duration = Duration::from_secs(15);
/// How long all of it may take: a server that answers each step just in time is still not working.
const WHOLE: Duration = Duration::from_mins(1);

/// A mail to one person, in plain text.
#[derive(Debug, Clone)]
pub struct Message {
    pub to: Email,
    pub subject: String,
    pub text: String,
    /// A code that stands in the text too; the page of the local mailbox shows it in large type.
    pub code: Option<String>,
}

/// How the connection to the mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Plain at first, then required to switch (RFC 3207).
    Starttls,
    /// From the first byte (RFC 8314).
    Tls,
    None,
}

/// The mail server that takes our messages.
#[derive(Debug, Clone)]
pub struct SmtpServer {
    pub host: String,
    pub port: u16,
    pub encryption: Encryption,
    pub credentials: Option<(String, Secret)>,
    /// An address, with or without a name: `Example <no-reply@example.com>`.
    pub from: String,
}

/// The way out.
pub enum Mailer {
    Smtp(Smtp),
    /// Nowhere: messages stay on this machine.
    Mailbox(Mailbox),
}

impl Mailer {
    /// Connects at the first delivery. Call it inside the Tokio runtime: idle connections are kept for
    /// reuse and closed by a task.
    pub fn smtp(server: &SmtpServer, clock: Clock) -> Result<Self> {
        Smtp::new(server, clock).map(Self::Smtp)
    }

    /// Tries once. The error's cause is for the log and holds no address of a person.
    pub async fn deliver(&self, message: &Message) -> Result<()> {
        match self {
            Self::Smtp(smtp) => smtp.deliver(message).await,
            Self::Mailbox(mailbox) => mailbox.deliver(message).await,
        }
    }

    /// The local mailbox, when that is where messages go.
    #[must_use]
    pub const fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Smtp(_) => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }
}

/// A mail server, with a few connections that are kept open.
pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: lettre::message::Mailbox,
    clock: Clock,
    sent: AtomicU64,
}

impl Smtp {
    fn new(server: &SmtpServer, clock: Clock) -> Result<Self> {
        let unusable = |what: &str, error: &dyn StdError| Error::internal(format!("{what}: {}", chain(error)));
        let from = lettre::message::Mailbox::from_str(&server.from)
            .map_err(|error| unusable("mail.from is not an address", &error))?;
        let parameters = || {
            TlsParameters::new(server.host.clone())
                .map_err(|error| unusable("the connection to the mail server cannot be protected", &error))
        };
        let tls = match server.encryption {
            Encryption::Starttls => Tls::Required(parameters()?),
            Encryption::Tls => Tls::Wrapper(parameters()?),
            Encryption::None => Tls::None,
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(server.host.clone())
            .port(server.port)
            .tls(tls)
            .timeout(Some(STEP));
        if let Some((user, password)) = &server.credentials {
            builder = builder.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
        }
        Ok(Self { transport: builder.build(), from, clock, sent: AtomicU64::new(0) })
    }

    async fn deliver(&self, message: &Message) -> Result<()> {
        let mail = self.write(message)?;
        match tokio::time::timeout(WHOLE, self.transport.send(mail)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failure("the mail server did not take a message", &message.to, &error)),
            Err(_) => Err(Error::internal("the mail server took too long")),
        }
    }

    fn write(&self, message: &Message) -> Result<lettre::Message> {
        let to = Address::from_str(message.to.as_str())
            .map_err(|error| failure("a recipient cannot be written as SMTP wants it", &message.to, &error))?;
        let now = self.clock.now();
        let millis = u64::try_from(now.millis()).unwrap_or(0);
        lettre::Message::builder()
            .from(self.from.clone())
            .to(lettre::message::Mailbox::new(None, to))
            .subject(&message.subject)
            .date(UNIX_EPOCH + Duration::from_millis(millis))
            .message_id(Some(self.message_id(now)))
            // No answers from holiday notices, please (RFC 3834 section 5).
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".into()))
            .header(ContentType::TEXT_PLAIN)
            .body(message.text.clone())
            .map_err(|error| failure("a message could not be put together", &message.to, &error))
    }

    /// Unique within this deployment, in the sender's domain: the name of this machine is nobody's business.
    fn message_id(&self, now: Timestamp) -> String {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        format!("<{}.{}.{number}@{}>", now.millis(), std::process::id(), self.from.email.domain())
    }
}

/// The recipient's address is taken out: servers like to repeat it, and logs hold no personal data.
fn failure(what: &str, to: &Email, error: &dyn StdError) -> Error {
    let cause = chain(error).replace(to.as_str(), "[recipient]").replace(to.normalized(), "[recipient]");
    Error::internal(format!("{what}: {cause}"))
}

/// An error with everything that led to it, once each.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    /// A mail server that takes one message and gives back what it was told, line by line.
    async fn sink(refusal: Option<&'static str>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            let (mut heard, mut in_data) = (Vec::new(), false);
            write.write_all(b"220 sink ESMTP\r\n").await.unwrap();
            while let Ok(Some(line)) = lines.next_line().await {
                let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
                let answer = match (in_data, line.as_str(), verb.as_str()) {
                    (true, ".", _) => {
                        in_data = false;
                        "250 taken"
                    }
                    (true, ..) => "",
                    (false, _, "EHLO") => "250-sink\r\n250-SMTPUTF8\r\n250-AUTH PLAIN\r\n250 8BITMIME",
                    (false, _, "AUTH") => "235 welcome",
                    (false, _, "RCPT") => refusal.unwrap_or("250 fine"),
                    (false, _, "DATA") => {
                        in_data = true;
                        "354 go on"
                    }
                    (false, _, "QUIT") => "221 bye",
                    _ => "250 fine",
                };
                heard.push(line);
                if !answer.is_empty() {
                    write.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
                }
                if heard.last().is_some_and(|line| line == "." || line == "QUIT") {
                    break;
                }
            }
            heard
        });
        (port, heard)
    }

    fn mailer(port: u16, credentials: Option<(String, Secret)>) -> Mailer {
        let server = SmtpServer {
            host: "127.0.0.1".into(),
            port,
            encryption: Encryption::None,
            credentials,
            from: "Acme <no-reply@acme.test>".into(),
        };
        Mailer::smtp(&server, Clock::manual(Timestamp::from_millis(1_764_000_000_000))).unwrap()
    }

    fn message(to: &str) -> Message {
        Message {
            to: Email::parse(to).unwrap(),
            subject: "Your code — 123456".into(),
            text: "Hello,\n.your code is 123456\n".into(),
            code: Some("123456".into()),
        }
    }

    #[tokio::test]
    async fn a_message_arrives_with_its_headers() {
        let (port, heard) = sink(None).await;
        let mailer = mailer(port, Some(("user".into(), Secret::new("word".into()))));
        mailer.deliver(&message("ada@acme.test")).await.unwrap();
        let heard = heard.await.unwrap();
        for line in [
            "MAIL FROM:<no-reply@acme.test>",
            "RCPT TO:<ada@acme.test>",
            "From: \"Acme\" <no-reply@acme.test>",
            "Auto-Submitted: auto-generated",
            "Date: Mon, 24 Nov 2025 16:00:00 +0000",
            // A line that begins with a dot is sent with two (RFC 5321 section 4.5.2).
            "..your code is 123456",
        ] {
            let same = |said: &String| {
                said == line || said.starts_with(&format!("{line} ")) || said.replace('"', "") == line.replace('"', "")
            };
            assert!(heard.iter().any(same), "{line} is not in {heard:#?}");
        }
        assert!(
            heard.iter().any(|line| line.starts_with("Message-ID: <") && line.ends_with("@acme.test>")),
            "{heard:#?}"
        );
        assert!(heard.iter().any(|line| line.starts_with("AUTH PLAIN")), "{heard:#?}");
    }

    #[tokio::test]
    async fn a_refusal_says_why_and_not_to_whom() {
        let (port, _heard) = sink(Some("550 5.1.1 <ada@acme.test> is unknown here")).await;
        let error = mailer(port, None).deliver(&message("ada@acme.test")).await.unwrap_err();
        let cause = error.cause().unwrap();
        assert!(cause.contains("unknown here") && cause.contains("[recipient]"), "{cause}");
        assert!(!format!("{error:?} {cause}").contains("ada@"), "{error:?}");
    }

    #[tokio::test]
    async fn no_server_is_an_error_and_a_wrong_sender_is_found_at_once() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        assert!(mailer(port, None).deliver(&message("ada@acme.test")).await.is_err());
        let server = SmtpServer {
            host: "127.0.0.1".into(),
            port,
            encryption: Encryption::None,
            credentials: None,
            from: "nobody".into(),
        };
        assert!(Mailer::smtp(&server, Clock::system()).is_err());
    }

    #[tokio::test]
    async fn a_server_without_starttls_gets_no_message() {
        let (port, heard) = sink(None).await;
        let server = SmtpServer {
            host: "127.0.0.1".into(),
            port,
            encryption: Encryption::Starttls,
            credentials: None,
            from: "no-reply@acme.test".into(),
        };
        let mailer = Mailer::smtp(&server, Clock::system()).unwrap();
        assert!(mailer.deliver(&message("ada@acme.test")).await.is_err());
        drop(mailer);
        let heard = tokio::time::timeout(Duration::from_secs(5), heard).await;
        if let Ok(Ok(heard)) = heard {
            assert!(!heard.iter().any(|line| line.starts_with("MAIL") || line.starts_with("RCPT")), "{heard:#?}");
        }
    }
}

//! Every setting with its type, default and range: the one list that reading, showing and the example agree with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use toml::Value;
use url::Url;

use crate::base::Secret;

use super::problem::Problem;
use super::setting::{Section, Setting, Source};
use super::volumes::Volumes;

/// An enumeration that is written as a word.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl Setting for $name {
            const WANTED: &'static str = concat!("one of", $(" \"", $text, "\""),+);

            fn from_toml(value: &Value) -> Option<Self> {
                value.as_str().and_then(Self::from_text)
            }

            fn from_text(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }

            fn show(&self) -> Value {
                Value::String(match self { $(Self::$variant => $text),+ }.to_owned())
            }
        }
    };
}

/// A section: `name: type = default, in range;`.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident = $section:literal {
        $($(#[$field_doc:meta])* $field:ident: $kind:ty = $default:expr $(, in $range:expr)?;)+
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind),+ }

        impl $name {
            const SECTION: &'static str = $section;
            const KEYS: &'static [&'static str] = &[$(stringify!($field)),+];

            fn read(mut section: Section<'_>) -> Self {
                let read = Self { $($field: section.take(stringify!($field), $default)),+ };
                $($(section.within(stringify!($field), &read.$field, &$range);)?)+
                section.finish(Self::KEYS);
                read
            }

            fn show(&self) -> Value {
                Value::Table([$((stringify!($field).to_owned(), self.$field.show())),+].into_iter().collect())
            }
        }
    };
}

/// The whole configuration: one field a section.
macro_rules! config {
    ($($field:ident: $section:ident),+ $(,)?) => {
        /// A configuration that has been read and found sound. Its `Debug` shows no secret.
        #[derive(Debug, Clone)]
        pub struct Config { $(pub $field: $section),+ }

        impl Config {
            pub(super) fn read(mut source: Source, problems: &mut Vec<Problem>) -> Self {
                let config = Self { $($field: $section::read(source.section($section::SECTION, problems))),+ };
                source.finish(&[$(($section::SECTION, $section::KEYS)),+], problems);
                config
            }

            /// Every setting as it stands, for `config show`; a secret is `[set]` or empty.
            #[must_use]
            pub fn show(&self) -> toml::Table {
                [$(($section::SECTION.to_owned(), self.$field.show())),+].into_iter().collect()
            }
        }
    };
}

config! {
    server: Server,
    organizations: Organizations,
    files: Files,
    keys: Keys,
    password: Password,
    sessions: Sessions,
    tokens: Tokens,
    lockout: Lockout,
    rate_limits: RateLimits,
    quotas: Quotas,
    limits: Limits,
    mail: Mail,
    backup: Backup,
    exports: Exports,
    imports: Imports,
    log: Log,
}

const DAY: u64 = 86_400;
const YEAR: u64 = 366 * DAY;

section! {
    /// Where the service listens and what it accepts.
    Server = "server" {
        listen: SocketAddr = loopback(8080);
        /// Metrics and probes for the operator; `None` turns the listener off.
        metrics_listen: Option<SocketAddr> = Some(loopback(9464));
        /// The deployment's address as people and apps see it; scheme, host and port only.
        public_url: Url = local_url();
        data_dir: PathBuf = PathBuf::from("data");
        addressing: Addressing = Addressing::Subdomain;
        /// Neighbours whose `Forwarded` headers are believed.
        trusted_proxies: Vec<IpNet> = Vec::new();
        /// Whether a trusted proxy may name the organization in `Bulkhead-Organization`.
        organization_header: bool = false;
        request_timeout_seconds: u64 = 30, in 1..=600;
        /// How long a client may take to send its request line and headers.
        header_timeout_seconds: u64 = 10, in 1..=600;
        max_body_bytes: usize = 1 << 20, in 1 << 10..=16 << 20;
        max_header_bytes: usize = 32 << 10, in 8 << 10..=1 << 20;
        max_connections: usize = 4096, in 1..=1_000_000;
        max_concurrent_requests: usize = 1024, in 1..=1_000_000;
        /// How long running requests may take to finish when the service is told to stop.
        shutdown_grace_seconds: u64 = 20, in 0..=600;
    }
}

choice! {
    /// How an organization's own address is made.
    Addressing {
        /// `https://acme.example.com`
        Subdomain = "subdomain",
        /// `https://example.com/o/acme`
        Path = "path",
    }
}

section! {
    /// Who may create organizations.
    Organizations = "organizations" {
        sign_up: SignUp = SignUp::Open;
        /// Organizations that one e-mail address may create by signing up; 0 for no limit.
        max_per_email: u32 = 5;
    }
}

choice! {
    /// Whether anyone with a mailbox may create an organization.
    SignUp {
        Open = "open",
        /// Operators create organizations, through the API or the CLI.
        Closed = "closed",
    }
}

section! {
    /// Open organization files: how many, how much memory, how they are opened.
    Files = "files" {
        max_open: usize = 1024, in 8..=1_000_000;
        /// Estimated memory of all open files, in MiB.
        max_bytes_mib: u64 = 1024, in 16..=1 << 20;
        /// Files that may be opening at one time.
        open_concurrency: usize = 32, in 1..=1024;
        /// Read connections a file, beside its one writer.
        readers: u32 = 2, in 1..=16;
        /// Descriptors that are kept for sockets, logs and the catalog.
        reserve_descriptors: u64 = 256, in 64..=1_000_000;
        /// Other directories that organizations' files may stand in, as `name=path`.
        volumes: Volumes = Volumes::default();
    }
}

section! {
    /// The master key, which wraps every organization's data key.
    Keys = "keys" {
        provider: KeyProvider = KeyProvider::Auto;
        /// Empty for `<data_dir>/master.key`.
        master_key_file: PathBuf = PathBuf::new();
        /// From the environment only.
        master_key: Secret = Secret::new(String::new());
        /// The one before, until everything is wrapped by the new one. From the environment only.
        previous_master_key: Secret = Secret::new(String::new());
        /// A program and its arguments, for the provider `command`.
        command: Vec<String> = Vec::new();
        /// What `/wrap` and `/unwrap` are appended to, for the provider `http`.
        url: String = String::new();
        /// What is presented there; here, in the environment, or in a file that is read at every request.
        token: Secret = Secret::new(String::new());
        token_file: PathBuf = PathBuf::new();
        /// Certificates in PEM of whoever may vouch for the service, and nobody else then; empty for whom the system
        /// trusts.
        ca_file: PathBuf = PathBuf::new();
        /// The key that an outside provider is asked to wrap with; empty for what it chooses.
        key_id: String = String::new();
        /// How long an outside provider may take to answer.
        timeout_seconds: u64 = 3, in 1..=60;
        /// Organizations whose unwrapped keys are remembered.
        cache_keys: usize = 10_000, in 1..=1_000_000;
        /// How long a key is remembered that an outside provider has unwrapped.
        cache_seconds: u64 = 600, in 1..=7 * DAY;
        /// How long a data key is kept after it was replaced; 0 for as long as backups reach.
        keep_replaced_hours: u64 = 0, in 0..=24 * 366;
    }
}

choice! {
    /// Who has the master key.
    KeyProvider {
        /// The environment, where it is set there; else a file.
        Auto = "auto",
        File = "file",
        Env = "env",
        /// A program that wraps and unwraps.
        Command = "command",
        /// A key-management service.
        Http = "http",
    }
}

section! {
    /// The cost of a password hash (argon2id, RFC 9106) and the pool that computes it.
    Password = "password" {
        memory_kib: u32 = 19_456, in 7168..=1 << 20;
        iterations: u32 = 2, in 1..=16;
        parallelism: u32 = 1, in 1..=16;
        /// Threads that hash; 0 for one a core.
        workers: usize = 0, in 0..=256;
        /// Hashes that may wait; beyond it the answer is 503.
        queue: usize = 256, in 1..=100_000;
    }
}

section! {
    /// Lifetimes that a new organization starts with, and the most that a policy may choose.
    Sessions = "sessions" {
        idle_seconds: u64 = DAY, in 60..=YEAR;
        absolute_seconds: u64 = 7 * DAY, in 60..=YEAR;
        max_absolute_seconds: u64 = YEAR, in 60..=YEAR;
    }
}

section! {
    /// Lifetimes of what applications receive.
    Tokens = "tokens" {
        access_token_seconds: u64 = 300, in 60..=3600;
        id_token_seconds: u64 = 300, in 60..=3600;
        authorization_code_seconds: u64 = 60, in 10..=600;
        /// How long a person may take from the app's request to the code.
        authorization_request_seconds: u64 = 1800, in 60..=DAY;
    }
}

section! {
    /// What a new organization does about repeated wrong passwords.
    Lockout = "lockout" {
        attempts: u32 = 5, in 1..=100;
        seconds: u64 = 600, in 1..=DAY;
    }
}

section! {
    /// How often one may ask; 0 for no limit.
    RateLimits = "rate_limits" {
        /// An address, in one organization.
        sign_in_per_minute: u32 = 30;
        /// Codes tried by an address, in one organization or at sign-up.
        code_per_minute: u32 = 30;
        /// An address, in one organization.
        recovery_per_hour: u32 = 20;
        /// An address.
        sign_up_per_hour: u32 = 20;
        /// Messages to one mailbox, whoever asks for them.
        mail_per_hour: u32 = 10;
        /// An address, at the token endpoint of one organization.
        token_per_minute: u32 = 600;
        /// An API key.
        api_per_minute: u32 = 6000;
    }
}

section! {
    /// What an organization may take up that operators have set no limit for; 0 for no limit.
    Quotas = "quotas" {
        max_bytes: u64 = 0, in 0..=1 << 50;
        max_members: u64 = 0, in 0..=1_000_000_000;
    }
}

section! {
    /// What one organization may take of what all share, where operators have set nothing else for it; 0 for no limit.
    Limits = "limits" {
        requests_per_second: u32 = 2000, in 0..=1_000_000;
        /// Requests that may come at once; they are earned back at the rate above.
        request_burst: u32 = 10_000, in 1..=10_000_000;
        /// Requests that are answered at the same moment.
        concurrent_requests: u32 = 256, in 0..=1_000_000;
        /// Passwords that are hashed at the same moment.
        concurrent_hashes: u32 = 0, in 0..=1024;
        /// Passwords that wait to be hashed.
        queued_hashes: u32 = 128, in 0..=100_000;
        /// Bytes that are written to its file.
        written_bytes_per_minute: u64 = 512 << 20, in 0..=1 << 50;
    }
}

section! {
    /// How mail leaves.
    Mail = "mail" {
        transport: MailTransport = MailTransport::Mailbox;
        from: String = "Bulkhead <no-reply@localhost>".to_owned();
        smtp_host: String = String::new();
        smtp_port: u16 = 587, in 1..=u16::MAX;
        smtp_tls: SmtpTls = SmtpTls::Starttls;
        smtp_username: String = String::new();
        smtp_password: Secret = Secret::new(String::new());
    }
}

choice! {
    /// Where messages go.
    MailTransport {
        /// Nowhere: they are shown on a page of this machine.
        Mailbox = "mailbox",
        Smtp = "smtp",
    }
}

choice! {
    /// How the connection to the mail server is protected.
    SmtpTls {
        /// Plain at first, then required to switch (RFC 3207).
        Starttls = "starttls",
        /// From the first byte (RFC 8314).
        Tls = "tls",
        None = "none",
    }
}

choice! {
    /// Who copies what was written.
    BackupMode {
        /// The server itself.
        BuiltIn = "built-in",
        /// A stock litestream beside it, to which the server leaves the files.
        Litestream = "litestream",
    }
}

section! {
    /// Continuous backup, in Litestream's format.
    Backup = "backup" {
        /// Who ships: the server itself, or a stock `litestream replicate` beside it.
        mode: BackupMode = BackupMode::BuiltIn;
        /// Where to: `file:///var/backups/bulkhead` or `s3://bucket/prefix`; empty for no backup.
        url: String = String::new();
        /// Of an S3 store other than Amazon's.
        endpoint: String = String::new();
        region: String = String::new();
        /// Both or neither; without them, what the machine is given.
        access_key_id: String = String::new();
        secret_access_key: Secret = Secret::new(String::new());
        /// The bucket in the path and not in the host name, as most stores other than Amazon's need it.
        force_path_style: bool = false;
        /// Whether an endpoint may be plain http.
        allow_http: bool = false;
        /// How long the store may take to answer.
        timeout_seconds: u64 = 30, in 1..=600;
        /// From a commit to its being shipped.
        delay_milliseconds: u64 = 1000, in 10..=60_000;
        /// Organizations that are shipped at the same moment.
        workers: usize = 8, in 1..=256;
        /// What a write has reached when it is acknowledged, where an organization has nothing of its own.
        replication: Replicated = Replicated::Local;
        /// How long such an acknowledgement waits for the store.
        confirm_seconds: u64 = 10, in 1..=300;
        /// Between two snapshots of an organization that is written to.
        snapshot_hours: u64 = 24, in 1..=24 * 31;
        /// How far back a restore reaches.
        retention_hours: u64 = 7 * 24, in 1..=24 * 366;
        /// The same for the keyring: so long a destroyed key could be had back from an old copy of the store.
        keyring_retention_hours: u64 = 24, in 1..=24 * 366;
    }
}

choice! {
    /// What an acknowledged write outlives.
    Replicated {
        /// A crash of this machine.
        Local = "local",
        /// The loss of this machine.
        Object = "object",
    }
}

section! {
    /// Archives that organizations are exported to.
    Exports = "exports" {
        /// How long one lies there to be fetched.
        keep_hours: u64 = 24, in 1..=24 * 31;
        /// Of one organization at a time.
        max_per_organization: usize = 5, in 1..=100;
        /// Of the file that is exported.
        max_bytes_mib: u64 = 4096, in 1..=1 << 20;
    }
}

section! {
    /// What an archive that is imported may cost.
    Imports = "imports" {
        /// Of the upload.
        max_bytes_mib: u64 = 1024, in 1..=1 << 20;
        /// Of the database in it.
        max_unpacked_mib: u64 = 4096, in 1..=1 << 20;
        /// Of all its tables.
        max_rows: u64 = 10_000_000, in 1..=10_000_000_000;
        /// What the process that checks it may take.
        check_seconds: u64 = 300, in 1..=3600;
        check_memory_mib: u64 = 1024, in 512..=1 << 20;
        /// The program that checks, called with the one argument `import-check`; empty for this one. For a wrapper that
        /// confines it further.
        check_program: PathBuf = PathBuf::new();
    }
}

section! {
    /// What the service says on standard error.
    Log = "log" {
        format: LogFormat = LogFormat::Text;
        /// A level, or directives such as `info,bulkhead=debug`.
        level: String = "info".to_owned();
    }
}

choice! {
    /// For people or for machines.
    LogFormat {
        Text = "text",
        Json = "json",
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[expect(clippy::expect_used, reason = "a constant; every test that reads a configuration proves it")]
fn local_url() -> Url {
    Url::parse("http://localhost:8080").expect("a valid address")
}

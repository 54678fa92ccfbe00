//! F5. The composition root: builds each long-lived thing once, starts the router and the jobs, shuts
//! down. Nothing else in the house knows how the parts are put together.

pub mod copies;
mod lock;
mod master_key;
mod rebuild;
mod serve;
mod uploads;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;

use crate::backup::{Databases, Source};
use crate::base::time::length;
use crate::base::{Clock, Error, Result};
use crate::catalog::{Catalog, Directory};
use crate::config::{self, Config};
use crate::crypto::{HashParameters, KeyStock, MacKey, PasswordHasher, TokenBox};
use crate::fairness::Values;
use crate::features::api_key::http::{Authenticator, OperatorKeys};
use crate::features::audit::http::OperatorLog;
use crate::features::{
    DeploymentState, Services, SignUpRules, TenantState, TokenLifetimes, application, backup, encryption, erasure,
    fleet, freeze, inspection, keys, organization, placement, provisioning, signing_key, transfer,
};
use crate::jobs::{self, Jobs};
use crate::keyring::{self, Keyring};
use crate::outbound::{Encryption, Mailbox, Mailer, SmtpServer};
use crate::router::{self, BodyLimits, Front, Trust, Watch};
use crate::tenants::{Limits as FileLimits, Tenants};
use crate::web::limits::{Limit, Limits, Table};
use crate::web::{Address, Addressing};

pub use lock::Lock;
pub use rebuild::rebuild_catalog;

/// A deployment that has been put together on a data directory that is ours alone.
pub struct App {
    config: Config,
    front: Front,
    watch: Watch,
    state: DeploymentState,
    /// Held until the end; the last thing to go.
    _lock: Lock,
}

impl App {
    /// Takes the data directory, opens catalog and keyring, clears up after a crash, starts the jobs.
    pub async fn start(config: Config, clock: Clock) -> Result<Self> {
        Self::start_with_schema(config, clock, crate::tenants::MIGRATIONS).await
    }

    /// The same with another schema for organizations' files, for tests of migrations.
    pub async fn start_with_schema(config: Config, clock: Clock, schema: &'static [&'static str]) -> Result<Self> {
        let directory = config.server.data_dir.clone();
        // Nobody else reads what is made here, and no copy that keeps the modes either.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        require_finished(&directory)?;
        prepare_directory(&directory)?;
        let lock = Lock::take(&directory)?;
        let master = master_key::load(&config)?;
        backup::clear_workshop(&directory)?;
        let (state, calls) = tokio::task::block_in_place(|| build(&config, master, clock))?.await?;
        state.tenants.use_schema(schema);
        for application in state.catalog.read(application::all).await? {
            state.tenant.applications.put(application);
        }
        // Where files are comes first, and which of them take no writes.
        placement::recover(&state).await?;
        transfer::recover(&state).await?;
        provisioning::recover(&state).await?;
        freeze::recover(&state).await?;
        encryption::recover(&state).await?;
        jobs::start(
            Jobs {
                state: state.tenant.clone(),
                directory: state.directory.clone(),
                tenants: state.tenants.clone(),
                mailer: Arc::clone(&state.mailer),
                backups: state.backups.clone(),
            },
            calls,
        );
        if let Some(backups) = state.backups.as_ref().filter(|backups| !backups.is_foreign()) {
            backups.require_location().await?;
            backup::note_adoptions(&state, backups).await?;
            backups.look_for_leftovers();
            tokio::spawn(backups.clone().run());
        } else if copies::is_foreign(&config) {
            tracing::info!(
                "a litestream beside this server is to look after its files: history, diff and restore read what it has \
                 shipped to backup.url; recover, migration rollback and moves are refused"
            );
            tokio::task::block_in_place(|| crate::backup::leave(&directory))?;
        }
        fleet::resume(&state).await?;
        jobs::erasure::start(state.clone());
        jobs::keys::start(state.clone());
        let (front, watch) = front(&config, &state);
        Ok(Self { config, front, watch, state, _lock: lock })
    }

    /// The public service, as one would mount it.
    pub fn service(&self) -> Router {
        router::public(self.front.clone(), self.watch.clone(), self.body_limits())
    }

    /// The API for whoever has access to the data directory.
    pub fn control(&self) -> Router {
        router::control(self.front.clone(), self.watch.clone(), self.body_limits())
    }

    fn body_limits(&self) -> BodyLimits {
        BodyLimits {
            bytes: self.config.server.max_body_bytes,
            pause: length::seconds(self.config.server.header_timeout_seconds),
        }
    }

    /// Serves until the process is told to stop, then drains and closes.
    pub async fn serve(self) -> Result<()> {
        let served = serve::until_stopped(&self).await;
        self.stop().await;
        served
    }

    /// Folds every file's WAL back and lets the directory go.
    pub async fn stop(self) {
        self.state.fleet.stop().await;
        self.state.erasures.close().await;
        self.state.keys.close().await;
        self.state.encryptions.close().await;
        if let Some(backups) = self.state.backups.as_ref().filter(|backups| !backups.is_foreign()) {
            backups.finish(length::seconds(self.config.server.shutdown_grace_seconds)).await;
        }
        tokio::task::block_in_place(|| {
            self.state.tenants.close_all();
            self.state.catalog.settle();
            self.state.keys.ring().settle();
        });
    }

    /// Every path that is mounted: organization, deployment, API. For the test that walks them all.
    #[must_use]
    pub fn paths(&self) -> [Vec<String>; 3] {
        self.front.paths()
    }

    /// Makes the directory if there is none, and keeps every other process from it for as long as the lock lives.
    pub fn alone_in(data_dir: &Path) -> Result<Lock> {
        prepare_directory(data_dir)?;
        Lock::take(data_dir)
    }

    /// Whether a running process owns the directory.
    #[must_use]
    pub fn is_owned(data_dir: &Path) -> bool {
        Lock::is_taken(data_dir)
    }

    #[must_use]
    pub const fn state(&self) -> &DeploymentState {
        &self.state
    }
}

/// What says that a directory is being put together out of a backup; gone when it is whole.
pub const UNFINISHED: &str = "fetch.unfinished";

/// A half of a deployment would look like one that has lost the other half.
fn require_finished(directory: &Path) -> Result<()> {
    let mark = directory.join(UNFINISHED);
    if !mark.exists() {
        return Ok(());
    }
    Err(Error::internal(format!(
        "{} is there: `bulkhead backup fetch --whole` was interrupted; run it again, it goes on",
        mark.display()
    )))
}

/// 0700: what is in it is nobody else's business.
fn prepare_directory(directory: &Path) -> Result<()> {
    let made =
        fs::create_dir_all(directory).and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o700)));
    made.map_err(|error| {
        Error::internal(format!("cannot prepare the data directory {}", directory.display())).source(error)
    })
}

type Built = std::pin::Pin<Box<dyn Future<Output = Result<(DeploymentState, jobs::Calls)>> + Send>>;

fn build(config: &Config, master: keyring::Settings, clock: Clock) -> Result<Built> {
    let directory = config.server.data_dir.clone();
    // It must be there before the databases that report to it.
    let dirty = copies::dirty(config);
    let keyring =
        Keyring::open(&directory, master, clock.clone(), copies::of(config, dirty.as_ref(), Source::Keyring))?;
    let config = config.clone();
    Ok(Box::pin(async move {
        let key = keyring.deployment().await?;
        let catalog =
            Catalog::open(&directory, &key, clock.clone(), copies::of(&config, dirty.as_ref(), Source::Catalog))?;
        let routes = Directory::new(catalog.clone());
        let (attention, calls) = jobs::bell(clock.clone());
        let limits = file_limits(&config);
        let tenants = Tenants::new(&directory.join("orgs"), keyring.clone(), limits, clock.clone(), attention)?;
        let keys = keys::Desk::new(keyring.clone(), key_times(&config));
        tenants.use_volumes(config.files.volumes.0.clone());
        copies::watch(&config, dirty.as_ref(), &tenants);
        let databases =
            Databases { tenants: tenants.clone(), directory: routes.clone(), catalog: catalog.clone(), keyring };
        let backups = dirty
            .or_else(|| copies::idle(&config))
            .map(|dirty| copies::backups(&config, dirty, databases, clock.clone()))
            .transpose()?;
        let parameters = HashParameters {
            memory_kib: config.password.memory_kib,
            iterations: config.password.iterations,
            parallelism: config.password.parallelism,
        };
        let mailer = Arc::new(mailer(&config, &clock)?);
        let address = address(&config)?;
        let services = Services {
            address,
            hasher: PasswordHasher::new(parameters, workers(&config), config.password.queue)?,
            hash_parameters: parameters,
            key_stock: KeyStock::start(2)?,
            applications: application::Book::default(),
            deployment_keys: signing_key::DeploymentKeys::new(catalog.clone()),
            operator_log: OperatorLog::new(catalog.clone()),
            operator_keys: OperatorKeys::new(catalog.clone()),
            boxes: TokenBox::new(key.derive("browser state")),
            mac: MacKey::new(key.derive("mac")),
            limits: rate_limits(&config.rate_limits),
            policy: policy(&config),
            quotas: organization::QuotaDefaults {
                max_bytes: config.quotas.max_bytes,
                max_members: config.quotas.max_members,
            },
            tokens: TokenLifetimes {
                access_token: length::seconds(config.tokens.access_token_seconds),
                authorization_code: length::seconds(config.tokens.authorization_code_seconds),
                id_token: length::seconds(config.tokens.id_token_seconds),
                authorization_request: length::seconds(config.tokens.authorization_request_seconds),
            },
            exports: uploads::exports(&config, &clock)?,
            local_mailbox: config.serves_mailbox(),
            clock,
        };
        let state = DeploymentState {
            tenant: TenantState::new(services),
            catalog,
            directory: routes,
            tenants,
            sign_up: SignUpRules {
                open: config.organizations.sign_up == config::SignUp::Open,
                max_per_email: config.organizations.max_per_email,
            },
            mailer,
            fleet: fleet::Desk::default(),
            erasures: erasure::Desk::default(),
            keys,
            backups,
            inspections: inspection::Desk::default(),
            relocations: placement::Desk::default(),
            encryptions: encryption::Desk::default(),
            arrivals: transfer::Desk::default(),
            imports: uploads::imports(&config)?,
        };
        Ok((state, calls))
    }))
}

fn front(config: &Config, state: &DeploymentState) -> (Front, Watch) {
    let authenticator =
        Authenticator { operators: state.tenant.operator_keys.clone(), limits: state.tenant.limits.clone() };
    let (api, document) = router::api(state, authenticator.clone());
    let tenant = router::tenant(&state.tenant);
    let deployment = router::deployment(state, document);
    let trust = Trust { header: config.server.organization_header, proxies: config.server.trusted_proxies.clone() };
    let front = Front::new(
        state.tenant.address.clone(),
        state.directory.clone(),
        state.tenants.clone(),
        state.backups.clone(),
        trust,
        authenticator,
        [tenant, deployment, api],
    );
    let watch = Watch::new(
        config.server.max_concurrent_requests,
        length::seconds(config.server.request_timeout_seconds),
        &config.server.trusted_proxies,
        state.tenant.address.is_secure(),
    );
    (front, watch)
}

fn address(config: &Config) -> Result<Address> {
    let addressing = match config.server.addressing {
        config::Addressing::Subdomain => Addressing::Subdomain,
        config::Addressing::Path => Addressing::Path,
    };
    let address = Address::new(&config.server.public_url, addressing);
    address.ok_or_else(|| Error::internal("the public URL has no usable host"))
}

fn file_limits(config: &Config) -> FileLimits {
    FileLimits {
        open: config.files.max_open,
        bytes: config.files.max_bytes_mib << 20,
        descriptors: serve::descriptors().saturating_sub(config.files.reserve_descriptors).max(64),
        opening: config.files.open_concurrency,
        readers: config.files.readers,
        file_bytes: config.quotas.max_bytes,
        replication: copies::replication(&config.backup),
        shares: shares(&config.limits),
    }
}

fn shares(config: &config::Limits) -> Values {
    Values {
        requests_per_second: config.requests_per_second,
        request_burst: config.request_burst,
        concurrent_requests: config.concurrent_requests,
        concurrent_hashes: config.concurrent_hashes,
        queued_hashes: config.queued_hashes,
        written_bytes_per_minute: config.written_bytes_per_minute,
    }
}

fn workers(config: &Config) -> usize {
    match config.password.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        workers => workers,
    }
}

fn policy(config: &Config) -> organization::PolicyDefaults {
    organization::PolicyDefaults {
        session_idle: length::seconds(config.sessions.idle_seconds),
        session_absolute: length::seconds(config.sessions.absolute_seconds),
        session_absolute_max: length::seconds(config.sessions.max_absolute_seconds),
        lockout_attempts: config.lockout.attempts,
        lockout: length::seconds(config.lockout.seconds),
    }
}

/// For how long what was replaced is kept.
fn key_times(config: &Config) -> keys::Times {
    let (backup, has_backup) = (&config.backup, !config.backup.url.is_empty());
    // The oldest point that can be had back begins with the snapshot before it.
    let reach = length::hours(backup.retention_hours.saturating_add(backup.snapshot_hours));
    let keep = config.keys.keep_replaced_hours;
    keys::Times {
        data_keys: if keep == 0 { reach } else { length::hours(keep) },
        master_keys: if has_backup { length::hours(backup.keyring_retention_hours) } else { Duration::ZERO },
    }
}

fn rate_limits(config: &config::RateLimits) -> Limits {
    let minute = Duration::from_secs(60);
    let hour = length::hours(1);
    Limits::new(Table {
        sign_in: Limit::new("sign_in", config.sign_in_per_minute, minute),
        sign_in_anywhere: Limit::new("sign_in_anywhere", config.sign_in_per_minute.saturating_mul(3), minute),
        code: Limit::new("code", config.code_per_minute, minute),
        recovery: Limit::new("recovery", config.recovery_per_hour, hour),
        sign_up: Limit::new("sign_up", config.sign_up_per_hour, hour),
        token: Limit::new("token", config.token_per_minute, minute),
        api: Limit::new("api", config.api_per_minute, minute),
        mailbox: Limit::new("mailbox", config.mail_per_hour, hour),
    })
}

fn mailer(config: &Config, clock: &Clock) -> Result<Mailer> {
    match config.mail.transport {
        config::MailTransport::Mailbox => Ok(Mailer::Mailbox(Mailbox::new(&config.server.data_dir, clock.clone()))),
        config::MailTransport::Smtp => Mailer::smtp(
            &SmtpServer {
                host: config.mail.smtp_host.clone(),
                port: config.mail.smtp_port,
                encryption: match config.mail.smtp_tls {
                    config::SmtpTls::Starttls => Encryption::Starttls,
                    config::SmtpTls::Tls => Encryption::Tls,
                    config::SmtpTls::None => Encryption::None,
                },
                credentials: (!config.mail.smtp_username.is_empty())
                    .then(|| (config.mail.smtp_username.clone(), config.mail.smtp_password.clone())),
                from: config.mail.from.clone(),
            },
            clock.clone(),
        ),
    }
}

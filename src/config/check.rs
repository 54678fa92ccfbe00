//! The rules between values: what is well-formed and still would not work, or would not be safe.

use super::sections::{Addressing, Backup, BackupMode, Config, KeyProvider, MailTransport, Replicated, SmtpTls};
use super::{Problem, Server};
use crate::base::Location;

/// Where the rules write to.
struct Report<'a>(&'a mut Vec<Problem>);

impl Report<'_> {
    fn add(&mut self, key: &str, message: impl Into<String>) {
        self.0.push(Problem::new(key, message));
    }
}

pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let report = &mut Report(problems);
    check_public_url(&config.server, report);
    check_listeners(&config.server, report);
    check_proxies(&config.server, report);
    check_keys(config, report);
    check_lifetimes(config, report);
    check_mail(config, report);
    check_backup(&config.backup, report);
    if config.backup.confirm_seconds >= config.server.request_timeout_seconds {
        report.add("backup.confirm_seconds", "must be less than server.request_timeout_seconds, which would end it");
    }
    check_log(config, report);
    check_volumes(config, report);
}

fn check_volumes(config: &Config, report: &mut Report<'_>) {
    let (key, volumes) = ("files.volumes", &config.files.volumes.0);
    let data_dir = std::path::absolute(&config.server.data_dir).unwrap_or_else(|_| config.server.data_dir.clone());
    for (name, path) in volumes {
        if !super::volumes::is_name(name) {
            report.add(
                key,
                format!("has the name {name:?}; use lower-case letters, digits and hyphens, and not \"local\""),
            );
        }
        if !path.is_absolute() {
            report.add(key, format!("has {}, which must be an absolute path", path.display()));
        }
        let meets = |other: &std::path::Path| path.starts_with(other) || other.starts_with(path);
        if meets(&data_dir) {
            report.add(key, format!("has {}, which must be apart from server.data_dir", path.display()));
        }
        for (other, its) in volumes.iter().filter(|(other, _)| *other > name) {
            if meets(its) {
                report.add(key, format!("has {name} and {other}, one inside the other"));
            }
        }
    }
}

fn check_backup(backup: &Backup, report: &mut Report<'_>) {
    let is_bucket = backup.url.starts_with("s3://");
    if let (false, Err(wrong)) = (backup.url.is_empty(), backup.url.parse::<Location>()) {
        let why = wrong.why();
        report
            .add("backup.url", format!("must be file:///a/folder, s3://bucket/prefix, or empty for no backup: {why}"));
    }
    // They become parts of host names and headers, where a line break or a space ends more than the value.
    let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let is_region = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !backup.region.bytes().all(is_region) || backup.region.len() > 64 {
        report.add("backup.region", "must be the name of a region, such as \"eu-central-1\", or empty");
    }
    for (key, value) in [
        ("backup.access_key_id", backup.access_key_id.as_str()),
        ("backup.secret_access_key", backup.secret_access_key.expose()),
    ] {
        if !is_word(value) {
            report.add(key, "must be visible ASCII characters alone, without spaces and line breaks");
        }
    }
    if let (false, Some(why)) = (backup.endpoint.is_empty(), wrong_endpoint(&backup.endpoint)) {
        report.add("backup.endpoint", why);
    }
    if backup.access_key_id.is_empty() != backup.secret_access_key.is_empty() {
        report.add("backup.secret_access_key", "goes with backup.access_key_id: set both or neither");
    }
    if backup.endpoint.starts_with("http://") && !backup.allow_http {
        report.add("backup.endpoint", "is plain http; use https, or set backup.allow_http for a store on this machine");
    }
    if !is_bucket && !backup.endpoint.is_empty() {
        report.add("backup.endpoint", "is of an S3 store, and backup.url does not begin with s3://");
    }
    // The bucket would become a part of the host (bucket.192.0.2.1), which is no address any more.
    let endpoint = url::Url::parse(&backup.endpoint).ok();
    let is_number = |host: url::Host<&str>| !matches!(host, url::Host::Domain(_));
    if !backup.force_path_style && endpoint.as_ref().and_then(url::Url::host).is_some_and(is_number) {
        report.add("backup.force_path_style", "must be true where backup.endpoint is an IP address");
    }
    if backup.replication == Replicated::Object && backup.url.is_empty() {
        report.add("backup.replication", "is \"object\", which needs a store: set backup.url");
    }
    if backup.mode == BackupMode::Litestream && backup.url.is_empty() {
        report.add("backup.mode", "is \"litestream\", which needs backup.url: where it replicates to");
    }
    if backup.replication == Replicated::Object && backup.mode == BackupMode::Litestream {
        report.add("backup.mode", "is \"litestream\", which confirms no write: backup.replication must be \"local\"");
    }
    if backup.retention_hours < backup.snapshot_hours {
        report.add("backup.retention_hours", "must be at least backup.snapshot_hours");
    }
}

/// What keeps the address of an S3 store from being one.
fn wrong_endpoint(text: &str) -> Option<&'static str> {
    if !text.starts_with("https://") && !text.starts_with("http://") {
        return Some("must begin with https://, such as \"https://minio.example.com:9000\"");
    }
    let Some(url) = url::Url::parse(text).ok().filter(url::Url::has_host) else {
        return Some("must have a host, such as \"https://minio.example.com:9000\"");
    };
    let is_bare = url.username().is_empty() && url.password().is_none();
    match is_bare && url.query().is_none() && url.fragment().is_none() {
        true => None,
        false => Some("must hold no user name, password, query or fragment; credentials have settings of their own"),
    }
}

fn check_public_url(server: &Server, report: &mut Report<'_>) {
    let key = "server.public_url";
    let url = &server.public_url;
    if !matches!(url.scheme(), "http" | "https") || server.host().is_none() {
        return report.add(key, "must be an http or https address with a host, like \"https://example.com\"");
    }
    if url.scheme() == "http" && !server.is_local() {
        let host = url.host_str().unwrap_or_default();
        report.add(key, format!("must be https: \"https://{host}\"; plain http is for localhost only"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        report.add(key, format!("must be scheme, host and port only: \"{}\"", server.origin()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        report.add(key, "must hold no user name and no password; remove the part in front of the @");
    }
    if server.addressing == Addressing::Subdomain && !matches!(url.host(), Some(url::Host::Domain(_))) {
        report.add(
            "server.addressing",
            "is \"subdomain\", which an IP address in server.public_url cannot have; use a name, or \"path\"",
        );
    }
}

fn check_listeners(server: &Server, report: &mut Report<'_>) {
    if server.data_dir.as_os_str().is_empty() {
        report.add("server.data_dir", "must name a directory; the default is \"data\"");
    }
    // Port 0 is "any free port", so two zeros are two listeners.
    if server.metrics_listen == Some(server.listen) && server.listen.port() != 0 {
        report.add("server.metrics_listen", "is the same as server.listen; choose another port, or \"\" for none");
    }
    if server.header_timeout_seconds > server.request_timeout_seconds {
        report.add(
            "server.header_timeout_seconds",
            format!("must not exceed server.request_timeout_seconds ({})", server.request_timeout_seconds),
        );
    }
}

fn check_proxies(server: &Server, report: &mut Report<'_>) {
    if server.organization_header && server.trusted_proxies.is_empty() {
        report.add(
            "server.organization_header",
            "needs server.trusted_proxies: list the networks of your proxies, or set it to false",
        );
    }
    for network in server.trusted_proxies.iter().filter(|network| network.prefix_len() == 0) {
        report.add(
            "server.trusted_proxies",
            format!("contains {network}, which trusts everyone; list the networks of your proxies"),
        );
    }
}

fn check_keys(config: &Config, report: &mut Report<'_>) {
    let keys = &config.keys;
    let has_file = !keys.master_key_file.as_os_str().is_empty();
    if keys.provider == KeyProvider::Auto && !keys.master_key.is_empty() && has_file {
        report.add(
            "keys.master_key_file",
            "is set and so is BULKHEAD_KEYS_MASTER_KEY; keep one of them, or say in keys.provider which one wraps",
        );
    }
    match keys.provider {
        KeyProvider::Env if keys.master_key.is_empty() => {
            report.add("keys.provider", "is \"env\", which needs the environment variable BULKHEAD_KEYS_MASTER_KEY");
        }
        KeyProvider::Command if keys.command.is_empty() => {
            report.add("keys.command", "must name a program when keys.provider is \"command\"");
        }
        KeyProvider::Http if keys.url.is_empty() => {
            report.add("keys.url", "must be the address of your key service when keys.provider is \"http\"");
        }
        _ => {}
    }
    if keys.command.first().is_some_and(|program| !std::path::Path::new(program).is_absolute()) {
        report.add("keys.command", "must begin with the whole path of a program, like \"/usr/local/bin/kms\"");
    }
    if !keys.url.is_empty() && !is_safe_for_keys(&keys.url) {
        report.add("keys.url", "must be https, or http to this machine, with no user name and no query");
    }
    if !keys.token.is_empty() && !keys.token_file.as_os_str().is_empty() {
        report.add("keys.token_file", "is set and so is keys.token; keep one of them");
    }
    if !keys.ca_file.as_os_str().is_empty() && !keys.url.starts_with("https://") {
        report.add("keys.ca_file", "is of use only where keys.url is https");
    }
    if keys.key_id.len() > 200 || !keys.key_id.bytes().all(|byte| byte.is_ascii_graphic()) {
        report.add("keys.key_id", "must be at most 200 visible ASCII characters");
    }
}

/// Keys travel there.
fn is_safe_for_keys(text: &str) -> bool {
    let Ok(url) = url::Url::parse(text) else { return false };
    let is_local = match url.host() {
        Some(url::Host::Domain(host)) => host == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => return false,
    };
    let is_bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    is_bare && (url.scheme() == "https" || (url.scheme() == "http" && is_local))
}

fn check_lifetimes(config: &Config, report: &mut Report<'_>) {
    let sessions = &config.sessions;
    let mut at_most = |key: &str, value: u64, limit_key: &str, limit: u64| {
        if value > limit {
            report
                .add(key, format!("is {value} and must not exceed {limit_key} ({limit}); lower it or raise the other"));
        }
    };
    let absolute = "sessions.absolute_seconds";
    at_most("sessions.idle_seconds", sessions.idle_seconds, absolute, sessions.absolute_seconds);
    at_most(absolute, sessions.absolute_seconds, "sessions.max_absolute_seconds", sessions.max_absolute_seconds);
}

fn check_mail(config: &Config, report: &mut Report<'_>) {
    let mail = &config.mail;
    if !mail.from.contains('@') || mail.from.contains(['\r', '\n']) {
        report.add("mail.from", "must be an address, like \"Example <no-reply@example.com>\"");
    }
    match mail.transport {
        MailTransport::Mailbox if !config.server.is_local() => report.add(
            "mail.transport",
            "is \"mailbox\", which shows everyone's codes on a page and so is for localhost only; set it to \"smtp\" \
             and mail.smtp_host to your mail server",
        ),
        MailTransport::Mailbox => {}
        MailTransport::Smtp => {
            if mail.smtp_host.is_empty() {
                report.add("mail.smtp_host", "must name your mail server when mail.transport is \"smtp\"");
            }
            if mail.smtp_username.is_empty() != mail.smtp_password.is_empty() {
                report.add(
                    "mail.smtp_username",
                    "and mail.smtp_password go together: set both, or neither for a server without sign-in",
                );
            }
            let local = matches!(mail.smtp_host.as_str(), "localhost" | "127.0.0.1" | "::1" | "[::1]");
            if mail.smtp_tls == SmtpTls::None && !mail.smtp_password.is_empty() && !local {
                report.add(
                    "mail.smtp_tls",
                    "is \"none\", which would send the password in the clear; use \"starttls\" or \"tls\"",
                );
            }
        }
    }
}

fn check_log(config: &Config, report: &mut Report<'_>) {
    if config.log.level.parse::<tracing_subscriber::EnvFilter>().is_err() || config.log.level.trim().is_empty() {
        report.add(
            "log.level",
            "must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\", or directives like \"info,bulkhead=debug\"",
        );
    }
}

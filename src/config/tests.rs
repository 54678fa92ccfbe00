//! Reading, refusing and showing configurations.

use super::*;

fn load(file: &str, env: &[(&str, &str)]) -> Result<Config, Problems> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::from_parts(file.parse().unwrap(), env, Vec::new())
}

fn keys(result: Result<Config, Problems>) -> Vec<String> {
    result.unwrap_err().0.into_iter().map(|problem| problem.key).collect()
}

#[test]
fn the_defaults_run_on_this_machine() {
    let config = Config::embedded().unwrap();
    assert_eq!(config.server.origin(), "http://localhost:8080");
    assert_eq!(config.server.host().unwrap().as_str(), "localhost");
    assert!(config.server.is_local() && !config.server.is_https());
    assert!(config.serves_mailbox());
    assert_eq!(config.master_key_path(), Path::new("data/master.key"));
}

#[test]
fn the_example_says_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bulkhead.example.toml");
    let example = Config::load(Some(&path), std::iter::empty()).unwrap();
    let defaults = Config::embedded().unwrap();
    assert_eq!(example.show(), defaults.show());

    // And it leaves no setting out.
    let text = std::fs::read_to_string(&path).unwrap();
    for (section, settings) in defaults.show() {
        assert!(text.contains(&format!("\n[{section}]\n")), "[{section}] is missing from the example");
        for key in settings.as_table().unwrap().keys() {
            let written = text.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
            assert!(written, "{section}.{key} is missing from the example");
        }
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let file = r#"
        sever = 1
        log = "debug"
        [server]
        listen = "here"
        public_url = "http://example.com/login"
        lisen = "127.0.0.1:1"
        organization_header = true
        max_body_bytes = 17000000
        request_timeout_seconds = "30"
        [sessions]
        idle_seconds = 700000
        [mail]
        smtp_port = 70000
        [keys]
        master_key = "not here"
    "#;
    let problems = load(file, &[("BULKHEAD_SERVER_LISTN", "x"), ("BULKHEAD_LOCKOUT_ATTEMPTS", "many")]).unwrap_err();
    let found: Vec<&str> = problems.0.iter().map(|problem| problem.key.as_str()).collect();
    for key in [
        "sever",
        "log",
        "server.listen",
        "server.lisen",
        "server.organization_header",
        "server.max_body_bytes",
        "server.request_timeout_seconds",
        "sessions.idle_seconds",
        "mail.smtp_port",
        "mail.transport",
        "keys.master_key",
        "BULKHEAD_SERVER_LISTN",
        "lockout.attempts (BULKHEAD_LOCKOUT_ATTEMPTS)",
    ] {
        assert!(found.contains(&key), "{key} is missing in:\n{problems}");
    }
    assert_eq!(found.iter().filter(|key| **key == "server.public_url").count(), 2, "https and path:\n{problems}");

    let text = problems.to_string();
    assert_eq!(text.lines().count(), problems.0.len());
    assert!(text.contains("server.lisen is not a setting of [server]; did you mean listen?"), "{text}");
    assert!(text.contains("did you mean [server]?"), "{text}");
    assert!(text.contains("did you mean BULKHEAD_SERVER_LISTEN?"), "{text}");
}

#[test]
fn the_environment_overrides_the_file() {
    let file = "[server]\npublic_url = 'https://file.example'\n[mail]\ntransport = 'smtp'\nsmtp_host = 'a'\n";
    let env = [
        ("BULKHEAD_SERVER_PUBLIC_URL", "https://id.example"),
        ("BULKHEAD_SERVER_TRUSTED_PROXIES", "10.0.0.0/8, ::1/128"),
        ("BULKHEAD_SERVER_METRICS_LISTEN", ""),
        ("BULKHEAD_SERVER_ORGANIZATION_HEADER", "true"),
        ("BULKHEAD_RATE_LIMITS_SIGN_IN_PER_MINUTE", "7"),
        ("BULKHEAD_LOG_FORMAT", "json"),
    ];
    let config = load(file, &env).unwrap();
    assert_eq!(config.server.origin(), "https://id.example");
    assert_eq!(config.server.metrics_listen, None);
    assert_eq!(config.rate_limits.sign_in_per_minute, 7);
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(config.server.trusts("10.1.2.3".parse().unwrap()));
    assert!(config.server.trusts("::ffff:10.1.2.3".parse().unwrap()));
    assert!(!config.server.trusts("192.168.0.1".parse().unwrap()));
}

#[test]
fn variables_of_others_and_of_the_command_line_are_left_alone() {
    let env = [("PATH", "/bin"), ("BULKHEAD_API_KEY", "x"), ("BULKHEAD_URL", "x"), ("BULKHEAD_CONFIG", "x")];
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    assert!(Config::load(None, env).is_ok());
}

#[test]
fn nothing_secret_is_shown() {
    let secret = "hunter2-hunter2";
    let file = "[mail]\ntransport = 'smtp'\nsmtp_host = 'localhost'\nsmtp_username = 'bulkhead'\n\
                smtp_password = 'hunter2-hunter2'";
    let config = load(file, &[("BULKHEAD_KEYS_MASTER_KEY", secret)]).unwrap();
    assert_eq!(config.mail.smtp_password.expose(), secret);
    assert_eq!(config.keys.master_key.expose(), secret);
    let shown = config.show();
    assert_eq!(shown["mail"]["smtp_password"].as_str(), Some("[set]"));
    assert_eq!(shown["keys"]["master_key"].as_str(), Some("[set]"));
    assert!(!shown.to_string().contains(secret));
    assert!(!format!("{config:?}").contains(secret));
    assert_eq!(Config::embedded().unwrap().show()["mail"]["smtp_password"].as_str(), Some(""));

    // Nor by an error: not of a value, and not of a line that is no TOML.
    let problems = load("[mail]\nsmtp_password = ['hunter2-hunter2']\nsmtp_host = 'x'", &[]).unwrap_err();
    assert!(!problems.to_string().contains(secret));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bulkhead.toml");
    std::fs::write(&path, "[mail]\n\nsmtp_password = hunter2-hunter2\n").unwrap();
    let problems = Config::load(Some(&path), std::iter::empty()).unwrap_err().to_string();
    assert!(problems.contains("line 3") && !problems.contains(secret), "{problems}");
}

#[test]
fn a_missing_file_is_said_to_be_missing() {
    let problems = Config::load(Some(Path::new("no/such/file.toml")), std::iter::empty()).unwrap_err();
    assert_eq!(problems.0.len(), 1);
    assert!(problems.to_string().starts_with("no/such/file.toml cannot be read"));
}

#[test]
fn what_would_not_be_safe_is_refused() {
    let smtp = "[mail]\ntransport = 'smtp'\nsmtp_host = 'mail.example'\n";
    let server = |lines: &str| format!("[server]\n{lines}\n{smtp}");
    let url = |url: &str| load(&server(&format!("public_url = '{url}'")), &[]);
    for good in ["https://example.com", "https://example.com:8443/", "http://localhost:1", "http://id.localhost"] {
        assert!(url(good).is_ok(), "{good}");
    }
    for bad in [
        "http://example.com",
        "ftp://example.com",
        "https://example.com/x",
        "https://example.com?x=1",
        "https://example.com/#x",
        "https://user:pass@example.com",
        "http://localhost.example.com",
        "data:,x",
    ] {
        assert!(keys(url(bad)).contains(&"server.public_url".to_owned()), "{bad}");
    }

    let path = server("public_url = 'https://192.0.2.1'\naddressing = 'path'");
    assert!(load(&path, &[]).is_ok());
    assert_eq!(keys(url("https://192.0.2.1")), ["server.addressing"]);
    assert_eq!(keys(load("[server]\npublic_url = 'https://example.com'", &[])), ["mail.transport"]);
    assert_eq!(keys(load(&server("trusted_proxies = ['0.0.0.0/0']"), &[])), ["server.trusted_proxies"]);
    assert_eq!(keys(load(&server("metrics_listen = '127.0.0.1:8080'"), &[])), ["server.metrics_listen"]);
    assert_eq!(keys(load(&server("header_timeout_seconds = 60"), &[])), ["server.header_timeout_seconds"]);
    let both = [("BULKHEAD_KEYS_MASTER_KEY", "k"), ("BULKHEAD_KEYS_MASTER_KEY_FILE", "f")];
    assert_eq!(keys(load("", &both)), ["keys.master_key_file"]);
    for (section, problem) in [
        ("provider = 'env'", "keys.provider"),
        ("provider = 'command'", "keys.command"),
        ("command = ['kms']", "keys.command"),
        ("provider = 'http'", "keys.url"),
        ("url = 'http://kms.example.com'", "keys.url"),
        ("url = 'https://a:b@kms.example.com'", "keys.url"),
        ("url = 'https://kms.example.com'\ntoken = 'a'\ntoken_file = 'b'", "keys.token_file"),
        ("url = 'http://127.0.0.1:1'\nca_file = 'ca.pem'", "keys.ca_file"),
        ("key_id = 'a b'", "keys.key_id"),
        ("previous_master_key = 'a'", "keys.previous_master_key"),
    ] {
        assert_eq!(keys(load(&format!("[keys]\n{section}"), &[])), [problem], "{section}");
    }
    for good in ["url = 'https://kms.example.com/v1'", "url = 'http://[::1]:9'", "command = ['/bin/kms', '-x']"] {
        load(&format!("[keys]\n{good}"), &[]).unwrap();
    }
    let plain = format!("{smtp}smtp_tls = 'none'\nsmtp_username = 'a'\nsmtp_password = 'b'");
    assert_eq!(keys(load(&plain, &[])), ["mail.smtp_tls"]);
    assert_eq!(keys(load(&format!("{smtp}smtp_username = 'a'"), &[])), ["mail.smtp_username"]);
    assert_eq!(keys(load("[log]\nlevel = 'bulkhead=loud'", &[])), ["log.level"]);
}

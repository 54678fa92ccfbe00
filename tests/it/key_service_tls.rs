//! A key service over HTTPS: who may vouch for it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bulkhead::app::App;
use bulkhead::base::Clock;
use bulkhead::config::Config;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::key_providers::{Service, TOKEN};

/// An authority of our own, and what it says that a service on this machine is.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let authority = Self(tempfile::tempdir().unwrap());
        let new = "-newkey rsa:2048 -nodes";
        authority.openssl(&format!(
            "req -x509 {new} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign"
        ));
        authority.openssl(&format!("req {new} -keyout service.key -out service.csr -subj /CN=service"));
        let extensions = "subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n";
        fs::write(authority.0.path().join("extensions"), extensions).unwrap();
        authority.openssl(
            "x509 -req -in service.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions \
             -out service.pem",
        );
        authority
    }

    fn openssl(&self, arguments: &str) {
        let arguments = arguments.split_whitespace();
        let done = Command::new("openssl").args(arguments).current_dir(self.0.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn file(&self) -> String {
        self.0.path().join("ca.pem").display().to_string()
    }

    fn service(&self) -> Service {
        let certificate = CertificateDer::from_pem_file(self.0.path().join("service.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.0.path().join("service.key")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Service::over(Some(Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap())))
    }
}

fn secured(service: &Service, data: &Path, ca_file: &str) -> Vec<(String, String)> {
    [
        ("SERVER_DATA_DIR", data.display().to_string()),
        ("SERVER_PUBLIC_URL", "http://localhost:8080".to_owned()),
        ("KEYS_PROVIDER", "http".to_owned()),
        ("KEYS_URL", format!("https://127.0.0.1:{}/v1", service.port)),
        ("KEYS_TOKEN", TOKEN.to_owned()),
        ("KEYS_TIMEOUT_SECONDS", "60".to_owned()),
        ("KEYS_CA_FILE", ca_file.to_owned()),
    ]
    .map(|(name, value)| (format!("BULKHEAD_{name}"), value))
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_service_over_tls_is_only_asked_if_the_right_authority_vouches_for_it() {
    let (ours, other) = (Authority::new(), Authority::new());
    let service = ours.service();
    let directory = tempfile::tempdir().unwrap();
    let start = async |data: &str, ca_file: &str| {
        let settings = secured(&service, &directory.path().join(data), ca_file);
        App::start(Config::load(None, settings.into_iter()).unwrap(), Clock::system()).await
    };
    // Another authority, and those of the system, who know nothing of ours: nothing is sent, and nothing is served.
    for (data, ca_file) in [("other", other.file()), ("system", String::new())] {
        let refused = start(data, &ca_file).await.err().expect("it has started");
        let why = format!("{refused:?}");
        assert!(why.contains("key_unavailable") || why.contains("KEY_UNAVAILABLE"), "{why}");
        assert!(!why.contains(TOKEN), "{why}");
        assert!(service.is_unasked(), "{data}: a key was sent to whoever answered");
    }
    // No file, and one that is none, are told at the start.
    let nothing = directory.path().join("nothing.pem");
    fs::write(&nothing, "no certificate").unwrap();
    for file in ["/nowhere/ca.pem".to_owned(), nothing.display().to_string()] {
        let refused = start("file", &file).await.err().expect("it has started");
        assert!(format!("{refused:?}").contains("keys.ca_file"), "{refused:?}");
    }
    let app = start("right", &ours.file()).await.unwrap();
    assert!(service.count("wrap") >= 1 && service.count("unwrap") >= 1);
    app.stop().await;
    // What was wrapped is not had by whoever trusts somebody else.
    let refused = start("right", &other.file()).await.err().expect("it has started");
    assert!(!format!("{refused:?}").contains(TOKEN));
    start("right", &ours.file()).await.unwrap().stop().await;
}

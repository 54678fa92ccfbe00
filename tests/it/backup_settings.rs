//! Settings of the backup that cannot work are told by `config check` and by a start alike, before anything is made.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::process::Deployment;

const SECRET: &str = "hunter2-hunter2";

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    const BUCKET: (&str, &str) = ("URL", "s3://bucket/prefix");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("URL", "s3://")], "backup.url"),
        (&[("URL", "s3://Bucket")], "backup.url"),
        (&[("URL", "s3://.../a")], "backup.url"),
        (&[("URL", "s3://bucket/a//b")], "backup.url"),
        (&[("URL", "s3://bucket?region=x")], "backup.url"),
        (&[("URL", "s3://key:hunter2-hunter2@bucket/a")], "backup.url"),
        (&[("URL", "file:///")], "backup.url"),
        (&[("URL", "file:///var/../etc")], "backup.url"),
        (&[("URL", "/var/backups")], "backup.url"),
        (&[BUCKET, ("ENDPOINT", "minio.example.com:9000")], "backup.endpoint"),
        (&[BUCKET, ("ENDPOINT", "ftp://minio.example.com")], "backup.endpoint"),
        (&[BUCKET, ("ENDPOINT", "https://")], "backup.endpoint"),
        (&[BUCKET, ("ENDPOINT", "https://minio example.com")], "backup.endpoint"),
        (&[BUCKET, ("ENDPOINT", "https://id:hunter2-hunter2@minio.example.com")], "backup.endpoint"),
        (&[BUCKET, ("ENDPOINT", "https://minio.example.com/?region=x")], "backup.endpoint"),
        (&[BUCKET, ("REGION", "eu-west-1.example.com/")], "backup.region"),
        (&[BUCKET, ("REGION", "eu west")], "backup.region"),
        (&[BUCKET, ("ACCESS_KEY_ID", "id")], "backup.secret_access_key"),
        (&[BUCKET, ("SECRET_ACCESS_KEY", SECRET)], "backup.secret_access_key"),
        // Sent in a header, a line break would end the process.
        (&[BUCKET, ("ACCESS_KEY_ID", "id\n"), ("SECRET_ACCESS_KEY", SECRET)], "backup.access_key_id"),
        (&[BUCKET, ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "hunter2-hunter2\n")], "backup.secret_access_key"),
    ];
    for (settings, field) in cases {
        let mut deployment = Deployment::new();
        for (name, value) in *settings {
            deployment = deployment.with(&format!("BACKUP_{name}"), value);
        }
        let checked = deployment.json(&["config", "check"]);
        let told = |problems: &Value, key: &str| {
            problems.as_array().into_iter().flatten().any(|one| one[key].as_str().is_some_and(|k| k.starts_with(field)))
        };
        assert!(checked["ok"] == false && told(&checked["problems"], "key"), "{settings:?}: {checked}");
        for command in ["serve", "doctor"] {
            let ran = deployment.run(&["--json", command]);
            assert_eq!(ran.status.code(), Some(1), "{command} {settings:?}: {ran:?}");
            let text = String::from_utf8([ran.stdout, ran.stderr].concat()).unwrap();
            assert!(text.contains(field) && !text.contains("internal_error"), "{command} {settings:?}: {text}");
            assert!(!text.contains(SECRET), "{command} shows a secret: {text}");
            assert!(command != "serve" || text.contains("invalid_configuration"), "{settings:?}: {text}");
        }
        assert!(!format!("{checked}").contains(SECRET), "{checked}");
        assert!(!deployment.data_dir().exists(), "{settings:?}: something was made");
    }
}

#[test]
fn the_doctor_asks_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store_of = |deployment: &Deployment| {
        let report = deployment.json(&["doctor"]);
        let checks = report["checks"].as_array().unwrap().clone();
        let store = checks.into_iter().find(|check| check["check"] == "backup store");
        store.unwrap_or_else(|| panic!("{report}"))
    };
    let url = |name: &str| format!("file://{}", directory.path().join(name).display());
    let deployment = Deployment::new().with("BACKUP_URL", url("replica"));
    assert_eq!(store_of(&deployment)["state"], "ok");
    assert!(!directory.path().join("replica").exists(), "a look has made something");
    deployment.operator_key();
    let ours = store_of(&deployment);
    assert!(ours["state"] == "ok" && ours["detail"].as_str().unwrap().contains("this deployment's"), "{ours}");
    let theirs = store_of(&Deployment::new().with("BACKUP_URL", url("replica")));
    assert!(theirs["state"] == "fail" && theirs["advice"].as_str().unwrap().contains("backup adopt"), "{theirs}");
    fs::write(directory.path().join("file"), "no folder").unwrap();
    let refused = store_of(&Deployment::new().with("BACKUP_URL", url("file")));
    assert!(refused["state"] == "fail" && refused["detail"].as_str().unwrap().contains("backup_refused"), "{refused}");
}

#[test]
fn a_store_that_hangs_or_is_damaged_is_told_and_keeps_nobody() {
    let (deployment, replica) = crate::backup::deployment();
    deployment.operator_key();
    let owner = fs::read_dir(replica.join("owner")).unwrap().next().unwrap().unwrap().path();
    let found = |report: &Value, check: &str| {
        let found = report["checks"].as_array().unwrap().iter().find(|one| one["check"] == check).cloned();
        found.unwrap_or_else(|| panic!("{check}: {report}"))
    };
    let whole = fs::read(&owner).unwrap();
    fs::write(&owner, &whole[..whole.len() / 2]).unwrap();
    let torn = found(&deployment.json(&["doctor"]), "backup store");
    assert!(torn["state"] == "fail" && torn["detail"].as_str().unwrap().contains("backup_damaged"), "{torn}");
    let advice = torn["advice"].as_str().unwrap();
    assert!(advice.contains("whose the store is") && !advice.contains("credentials"), "{torn}");

    // Nobody ever writes into it, so whoever reads it waits: as on a mount of which the server is gone.
    fs::remove_file(&owner).unwrap();
    assert!(Command::new("mkfifo").arg(&owner).status().unwrap().success());
    let report = deployment.json(&["doctor"]);
    assert_eq!(found(&report, "backup store")["state"], "warn", "{report}");
    assert_eq!(found(&report, "data")["state"], "ok", "{report}");
    assert!(found(&report, "backup store")["detail"].as_str().unwrap().contains("does not answer"), "{report}");

    // Back again, and all is as it was.
    fs::remove_file(&owner).unwrap();
    fs::write(&owner, &whole).unwrap();
    let report = deployment.json(&["doctor"]);
    for check in ["backup store", "data"] {
        assert_eq!(found(&report, check)["state"], "ok", "{report}");
    }
}

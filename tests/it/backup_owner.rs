//! Two servers and one store: one of them owns it, and the other one cannot do it harm.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::process::{Deployment, Operator, Server, until};

/// Settings of a store that both are given.
type Settings = [(&'static str, String)];

fn with(mut deployment: Deployment, settings: &Settings) -> Deployment {
    for (name, value) in settings {
        deployment = deployment.with(name, value);
    }
    deployment
}

fn state(operator: &mut Operator) -> Value {
    operator.get("/v1/backup").unwrap().json()
}

fn rename(operator: &mut Operator, organization: &str, name: &str) -> (u16, String) {
    let path = format!("/v1/organizations/{organization}");
    let answer = operator.call("PATCH", &path, &json!({ "name": name })).unwrap();
    (answer.status, if answer.status == 200 { String::new() } else { answer.code() })
}

/// Everything that a start says when it is refused.
fn refusal(deployment: &Deployment) -> String {
    let log = deployment.directory.path().join("refusal.log");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    loop {
        let file = fs::File::create(&log).unwrap();
        let mut command = deployment.command(&["serve"]);
        let mut child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        // One that the store keeps waiting for too long serves, and asks later.
        until("it has asked", || child.try_wait().unwrap().is_some() || said().contains("will be asked later"));
        let is_serving = said().contains("will be asked later");
        let _ = child.kill();
        let ended = child.wait().unwrap();
        if !is_serving {
            assert_eq!(ended.code(), Some(1), "{}", said());
            return said();
        }
    }
}

fn two_servers(settings: &Settings) {
    let first = with(Deployment::new(), settings);
    let key = first.operator_key();
    let server = first.serve();
    let mut operator = Operator::new(&server, &key);
    let id = operator.organization("acme");
    let path = format!("/v1/organizations/{id}");
    let set = operator.call("PATCH", &path, &json!({ "replication": "object" })).unwrap();
    assert_eq!(set.status, 200, "{}", set.text());

    // Another one with the same settings is told whose it is, and what to do.
    let second = with(Deployment::new(), settings);
    let said = refusal(&second);
    assert!(said.contains("belongs to another deployment") && said.contains(&first.url()), "{said}");
    assert!(said.contains("bulkhead backup adopt"), "{said}");
    let command = second.run(&["org", "list"]);
    assert!(!command.status.success(), "a command works with the store of another deployment");
    assert_eq!(rename(&mut operator, &id, "Still ours").0, 200);
    // A restart is no other deployment, and neither is a command on the stopped one's directory.
    server.stop();
    assert_eq!(first.json(&["org", "list"])["data"].as_array().unwrap().len(), 1);
    let server = first.serve();
    let mut operator = Operator::new(&server, &key);
    assert_eq!(rename(&mut operator, &id, "And again").0, 200);

    let asked = second.json(&["backup", "adopt", "--dry-run"]);
    assert_eq!((&asked["before"]["epoch"], &asked["after"]), (&json!(1), &Value::Null), "{asked}");
    assert_eq!(rename(&mut operator, &id, "Nothing was taken").0, 200);
    let adopted = second.json(&["backup", "adopt"]);
    assert_eq!((&adopted["before"]["epoch"], &adopted["after"]["epoch"]), (&json!(1), &json!(2)), "{adopted}");
    // From that moment on the first one acknowledges nothing that would be lost, and says why.
    assert_eq!(rename(&mut operator, &id, "Too late"), (503, "write_not_replicated".to_owned()));
    let told = state(&mut operator)["superseded"].as_str().unwrap().to_owned();
    assert!(told.contains("epoch 2") && told.contains(&second.url()), "{told}");
    assert_eq!(operator.get(&path).unwrap().status, 200);
    let second_key = second.operator_key();
    let successor = second.serve();
    let mut theirs = Operator::new(&successor, &second_key);
    let other = theirs.organization("globex");
    until("the successor ships", || state(&mut theirs)["waiting"] == 0);
    let set = theirs.call("PATCH", &format!("/v1/organizations/{other}"), &json!({ "replication": "object" })).unwrap();
    assert_eq!(set.status, 200, "{}", set.text());
    assert_eq!(state(&mut theirs)["superseded"], Value::Null);
    server.stop();
    assert!(refusal(&first).contains("belongs to another deployment"));
    assert_eq!(rename(&mut theirs, &other, "Unharmed").0, 200);
    successor.stop();
}

#[test]
fn a_folder_has_one_deployment() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}", directory.path().join("replica").display());
    two_servers(&[
        ("BACKUP_URL", url),
        ("BACKUP_DELAY_MILLISECONDS", "20".into()),
        ("BACKUP_CONFIRM_SECONDS", "20".into()),
    ]);
}

#[test]
fn a_bucket_has_one_deployment() {
    let site = crate::replica::support::Site::moto();
    two_servers(&[
        ("BACKUP_URL", "s3://backups/fleet".into()),
        ("BACKUP_ENDPOINT", site.settings.endpoint.clone().unwrap()),
        ("BACKUP_ACCESS_KEY_ID", "id".into()),
        ("BACKUP_SECRET_ACCESS_KEY", "secret".into()),
        ("BACKUP_FORCE_PATH_STYLE", "true".into()),
        ("BACKUP_ALLOW_HTTP", "true".into()),
        ("BACKUP_DELAY_MILLISECONDS", "20".into()),
        ("BACKUP_CONFIRM_SECONDS", "20".into()),
    ]);
}

/// The files of one level, in order.
fn level(copy: &Path, level: u8) -> Vec<PathBuf> {
    let entries = fs::read_dir(copy.join("ltx").join(level.to_string())).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_file_that_is_not_ours_is_never_replaced() {
    let deployment = Deployment::new();
    let replica = deployment.directory.path().join("replica");
    let url = format!("file://{}", replica.display());
    let deployment = deployment.with("BACKUP_URL", url).with("BACKUP_DELAY_MILLISECONDS", 20);
    let key = deployment.operator_key();
    let server: Server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let (id, other) = (operator.organization("acme"), operator.organization("globex"));
    until("it is shipped", || state(&mut operator)["waiting"] == 0);
    let copy_of = |id: &str| replica.join(deployment.file(id).strip_prefix(deployment.data_dir()).unwrap());
    let copy = copy_of(&id);
    until("it has arrived", || !level(&copy, 0).is_empty());
    // What a second server on a copy of this directory would have put there.
    let next = level(&copy, 0).len() + 1;
    let theirs = copy.join("ltx/0").join(format!("{next:016x}-{next:016x}.ltx"));
    fs::write(&theirs, "theirs").unwrap();
    assert_eq!(rename(&mut operator, &id, "Ours").0, 200);
    let backup = format!("/v1/organizations/{id}/backup");
    until("it is told", || operator.get(&backup).unwrap().json()["progress"]["stopped"].is_string());
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
    assert_eq!(rename(&mut operator, &id, "Ours still").0, 200);
    assert_eq!(rename(&mut operator, &other, "Another").0, 200);
    let copies = level(&copy_of(&other), 0).len();
    assert_eq!(rename(&mut operator, &other, "Another again").0, 200);
    until("others go on", || level(&copy_of(&other), 0).len() > copies);
    assert_eq!(level(&copy, 0).last(), Some(&theirs), "something was shipped beside another server");
    // What lies at a store that is new to it says nothing to anybody.
    let standing = deployment.data_dir().join("backup.json");
    until("the store is known", || {
        let known: Value = serde_json::from_slice(&fs::read(&standing).unwrap()).unwrap();
        known["complete"] == true
    });
    server.stop();
    // A restart looks at what is there, and goes on behind it with a whole file.
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    assert_eq!(rename(&mut operator, &id, "Ours again").0, 200);
    until("it goes on", || level(&copy, 0).last() != Some(&theirs));
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
    assert!(operator.get(&backup).unwrap().json()["progress"]["damaged"].is_string());
    server.stop();
}

/// What the operators' log says of stores that were taken over.
fn adoptions(operator: &mut Operator) -> Vec<Value> {
    let log = operator.get("/v1/audit_events?limit=100").unwrap().json();
    let events = log["data"].as_array().unwrap().iter();
    events.filter(|event| event["action"] == "backup.adopted").cloned().collect()
}

#[test]
fn a_store_that_was_taken_over_is_in_the_operators_log_once() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}", directory.path().join("replica").display());
    let settings = [("BACKUP_URL", url.clone()), ("BACKUP_DELAY_MILLISECONDS", "20".to_owned())];
    let first = with(Deployment::new(), &settings);
    first.operator_key();
    // Before there is a catalog, as on a machine that takes the place of one that is lost.
    let second = with(Deployment::new(), &settings);
    let adopted = second.json(&["backup", "adopt"]);
    assert_eq!((&adopted["after"]["epoch"], &adopted["already_ours"]), (&json!(2), &json!(false)), "{adopted}");
    let standing = second.data_dir().join("backup.json");
    let noted = fs::read(&standing).unwrap();
    let key = second.operator_key();
    let server = second.serve();
    let mut operator = Operator::new(&server, &key);
    let told = adoptions(&mut operator);
    assert_eq!(told.len(), 1, "{told:?}");
    let event = &told[0];
    assert_eq!((&event["actor"]["type"], &event["targets"][0]["id"]), (&json!("operator"), &json!(url)), "{event}");
    let metadata = &event["metadata"];
    assert_eq!((&metadata["epoch"], &metadata["epoch_before"]), (&json!(2), &json!(1)), "{event}");
    assert_eq!((&metadata["deployment_before"], metadata["adopted_at"].is_string()), (&json!(first.url()), true));
    server.stop();

    // A start that was killed before it had forgotten it, and a command that was killed before it knew that it was done.
    let noted = String::from_utf8(noted).unwrap();
    assert!(noted.contains("\"done\": true"), "{noted}");
    for again in [noted.clone(), noted.replace("\"done\": true", "\"done\": false")] {
        fs::write(&standing, again).unwrap();
        let server = second.serve();
        let mut operator = Operator::new(&server, &key);
        assert_eq!(adoptions(&mut operator).len(), 1);
        server.stop();
        assert!(!fs::read_to_string(&standing).unwrap().contains("adoptions"));
    }
}

/// A command that wrote down what it was about to do, and was killed before the store knew: the right that the store
/// confirms is the one of before.
#[test]
fn a_take_over_that_came_to_nothing_is_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}", directory.path().join("replica").display());
    let deployment = with(Deployment::new(), &[("BACKUP_URL", url.clone())]);
    let key = deployment.operator_key();
    deployment.serve().stop();
    let path = deployment.data_dir().join("backup.json");
    let mut standing: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let adoption = |id: &str, epoch: u64| {
        json!({
            "id": id, "location": url, "epoch": epoch, "deployment_before": null, "epoch_before": null,
            "at": "2026-01-01T00:00:00Z", "done": false,
        })
    };
    for (id, epoch, times) in [("nothing", 2, 0), ("made up for", 1, 1)] {
        standing["location"] = json!(url);
        standing["adoptions"] = json!([adoption(id, epoch)]);
        fs::write(&path, standing.to_string()).unwrap();
        let server = deployment.serve();
        let told = adoptions(&mut Operator::new(&server, &key));
        assert_eq!(told.len(), times, "{told:?}");
        server.stop();
    }
}

#[test]
fn what_is_ours_already_is_not_taken_over_again() {
    let directory = tempfile::tempdir().unwrap();
    let replica = directory.path().join("replica");
    let settings =
        [("BACKUP_URL", format!("file://{}", replica.display())), ("BACKUP_DELAY_MILLISECONDS", "20".to_owned())];
    let deployment = with(Deployment::new(), &settings);
    let key = deployment.operator_key();
    let standing = fs::read(deployment.data_dir().join("backup.json")).unwrap();
    let answer = deployment.json(&["backup", "adopt"]);
    assert_eq!((&answer["already_ours"], &answer["after"]), (&json!(true), &Value::Null), "{answer}");
    assert_eq!(answer["before"]["epoch"], 1, "{answer}");
    let asked = deployment.json(&["backup", "adopt", "--dry-run"]);
    assert_eq!((&asked["already_ours"], &asked["dry_run"]), (&json!(true), &json!(true)), "{asked}");
    let said = deployment.run(&["backup", "adopt"]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success() && text.contains("this deployment's already") && text.contains("Nothing"), "{text}");
    assert_eq!(fs::read_dir(replica.join("owner")).unwrap().count(), 1, "the epoch was raised");
    assert_eq!(fs::read(deployment.data_dir().join("backup.json")).unwrap(), standing);
    let server = deployment.serve();
    assert!(adoptions(&mut Operator::new(&server, &key)).is_empty());
    // A server that runs is no hindrance to be told so.
    assert_eq!(deployment.json(&["backup", "adopt"])["already_ours"], true);
    server.stop();
}

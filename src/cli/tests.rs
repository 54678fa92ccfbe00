//! What is typed and what is shown; the commands themselves are tested from outside (`tests/it/cli.rs`).

use clap::{CommandFactory, Parser};
use serde_json::json;

use super::args::{AppCommand, Cli, Command, KeyCommand, MemberCommand, OrgCommand};
use super::client::{Client, judge, organization, segment};
use super::doctor::{Report, State, check_data_dir};
use super::failure::Failure;
use super::healthcheck::reachable;
use super::output::{clean, details, rows, table};
use super::password;
use crate::base::Secret;
use crate::config::Config;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn options_may_stand_anywhere() {
    for line in
        ["bulkhead --json member list acme", "bulkhead member --json list acme", "bulkhead member list acme --json"]
    {
        let cli = parse(line).unwrap();
        assert!(cli.options.json, "{line}");
        assert!(matches!(cli.command, Command::Member(MemberCommand::List { org, .. }) if org.org == "acme"));
    }
}

#[test]
fn what_repeats_and_what_belongs_together() {
    let app = parse(
        "bulkhead app create --name Demo --redirect-uri https://a.test/cb --redirect-uri https://b.test/cb --alg ES256",
    );
    let Command::App(AppCommand::Create(app)) = app.unwrap().command else { panic!("not app create") };
    assert_eq!(app.redirect_uris, ["https://a.test/cb", "https://b.test/cb"]);
    assert!(app.alg.is_some_and(|algorithm| algorithm.as_str() == "ES256"));

    let key = parse("bulkhead key create --name ci --scope members:read,members:write --scope audit:read --org acme");
    let Command::Key(KeyCommand::Create { scopes, of, .. }) = key.unwrap().command else { panic!("not key create") };
    assert_eq!(scopes, ["members:read", "members:write", "audit:read"]);
    assert_eq!(of.org.as_deref(), Some("acme"));

    for wrong in [
        "bulkhead",
        "bulkhead org",
        "bulkhead org create",
        "bulkhead org create --name Acme --owner-password-stdin",
        "bulkhead org create --name Acme --owner-password secret",
        "bulkhead org show",
        "bulkhead org suspend acme",
        "bulkhead org list --limit 0",
        "bulkhead app create --name Demo",
        "bulkhead app create --name Demo --redirect-uri https://a.test/cb --alg none",
        "bulkhead key create --name ci",
        "bulkhead nonsense",
    ] {
        assert!(parse(wrong).unwrap_err().use_stderr(), "{wrong}");
    }
}

#[test]
fn no_name_leads_to_another_path() {
    for wrong in ["bulkhead org show .", "bulkhead key list --org ..", "bulkhead key revoke .."] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
    assert!(Cli::try_parse_from(["bulkhead", "org", "show", ""]).is_err());
    assert_eq!(organization("a/../b?c#d", "/members"), "/v1/organizations/a%2F..%2Fb%3Fc%23d/members");
    assert_eq!(segment("org_01-~ü"), "org_01-~%C3%BC");
}

#[test]
fn a_key_travels_encrypted_and_is_not_printed() {
    let remote = |url: &str| parse(&format!("bulkhead --url {url} --api-key bh_sk_abc org list"));
    for good in ["https://id.example.com", "http://localhost:8080", "http://127.0.0.1:8080", "http://[::1]:1"] {
        let cli = remote(good).unwrap();
        assert!(!format!("{cli:?}").contains("bh_sk_abc"), "{good}");
        assert!(matches!(cli.command, Command::Org(OrgCommand::List(_))));
    }
    for bad in ["http://id.example.com", "id.example.com", "ftp://localhost", "nonsense"] {
        assert!(remote(bad).is_err(), "{bad}");
    }
}

#[test]
fn columns_line_up_and_strangers_cannot_steer_the_terminal() {
    let list = json!({ "data": [
        { "slug": "acme", "external_id": null, "roles": ["owner", "admin"], "policy": { "seconds": 60 } },
        { "slug": "north-wind\u{1b}[2J", "external_id": "4711", "roles": [], "policy": { "seconds": 5 } },
    ]});
    let rows = rows(&list, &["slug", "external_id", "roles", "policy.seconds"]);
    assert_eq!(
        table(&["SLUG", "ID", "ROLES", "S"], &rows, "none"),
        "SLUG            ID    ROLES         S\n\
         acme            -     owner, admin  60\n\
         north-wind\u{fffd}[2J  4711  -             5\n"
    );
    assert_eq!(table(&["SLUG"], &[], "There is none."), "There is none.\n");
    assert_eq!(clean("a\u{202e}b\nc"), "a\u{fffd}b\u{fffd}c");
}

#[test]
fn secrets_come_last_with_a_note() {
    let made = json!({
        "object": "application", "client_secret": "bh_cs_1", "id": "app_1", "name": "Demo",
        "policy": { "idle": 1 }, "hosts": [], "last_used_at": null, "has_password": true,
    });
    let text = details(&made);
    assert!(!text.contains("object"), "{text}");
    assert!(text.contains("policy.idle:    1\n") && text.contains("has password:   yes\n"), "{text}");
    let (before, after) = text.split_once("client secret:  bh_cs_1\n").unwrap();
    assert!(before.contains("app_1") && after.contains("shown this once"), "{text}");
    assert!(!details(&json!({ "id": "app_1" })).contains("once"));
    // Keys of metadata come from strangers as well.
    assert_eq!(details(&json!({ "metadata": { "a\u{1b}[2J": "b" } })), "metadata.a\u{fffd}[2J:  b\n");
}

#[test]
fn a_refusal_says_what_which_and_what_to_do() {
    let problem = json!({
        "code": "validation_failed", "detail": "Some values are not acceptable.", "request_id": "req_1",
        "errors": [{ "field": "slug", "code": "invalid", "message": "Use lower-case letters." }],
    });
    let failure = judge(422, problem.to_string().as_bytes()).unwrap_err();
    assert_eq!((failure.status, failure.code()), (422, "validation_failed"));
    let text = failure.text();
    for part in ["Some values are not acceptable. (validation_failed)", "  slug: Use lower-case letters.", "--help"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(failure.document()["error"]["errors"], problem["errors"]);
    assert!(failure.document()["error"]["advice"].is_string());

    let failure = judge(500, br#"{"code":"internal_error","detail":"Oh.","request_id":"req_2"}"#).unwrap_err();
    assert!(failure.text().contains("req_2"));
}

#[test]
fn what_is_not_the_api_is_recognised() {
    assert_eq!(judge(204, b"").unwrap(), serde_json::Value::Null);
    assert_eq!(judge(200, b"{}").unwrap(), json!({}));
    for (status, body) in [(200, "<html>"), (502, "<html>"), (301, ""), (404, ""), (404, "{}")] {
        let failure = judge(status, body.as_bytes()).unwrap_err();
        assert_eq!((failure.status, failure.code()), (status, "unexpected_answer"));
        assert!(failure.text().contains("--url"), "{}", failure.text());
    }
}

#[test]
fn every_problem_of_a_configuration_is_told() {
    let env = [("BULKHEAD_SERVER_LISTEN", "nowhere"), ("BULKHEAD_PASSWORD_MEMORY_KIB", "1")];
    let problems = Config::load(None, env.into_iter().map(|(key, value)| (key.into(), value.into()))).unwrap_err();
    let failure = Failure::configuration(&problems);
    let text = failure.text();
    assert!(text.contains("server.listen") && text.contains("password.memory_kib"), "{text}");
    assert_eq!(failure.document()["error"]["errors"].as_array().unwrap().len(), 2);
}

#[test]
fn a_password_keeps_its_blanks() {
    let read = |bytes: &[u8]| password::read(&mut { bytes }).map(|secret| secret.expose().to_owned());
    assert_eq!(read(b"violet harbour ").unwrap(), "violet harbour ");
    assert_eq!(read(b"violet\r\n").unwrap(), "violet");
    assert_eq!(read(b" a\n\n").unwrap(), " a\n");
    for wrong in [b"".as_slice(), b"\n", b"\xff\xfe", &[b'a'; 5000]] {
        assert_eq!(read(wrong).unwrap_err().code(), "usage");
    }
}

#[test]
fn a_server_that_listens_everywhere_is_asked_here() {
    for (listen, asked) in [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80")] {
        assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
    }
}

#[test]
fn the_doctor_looks_at_rights() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    for (mode, state) in [(0o700, State::Ok), (0o755, State::Warn), (0o770, State::Fail)] {
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let mut report = Report::default();
        assert!(check_data_dir(directory.path(), &mut report));
        assert_eq!(report.0[0].state, state, "{mode:o}");
        assert_eq!(report.document()["ok"], state != State::Fail);
    }
    let mut report = Report::default();
    assert!(!check_data_dir(&directory.path().join("none"), &mut report));
    assert!(report.text().starts_with("warn"), "{}", report.text());
}

/// An API with a list of 250 numbers, that wants a key and leads elsewhere at one address.
async fn numbers() -> String {
    use axum::extract::Query;
    use axum::http::{HeaderMap, StatusCode};
    use axum::response::{IntoResponse, Redirect, Response};
    use axum::routing::get;
    use std::collections::HashMap;

    let list = async |headers: HeaderMap, Query(query): Query<HashMap<String, u64>>| -> Response {
        if headers["authorization"] != "Bearer bh_sk_1" {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        let (from, limit) = (query.get("after").copied().unwrap_or(0), query["limit"]);
        assert!((1..=100).contains(&limit));
        let data: Vec<u64> = (from + 1..=(from + limit).min(250)).collect();
        let after = data.last().filter(|last| **last < 250).map(ToString::to_string);
        axum::Json(json!({ "data": data, "list_metadata": { "before": null, "after": after } })).into_response()
    };
    let router = axum::Router::new()
        .route("/v1/numbers", get(list))
        .route("/v1/elsewhere", get(async || Redirect::temporary("/v1/numbers")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await });
    origin
}

#[tokio::test]
async fn lists_are_followed_to_their_end_or_to_the_limit() {
    let client = Client::remote(&numbers().await, Secret::new("bh_sk_1".into())).unwrap();
    for (limit, count, after) in
        [(None, 250, None), (Some(120), 120, Some("120")), (Some(5), 5, Some("5")), (Some(900), 250, None)]
    {
        let list = client.list("/v1/numbers", limit).await.unwrap();
        let data = list["data"].as_array().unwrap();
        assert_eq!((data.len(), data.last().unwrap()), (count, &json!(count)));
        assert_eq!(list["list_metadata"]["after"].as_str(), after);
    }
}

#[tokio::test]
async fn a_key_is_sent_to_its_address_and_no_other() {
    let origin = numbers().await;
    let client = Client::remote(&origin, Secret::new("bh_sk_1".into())).unwrap();
    assert_eq!(client.get("/v1/elsewhere").await.unwrap_err().status, 307);
    let stranger = Client::remote(&origin, Secret::new("bh_sk_2".into())).unwrap();
    assert_eq!(stranger.get("/v1/numbers?limit=1").await.unwrap_err().status, 401);
    let nowhere = Client::remote("http://127.0.0.1:1", Secret::new("bh_sk_1".into())).unwrap();
    let failure = nowhere.get("/v1/numbers").await.unwrap_err();
    assert_eq!((failure.status, failure.code()), (0, "unreachable"));
}

/// Deleting copies from before, where there are none or where there is no key of theirs any more, is told in words.
#[test]
fn what_is_left_of_before_a_decryption_is_said() {
    let found = json!({"encryption": "columns", "copies_from_before_until": null, "files_from_before": []});
    let told = |is_new, deletes| super::encryption::told("acme", "is a plain file", (is_new, deletes), &found);
    assert_eq!(told(false, false), "acme is a plain file already.\n");
    assert!(told(false, true).contains("Nothing is left of before"), "{}", told(false, true));
    assert!(told(true, true).contains("What was left of before is deleted"), "{}", told(true, true));
    assert_eq!(told(true, false), "acme is a plain file.\n");
    let kept = json!({"encryption": "columns", "copies_from_before_until": "2026-11-29T00:00:00Z",
                      "files_from_before": ["broken-1/db.sqlite"]});
    let said = super::encryption::told("acme", "is a plain file", (true, false), &kept);
    for part in ["until 2026-11-29", "bulkhead org decrypt acme --delete-copies", "broken-1/db.sqlite"] {
        assert!(said.contains(part), "{said}");
    }
}

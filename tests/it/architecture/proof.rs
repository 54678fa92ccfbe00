//! The rules against snippets that break them, and against snippets that do not.

use super::rules::check;
use super::source::Source;

/// The broken rules, as `line: rule`.
fn broken(path: &str, text: &str) -> Vec<String> {
    check(&Source::read(path, text)).iter().map(|found| format!("{}: {}", found.line, found.rule)).collect()
}

#[track_caller]
fn refuses(path: &str, text: &str, rule: &str) {
    let found = broken(path, text);
    assert!(found.iter().any(|found| found.contains(rule)), "{path}: {text}\nfound {found:?}, not {rule}");
}

#[track_caller]
fn accepts(path: &str, text: &str) {
    assert_eq!(broken(path, text), Vec::<String>::new(), "{path}: {text}");
}

#[test]
fn floors() {
    refuses("src/base/id.rs", "use crate::web::Page;", "base (floor 0) may not import web (floor 3)");
    refuses("src/web/form.rs", "fn f(m: &crate::features::member::Member) {}", "imports point down");
    refuses("src/crypto/seal.rs", "use crate::sqlite::Read;", "imports point down");
    refuses("src/catalog/mod.rs", "use crate::tenants::Tenants;", "catalog (floor 2) may not import tenants");
    refuses("src/keyring/mod.rs", "use crate::catalog::Directory;", "imports point down");
    refuses("src/router.rs", "use crate::app::App;", "imports point down");
    refuses("src/jobs/mod.rs", "use super::router;", "imports point down");
    refuses("src/features/member/mod.rs", "use crate::config::Config;", "may not import config");
    refuses("src/sqlite/open.rs", "use crate::config::Files;", "may not import config");
    refuses("src/attic/mod.rs", "use crate::base::Id;", "attic has no floor");
    refuses("src/web/mod.rs", "use crate::attic::Box;", "attic has no floor");
    accepts("src/web/form.rs", "use crate::{base::{Secret, Email as Mail}, tenants::Tenant};");
    accepts("src/app.rs", "use crate::{config::Config, router};");
    accepts("src/web/mod.rs", "mod form; pub use form::Form; use self::form::Csrf; use super::base::Id;");
}

#[test]
fn tenants_see_only_a_route_of_the_catalog() {
    refuses("src/tenants/open.rs", "use crate::catalog::Directory;", "nothing of the catalog");
    refuses("src/tenants/open.rs", "use crate::catalog::{TenantRoute, Directory};", "nothing of the catalog");
    refuses("src/tenants/open.rs", "use crate::catalog::*;", "nothing of the catalog");
    refuses("src/tenants/open.rs", "use crate::catalog;", "nothing of the catalog");
    accepts("src/tenants/open.rs", "use crate::catalog::{TenantRoute, route::Placement};");
}

#[test]
fn crates_have_their_rooms() {
    refuses("src/features/member/store.rs", "use rusqlite::Connection;", "only src/sqlite");
    refuses("src/tenants/mod.rs", "fn f() { r2d2::Pool::builder(); }", "only src/sqlite");
    refuses("src/features/member/mod.rs", "use axum::Json;", "name axum");
    refuses("src/features/member/rules.rs", "use axum::Json;", "name axum");
    refuses("src/catalog/mod.rs", "use axum_extra::extract::CookieJar;", "name axum");
    refuses("src/features/password/mod.rs", "use argon2::Argon2;", "only src/crypto");
    refuses("src/features/recovery/mod.rs", "lettre::Message::builder()", "only src/outbound");
    refuses("src/features/oauth/http.rs", "reqwest::Client::new()", "src/outbound");
    accepts("src/sqlite/open.rs", "use rusqlite::{Connection, params};");
    accepts("src/features/member/http.rs", "use axum::extract::State;");
    accepts("src/features/oauth/pages/consent.rs", "use axum::response::Html;");
}

#[test]
fn the_parts_of_a_feature() {
    refuses("src/features/member/mod.rs", "use crate::web::Form;", "a feature's rules may import");
    refuses("src/features/member/mod.rs", "use crate::catalog::Directory;", "not catalog");
    refuses("src/features/member/store.rs", "use crate::tenants::Tenant;", "a feature's store");
    refuses("src/features/member/store.rs", "use crate::crypto::random;", "a feature's store");
    refuses("src/features/member/http.rs", "use crate::sqlite::Read;", "(translation)");
    refuses("src/features/member/http.rs", "use super::store;", "never a store");
    refuses("src/features/member/http.rs", "fn f() { super::store::find(); }", "never a store");
    refuses("src/features/member/mod.rs", "use self::http::Answer;", "does not know the pages");
    accepts("src/features/member/mod.rs", "mod store; use crate::{base::Email, sqlite::{Read, TenantDb}};");
    accepts("src/features/member/store.rs", "use super::Member; use crate::sqlite::{Read, params};");
    accepts("src/features/member/http.rs", "use super::{Member, create}; use crate::web::Json;");
}

#[test]
fn the_order_of_features() {
    refuses("src/features/member/mod.rs", "use crate::features::oauth;", "oauth comes after");
    refuses("src/features/member/mod.rs", "use super::session::Session;", "session comes after");
    refuses("src/features/member/http.rs", "use crate::features::{audit, session};", "session comes after");
    refuses("src/features/session/mod.rs", "crate::features::member::store::find(db)", "may not reach into");
    refuses("src/features/session/store.rs", "use crate::features::member::Member;", "its own feature's tables");
    refuses("src/features/session/mod.rs", "use crate::features::member::http::Answer;", "may not know the pages");
    refuses("src/features/karaoke/mod.rs", "use crate::features::member;", "no place in the order");
    accepts("src/features/session/mod.rs", "use crate::features::{audit, member::Member};");
    accepts("src/features/password/http.rs", "use crate::features::session::http::respond;");
    accepts("src/features/mod.rs", "pub mod member;\npub mod oauth;");
}

#[test]
fn sql_stays_where_it_belongs() {
    refuses("src/features/member/mod.rs", "use crate::sqlite::{Read, params};", "SQL belongs");
    refuses("src/features/member/mod.rs", "db.one(\"SELECT id FROM member\", ())", "SQL belongs");
    refuses("src/features/member/http.rs", "let q = r#\"\n  DELETE FROM member\"#;", "SQL belongs");
    refuses("src/web/mod.rs", "f(sqlite::params![1])", "SQL belongs");
    accepts("src/features/member/store.rs", "db.one(\"SELECT id FROM member\", params![1])");
    accepts("src/web/mod.rs", "page(\"Select an organization\")");
}

#[test]
fn lines_are_named_and_what_is_not_code_is_left_alone() {
    let text = "//! crate::web\n/* use axum::Json; */\nlet a = \"use axum::Json;\";\nlet b = '\"';\nlet c = '\\'';\n\
                fn f<'a>(x: &'a str) {}\nuse axum::Json;\n";
    assert_eq!(
        broken("src/base/id.rs", text),
        ["7: only features/*/{http,pages,api}.rs, web, router, app, cli and jobs name axum"]
    );
    let tested = "use crate::base::Id;\n#[cfg(test)]\nmod tests {\n    use crate::web::Form;\n    fn f() { {} }\n}\n";
    accepts("src/base/id.rs", tested);
    refuses("src/base/id.rs", &format!("{tested}use crate::web::Form;"), "7: base");
    refuses("src/base/id.rs", "#[cfg(test)]\nmod tests;\nuse crate::web::Form;", "3: base");
    accepts("src/base/tests.rs", "use crate::web::Form;");
}

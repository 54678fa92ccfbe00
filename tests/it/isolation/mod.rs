//! Nobody gets at another organization: one walk over everything that is mounted.
//!
//! `table.rs` lists every operation and every page. A route that is not in it fails here, so that nobody can add
//! one without saying whose it is; what is in it is called with no credential, with too little, with another
//! organization's credentials and with another organization's ids.

mod api;
mod copied_rows;
mod credentials;
mod erased;
mod pages;
mod resolution;
mod table;

use bulkhead::base::{ApiKeyId, Credential, CredentialKind, ExportId, MemberId, OrganizationId, SessionId};
use serde_json::{Value, json};

use crate::world::{Answer, PASSWORD, Registered, World};

/// In every text of the other organization: names, addresses, titles, metadata. It may be in no answer to
/// anybody else.
const MARK: &str = "zephyrglobex";

/// Two organizations, an app, and what each of the two has.
struct Scene {
    world: World,
    app: Registered,
    acme: Side,
    other: Side,
}

struct Side {
    slug: &'static str,
    id: String,
    /// A key with every scope that such a key can have.
    key: String,
    key_id: String,
    email: String,
    member: String,
    session: String,
    session_token: String,
    custom_host: String,
    signing_key: String,
    export: String,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let app = world.application().await;
        let (acme, other) = (Side::new(&world, "acme").await, Side::new(&world, MARK).await);
        Self { world, app, acme, other }
    }
}

impl Side {
    async fn new(world: &World, slug: &'static str) -> Self {
        let operator = world.operator();
        let body = json!({
            "name": format!("{slug} Holding"), "slug": slug, "external_id": format!("ext-{slug}"),
            "metadata": {"note": slug},
            "owner": {"email": format!("owner@{slug}.test"), "name": format!("Owner {slug}"), "password": PASSWORD},
        });
        let id = operator.post("/v1/organizations", &body).await.expect(201).id();
        let at = format!("/v1/organizations/{id}");
        let custom_host = format!("login.{slug}.test");
        operator.put(&format!("{at}/hosts/{custom_host}"), &json!({})).await.expect(204);
        let email = format!("ada@{slug}.test");
        let body = json!({
            "email": email, "name": format!("Ada {slug}"), "username": format!("ada-{slug}"),
            "title": format!("Head of {slug}"), "password": PASSWORD,
        });
        let member = operator.post(&format!("{at}/members"), &body).await.expect(201).id();
        let body = json!({"name": format!("key of {slug}"), "scopes": ["*"]});
        let made = operator.post(&format!("{at}/api_keys"), &body).await.expect(201);
        let mut browser = world.browser(slug);
        browser.user_agent = format!("{slug}-browser");
        browser.sign_in(&email, PASSWORD).await.expect(303);
        let session_token = browser.session().unwrap();
        let found =
            operator.post(&format!("{at}/sessions/authenticate"), &json!({"session_token": session_token})).await;
        let export = crate::export::ready(&operator, slug, &crate::export::omit()).await;
        let keys = operator.get(&format!("{at}/signing_keys")).await.expect(200).json();
        Self {
            slug,
            key: made.json()["secret"].as_str().unwrap().to_owned(),
            key_id: made.id(),
            email,
            member,
            session: found.expect(200).id(),
            session_token,
            custom_host,
            signing_key: keys["data"][0]["id"].as_str().unwrap().to_owned(),
            export: export["id"].as_str().unwrap().to_owned(),
            id,
        }
    }

    /// The path of an operation with this organization and these objects in it.
    fn fill(&self, text: &str, of: &Self) -> String {
        let organization = text.replace("{org}", &self.id);
        organization
            .replace("{member}", &of.member)
            .replace("{session}", &of.session)
            .replace("{key}", &of.key_id)
            .replace("{host}", &of.custom_host)
            .replace("{token}", &of.session_token)
            .replace("{export}", &of.export)
    }

    /// Well-formed names of things that are nowhere.
    fn nowhere(like: &Self) -> Self {
        let organization = OrganizationId::from_bits(0x0193_0000_0000_7000_8000_0000_0000_0001);
        let mint = |kind| Credential::mint(kind, Some(organization), [7; 32]).expose().to_owned();
        Self {
            slug: "nobody-here",
            id: organization.to_string(),
            key: mint(CredentialKind::ApiKey),
            key_id: ApiKeyId::from_bits(2).to_string(),
            email: "nobody@nowhere.test".to_owned(),
            member: MemberId::from_bits(3).to_string(),
            session: SessionId::from_bits(4).to_string(),
            session_token: mint(CredentialKind::Session),
            custom_host: "login.nowhere.test".to_owned(),
            signing_key: like.signing_key.replace(|c: char| c.is_ascii_digit(), "1"),
            export: ExportId::from_bits(5).to_string(),
        }
    }
}

/// No trace of the other organization is in an answer.
#[track_caller]
fn assert_unmarked(answer: &Answer) {
    assert!(!answer.mentions(MARK), "tells of the other organization: {answer:?}");
}

fn body_of(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| serde_json::from_str(text).unwrap())
}

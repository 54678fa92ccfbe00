//! The rules, against a file of their own.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use super::exchange::is_verifier_of;
use super::*;
use crate::base::{Clock, Email, ExternalId, OrganizationId, Replication, Slug, codes};
use crate::catalog::{Catalog, Directory, NewEntry, organizations};
use crate::crypto::{Algorithm, DataKey, MasterKey, SigningKey, TokenBox, signing};
use crate::features::application::{Book, Type};
use crate::features::member::{self, NewMember, Role};
use crate::features::organization::{self, Organization, Policy, Rules};
use crate::features::session::End;
use crate::keyring::Keyring;
use crate::tenants::{Limits, Tenant, Tenants};

pub(super) const START: Timestamp = Timestamp::from_millis(1_764_000_000_000);
pub(super) const REDIRECT: &str = "https://app.example.com/cb";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
/// Of the verifier (RFC 7636 appendix B).
pub(super) const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
pub(super) const HOUR: Duration = Duration::from_secs(3600);
const RULES: Rules = Rules {
    session_idle: Duration::from_secs(86_400),
    session_absolute: Duration::from_secs(604_800),
    lockout_attempts: 5,
    lockout: Duration::from_secs(600),
};

fn application(id: u128) -> Application {
    Application {
        id: ApplicationId::from_bits(id),
        name: "App".into(),
        r#type: Type::Public,
        secret_hash: None,
        redirect_uris: vec![REDIRECT.into()],
        post_logout_redirect_uris: vec!["https://app.example.com/bye".into()],
        id_token_signed_response_alg: Algorithm::ES256,
        deleted: false,
        created_at: START,
        updated_at: START,
    }
}

pub(super) fn book() -> Book {
    let book = Book::default();
    book.put(application(1));
    book
}

pub(super) fn organization() -> OrganizationId {
    OrganizationId::from_bits(7)
}

/// A complete request, with some parameters changed; `None` leaves one out.
pub(super) fn parameters(changed: &[(&str, Option<&str>)]) -> Parameters {
    let id = ApplicationId::from_bits(1).to_string();
    let mut all: HashMap<&str, &str> = HashMap::from([
        ("client_id", id.as_str()),
        ("redirect_uri", REDIRECT),
        ("response_type", "code"),
        ("scope", "openid email offline_access unheard-of"),
        ("state", "st"),
        ("nonce", "no"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ]);
    for (name, value) in changed {
        match value {
            Some(value) => all.insert(name, value),
            None => all.remove(name),
        };
    }
    Parameters::new(all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

pub(super) fn asked(changed: &[(&str, Option<&str>)]) -> Result<AuthorizationRequest, Refusal> {
    let parameters = parameters(changed);
    let trusted = trust(&parameters, &book()).unwrap();
    asked_for(&parameters, &trusted, Issuer::Organization, START).map(|asked| asked.pin(organization()))
}

proptest! {
    #[test]
    fn only_the_one_verifier_fits(other in "[A-Za-z0-9._~-]{43,128}") {
        prop_assert!(is_verifier_of(VERIFIER, CHALLENGE));
        prop_assert_eq!(is_verifier_of(&other, CHALLENGE), other == VERIFIER);
    }

    #[test]
    fn narrowing_never_adds(asked in "[a-z_ ]{0,30}") {
        let granted = Scopes::parse("openid email");
        if let Some(narrowed) = granted.narrowed(&asked) {
            prop_assert!(!narrowed.has(Scope::Profile) && !narrowed.has(Scope::OfflineAccess));
        }
        prop_assert!(granted.narrowed(&(asked + " profile")).is_none());
    }
}

/// One organization with one member who is signed in, and a clock in the hand.
struct Scene {
    tenant: Tenant,
    clock: Clock,
    member: MemberId,
    session: SessionId,
    _folder: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(START);
        let tenant = open_tenant(folder.path(), &clock).await;
        let new = NewMember {
            email: Email::parse("ada@example.com").unwrap(),
            name: Some("Ada".into()),
            username: None,
            phone: None,
            title: None,
            roles: vec![Role::Owner],
            password_hash: Some("x".into()),
            email_verified: true,
        };
        let sign_in = |db: &Write<'_, TenantDb>| {
            let member = member::create(db, new)?;
            let (session, _) = session::start(db, &tenant, &member, &["pwd"], &RULES, &By::system())?;
            Ok((member.id, session.id))
        };
        let (member, session) = tenant.write(sign_in).await.unwrap();
        Self { tenant, clock, member, session, _folder: folder }
    }

    async fn code(&self) -> Credential {
        let request = asked(&[]).unwrap();
        let work = |db: &Write<'_, TenantDb>| {
            authorize(db, &request, self.session, &application(1), Duration::from_secs(60), &By::system())
        };
        self.tenant.write(work).await.unwrap().unwrap()
    }

    async fn redeem_as(&self, client: u128, issuer: Issuer, code: &Credential, verifier: &str) -> Exchange {
        let application = application(client);
        let party = Party { application: &application, issuer, organization: organization() };
        self.tenant.write(|db| redeem(db, &party, code, REDIRECT, verifier, &By::system())).await.unwrap()
    }

    async fn redeem(&self, code: &Credential) -> Exchange {
        self.redeem_as(1, Issuer::Organization, code, VERIFIER).await
    }

    async fn refresh_as(&self, client: u128, token: &Credential, scope: Option<&str>) -> Exchange {
        let application = application(client);
        let party = Party { application: &application, issuer: Issuer::Organization, organization: organization() };
        self.tenant.write(|db| refresh(db, &party, token, scope, &RULES, &By::system())).await.unwrap()
    }

    async fn is_live(&self, claims: &AccessClaims) -> bool {
        self.tenant.read(|db| live(db, claims, Issuer::Organization)).await.unwrap().is_some()
    }

    async fn actions(&self) -> Vec<String> {
        let mut actions = Vec::new();
        self.tenant
            .read(|db| {
                audit::each(db, |event| {
                    actions.push(format!("{} {}", event.action, event.outcome));
                    Ok(())
                })
            })
            .await
            .unwrap();
        actions
    }
}

async fn open_tenant(folder: &std::path::Path, clock: &Clock) -> Tenant {
    let keyring = Keyring::open(folder, MasterKey::generate(), clock.clone(), Default::default()).unwrap();
    let catalog = Catalog::open(folder, &DataKey::generate(), clock.clone(), Default::default()).unwrap();
    let limits = Limits {
        open: 2,
        bytes: 1 << 30,
        descriptors: 100,
        opening: 1,
        readers: 2,
        file_bytes: 0,
        replication: Replication::Local,
        shares: crate::fairness::Values::default(),
    };
    let tenants = Tenants::new(folder, keyring, limits, clock.clone(), |_, _| {}).unwrap();
    let (id, slug) = (organization(), Slug::parse("acme").unwrap());
    let entry = NewEntry { id, slug: slug.clone(), external_id: None::<ExternalId>, schema_version: 1, founder: None };
    let claim = catalog.write(|db| organizations::claim(db, &entry)).await.unwrap();
    let row = Organization {
        id,
        name: "Acme".into(),
        slug,
        external_id: None,
        hosts: Vec::new(),
        former_names: Vec::new(),
        quotas: organization::Quotas::default(),
        limits: crate::fairness::Plan::default(),
        replication: None,
        suspended: false,
        metadata: Default::default(),
        accent: None,
        policy: Policy::default(),
        created_at: START,
        updated_at: START,
    };
    tenants.create(&claim, |db, _| organization::insert(db, &row)).await.unwrap();
    catalog.write(|db| organizations::activate(db, id)).await.unwrap();
    let route = Directory::new(catalog).by_id(id).await.unwrap();
    tenants.open(&route).await.unwrap()
}

fn speaker(slug: &Slug) -> Speaker<'_> {
    let url = "https://acme.example.com";
    Speaker { issuer: Issuer::Organization, url, organization: organization(), slug }
}

#[track_caller]
fn granted(exchange: Exchange) -> Box<Granted> {
    match exchange {
        Exchange::Granted(granted) => granted,
        other => panic!("refused: {other:?}"),
    }
}

fn refused(exchange: Exchange) -> Why {
    match exchange {
        Exchange::Refused(refused) => refused.why,
        other => panic!("not refused: {other:?}"),
    }
}

fn claims(granted: &Granted) -> AccessClaims {
    AccessClaims::new(&speaker(&Slug::parse("acme").unwrap()), granted, Duration::from_secs(300))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_used_twice_takes_back_what_it_gave() {
    let scene = Scene::new().await;
    let code = scene.code().await;
    let first = granted(scene.redeem(&code).await);
    assert_eq!(first.scopes.to_string(), "openid email offline_access");
    assert!(scene.is_live(&claims(&first)).await);
    assert!(matches!(scene.redeem(&code).await, Exchange::Refused(_)));
    assert!(!scene.is_live(&claims(&first)).await);
    let token = first.refresh_token.unwrap();
    assert!(matches!(scene.refresh_as(1, &token, None).await, Exchange::Refused(_)));
    assert!(scene.actions().await.contains(&"grant.revoked success".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_for_its_application_issuer_proof_and_minute() {
    let scene = Scene::new().await;
    let code = scene.code().await;
    let other_verifier = "v".repeat(43);
    for (client, issuer, verifier, why) in [
        (2, Issuer::Organization, VERIFIER, Why::OtherApplication),
        (1, Issuer::Deployment, VERIFIER, Why::OtherIssuer),
        (1, Issuer::Organization, &*other_verifier, Why::ProofMismatch),
    ] {
        assert_eq!(refused(scene.redeem_as(client, issuer, &code, verifier).await), why);
    }
    granted(scene.redeem(&code).await);
    let late = scene.code().await;
    scene.clock.advance(Duration::from_secs(60));
    assert_eq!(refused(scene.redeem(&late).await), Why::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_used_twice_ends_the_family() {
    let scene = Scene::new().await;
    let first = granted(scene.redeem(&scene.code().await).await).refresh_token.unwrap();
    assert!(matches!(scene.refresh_as(2, &first, None).await, Exchange::Refused(_)));
    assert!(matches!(scene.refresh_as(1, &first, Some("openid profile")).await, Exchange::ScopeExceeded));
    let second = granted(scene.refresh_as(1, &first, Some("openid")).await);
    assert_eq!((second.scopes.to_string().as_str(), &second.nonce), ("openid", &None));
    let third = granted(scene.refresh_as(1, second.refresh_token.as_ref().unwrap(), None).await);
    assert_eq!(third.scopes.to_string(), "openid email offline_access");
    assert!(matches!(scene.refresh_as(1, &first, None).await, Exchange::Refused(_)));
    assert!(matches!(scene.refresh_as(1, third.refresh_token.as_ref().unwrap(), None).await, Exchange::Refused(_)));
    assert!(!scene.is_live(&claims(&third)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_the_session_or_the_member() {
    let scene = Scene::new().await;
    let first = granted(scene.redeem(&scene.code().await).await);
    let (claims, token) = (claims(&first), first.refresh_token.unwrap());
    let end = |db: &Write<'_, TenantDb>| session::end(db, scene.session, End::SignedOut, &By::system());
    scene.tenant.write(end).await.unwrap();
    assert!(!scene.is_live(&claims).await);
    assert!(matches!(scene.refresh_as(1, &token, None).await, Exchange::Refused(_)));

    let scene = Scene::new().await;
    let (code, unused) = (scene.code().await, scene.code().await);
    let claims = self::claims(&granted(scene.redeem(&code).await));
    let deactivate = |db: &Write<'_, TenantDb>| {
        let mut member = member::require(db, scene.member)?;
        member.status = member::Status::Inactive;
        member::update(db, &member)
    };
    scene.tenant.write(deactivate).await.unwrap();
    assert!(!scene.is_live(&claims).await);
    assert!(matches!(scene.redeem(&unused).await, Exchange::Refused(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_is_a_sign_of_life() {
    let scene = Scene::new().await;
    let mut token = granted(scene.redeem(&scene.code().await).await).refresh_token.unwrap();
    for _ in 0..6 {
        scene.clock.advance(Duration::from_secs(80_000));
        token = granted(scene.refresh_as(1, &token, None).await).refresh_token.unwrap();
    }
    scene.clock.advance(Duration::from_secs(200_000));
    assert!(matches!(scene.refresh_as(1, &token, None).await, Exchange::Refused(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_is_the_owners() {
    let scene = Scene::new().await;
    let one = granted(scene.redeem(&scene.code().await).await);
    let (first, second) = (claims(&one), claims(&one));
    let token = one.refresh_token.unwrap();
    let (owner, thief) = (application(1), application(2));
    for (application, left) in [(&thief, true), (&owner, false)] {
        let party = Party { application, issuer: Issuer::Organization, organization: organization() };
        let work = |db: &Write<'_, TenantDb>| revoke_access_token(db, &first, &party, &By::system());
        scene.tenant.write(work).await.unwrap();
        assert_eq!(scene.is_live(&first).await, left);
        assert!(scene.is_live(&second).await, "only the one token");
    }
    for (application, left) in [(&thief, true), (&owner, false)] {
        let party = Party { application, issuer: Issuer::Organization, organization: organization() };
        let work = |db: &Write<'_, TenantDb>| revoke_refresh_token(db, &token, &party, &By::system());
        scene.tenant.write(work).await.unwrap();
        assert_eq!(scene.is_live(&second).await, left);
        let known = scene.tenant.read(|db| live_refresh_token(db, &token, &party)).await.unwrap();
        assert!(known.is_none());
    }
    scene.clock.advance(Duration::from_secs(301));
    let kept = |db: &Read<'_, TenantDb>| db.number("SELECT count(*) FROM revoked_access_token", []);
    assert_eq!(scene.tenant.read(kept).await.unwrap(), 1);
    scene.tenant.write(forget_old).await.unwrap();
    assert_eq!(scene.tenant.read(kept).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_whom() {
    let scene = Scene::new().await;
    let signed_in = scene.tenant.read(|db| session::find_by_id(db, scene.session)).await.unwrap();
    let somebody = signed_in.as_ref();
    let later = |changed: &[(&str, Option<&str>)]| {
        let parameters = parameters(changed);
        let trusted = trust(&parameters, &book()).unwrap();
        let now = START.plus(Duration::from_secs(100));
        asked_for(&parameters, &trusted, Issuer::Organization, now).unwrap().pin(organization())
    };
    assert_eq!(later(&[]).next(None), Step::SignIn);
    assert_eq!(later(&[]).next(somebody), Step::Issue);
    let silent = later(&[("prompt", Some("none"))]);
    assert_eq!(silent.next(None), Step::Refuse(Refusal::LOGIN_REQUIRED));
    assert_eq!(silent.next(somebody), Step::Issue);
    assert_eq!(later(&[("prompt", Some("login"))]).next(somebody), Step::SignIn);
    assert_eq!(later(&[("max_age", Some("0"))]).next(somebody), Step::SignIn);
    assert_eq!(later(&[("max_age", Some("99"))]).next(somebody), Step::SignIn);
    assert_eq!(later(&[("max_age", Some("100"))]).next(somebody), Step::Issue);
    for prompt in ["consent", "select_account"] {
        let request = later(&[("prompt", Some(prompt))]);
        assert_eq!(request.next(somebody), Step::Ask);
        assert_eq!(request.clone().shown_to(SessionId::from_bits(1)).next(somebody), Step::Ask, "somebody else");
        let agreed = request.clone().shown_to(scene.session);
        assert_eq!(agreed.next(somebody), Step::Issue);
        assert_eq!(agreed.clone().not_answered().next(somebody), Step::Ask);
        assert_eq!(agreed.with_another_account(START.plus(HOUR)).next(somebody), Step::SignIn);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_say_who_and_hold_for_one_issuer() {
    let scene = Scene::new().await;
    let granted = granted(scene.redeem(&scene.code().await).await);
    let new = signing::generate(Algorithm::ES256).unwrap();
    let key = SigningKey::load("sig_1", Algorithm::ES256, &new.pkcs8, &new.public_jwk).unwrap();
    let slug = Slug::parse("acme").unwrap();
    let minutes = Duration::from_secs(300);
    let tokens = Tokens::sign(&speaker(&slug), &granted, &key, minutes, minutes).unwrap();
    let tokens = serde_json::to_value(&tokens).unwrap();
    assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&"Bearer".into(), &300.into()));
    let id_token: Value = signing::verify(tokens["id_token"].as_str().unwrap(), &key.public(), "JWT").unwrap();
    for (name, value) in [
        ("iss", Value::from("https://acme.example.com")),
        ("sub", scene.member.to_string().into()),
        ("aud", ApplicationId::from_bits(1).to_string().into()),
        ("nonce", "no".into()),
        ("sid", scene.session.to_string().into()),
        ("org_id", organization().to_string().into()),
        ("org_slug", "acme".into()),
        ("roles", vec!["owner"].into()),
        ("amr", vec!["pwd"].into()),
        ("email", "ada@example.com".into()),
        ("email_verified", true.into()),
        ("auth_time", START.seconds().into()),
    ] {
        assert_eq!(id_token[name], value, "{name}");
    }
    assert!(id_token.get("name").is_none(), "profile was not asked for");
    let access = tokens["access_token"].as_str().unwrap();
    assert!(signing::verify::<Value>(access, &key.public(), "JWT").is_none());
    let claims: AccessClaims = signing::verify(access, &key.public(), "at+jwt").unwrap();
    assert!(scene.is_live(&claims).await);
    let elsewhere = scene.tenant.read(|db| live(db, &claims, Issuer::Deployment)).await.unwrap();
    assert!(elsewhere.is_none());
    for change in [
        |claims: &mut AccessClaims| claims.client_id = ApplicationId::from_bits(2),
        |claims: &mut AccessClaims| claims.sub = MemberId::from_bits(2),
        |claims: &mut AccessClaims| claims.sid = SessionId::from_bits(2),
        |claims: &mut AccessClaims| claims.jti = "no grant".into(),
    ] {
        let mut changed = claims.clone();
        change(&mut changed);
        assert!(!scene.is_live(&changed).await);
    }
}

#[test]
fn a_sign_out_returns_to_registered_addresses_only() {
    let request = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        SignOutRequest::new(&Parameters::new(pairs), None, &book(), organization(), START)
    };
    let id = ApplicationId::from_bits(1).to_string();
    let bye = ("post_logout_redirect_uri", "https://app.example.com/bye");
    let request_out = request(&[("client_id", &id), bye, ("state", "a b")]).unwrap();
    assert_eq!(request_out.return_to.as_deref(), Some("https://app.example.com/bye?state=a+b"));
    assert!(request(&[bye]).unwrap_err().is(&codes::REDIRECT_URI_MISMATCH));
    assert!(request(&[("client_id", &id), ("post_logout_redirect_uri", "https://evil.test/")]).is_err());
    assert!(request(&[("client_id", "app_x")]).is_err());
    assert_eq!(request(&[]).unwrap().return_to, None);

    let boxes = TokenBox::new([1; 32]);
    let sealed = request_out.seal(&boxes).unwrap();
    assert_eq!(SignOutRequest::open(&sealed, &boxes, organization(), START).unwrap(), request_out);
    assert!(SignOutRequest::open(&sealed, &boxes, OrganizationId::from_bits(8), START).is_err());
    assert!(SignOutRequest::open(&sealed, &boxes, organization(), START.plus(HOUR * 2)).is_err());
}

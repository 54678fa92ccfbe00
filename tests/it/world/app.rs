//! An application that signs people in, written by hand so that it can misbehave.

use serde_json::json;

use super::{Answer, Browser, Call, HOST, World, encoded};

const REDIRECT: &str = "https://app.example.com/callback";
/// RFC 7636 appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A registered application.
#[derive(Debug, Clone)]
pub struct Registered {
    pub id: String,
    pub secret: String,
}

/// What the token endpoint gave.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    pub id: String,
}

impl World {
    /// A confidential application with short keys, which are made at once.
    pub async fn application(&self) -> Registered {
        let body = json!({
            "name": "Timesheets", "type": "confidential", "redirect_uris": [REDIRECT],
            "post_logout_redirect_uris": ["https://app.example.com/bye"], "id_token_signed_response_alg": "ES256",
        });
        let made = self.operator().post("/v1/applications", &body).await.expect(201);
        Registered { id: made.id(), secret: made.json()["client_secret"].as_str().unwrap().to_owned() }
    }

    /// Redeems a code at the token endpoint of this host.
    pub async fn redeem(&self, host: &str, app: &Registered, code: &str) -> Answer {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ];
        self.as_application(host, "/oauth2/token", app, &fields).await
    }

    pub async fn refresh(&self, host: &str, app: &Registered, token: &str) -> Answer {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
        self.as_application(host, "/oauth2/token", app, &fields).await
    }

    /// Whether introspection says that a token is good.
    pub async fn is_live(&self, host: &str, app: &Registered, token: &str) -> bool {
        let answer = self.as_application(host, "/oauth2/introspect", app, &[("token", token)]).await;
        answer.expect(200).json()["active"] == true
    }

    pub async fn userinfo(&self, host: &str, token: &str) -> Answer {
        let call = Call::new("GET", host, "/oauth2/userinfo");
        self.call(call.header("authorization", &format!("Bearer {token}"))).await
    }

    /// Any request of an application that authenticates in the body.
    pub async fn as_application(&self, host: &str, path: &str, app: &Registered, fields: &[(&str, &str)]) -> Answer {
        let own = [("client_id", app.id.as_str()), ("client_secret", app.secret.as_str())];
        self.call(Call::new("POST", host, path).form(&[fields, &own].concat())).await
    }
}

impl Registered {
    /// The address of the authorization request, below the host or `/o/{org}`.
    pub fn authorize(&self, more: &[(&str, &str)]) -> String {
        let fields = [
            ("client_id", self.id.as_str()),
            ("redirect_uri", REDIRECT),
            ("response_type", "code"),
            ("scope", "openid email offline_access"),
            ("state", "the-state"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        format!("/oauth2/authorize?{}", encoded(&[&fields, more].concat()))
    }

    /// The sealed request that a browser is sent on with.
    pub async fn sealed(&self, browser: &mut Browser<'_>) -> String {
        let answer = browser.get(&self.authorize(&[])).await.expect(303);
        parameter(&answer, "request")
    }

    /// A code for whoever is signed in in this browser.
    pub async fn code(&self, browser: &mut Browser<'_>) -> String {
        let onward = browser.get(&self.authorize(&[])).await.expect(303);
        let back = browser.follow(&onward).await.expect(303);
        assert!(back.location().starts_with(REDIRECT), "{back:?}");
        parameter(&back, "code")
    }

    /// Tokens for whoever is signed in in this browser.
    pub async fn tokens(&self, world: &World, browser: &mut Browser<'_>) -> Tokens {
        let code = self.code(browser).await;
        let host = browser.host.clone();
        Tokens::of(&world.redeem(&host, self, &code).await.expect(200))
    }
}

impl Tokens {
    pub fn of(answer: &Answer) -> Self {
        let json = answer.json();
        let text = |name: &str| json[name].as_str().unwrap_or("").to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token"), id: text("id_token") }
    }
}

/// A parameter of the address that an answer leads to.
#[track_caller]
fn parameter(answer: &Answer, name: &str) -> String {
    let address = url::Url::parse(&format!("http://{HOST}")).unwrap().join(answer.location()).unwrap();
    let found = address.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned());
    found.unwrap_or_else(|| panic!("no {name}: {answer:?}"))
}

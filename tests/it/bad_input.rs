//! What should never arrive: each is a clear refusal with a stable code, and none is a fault of ours.

use bulkhead::base::time::length;
use serde_json::{Value, json};

use crate::world::{Answer, Call, HOST, PASSWORD, World, host_of};

const MEMBERS: &str = "/v1/organizations/acme/members";

async fn acme() -> World {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", "ada@acme.test").await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_none_of_ours() {
    let world = acme().await;
    for host in ["nobody.localhost:8080", "evil.test", "acme.evil.test", "a.acme.localhost", "127.0.0.1", "[::1]:8080"]
    {
        let page = world.call(Call::new("GET", host, "/sign-in")).await.expect(404);
        assert!(page.mentions("organization_not_found"), "{page:?}");
        world.operator().at(host).get(MEMBERS).await.expect_problem(404, "organization_not_found");
    }
    for host in
        ["", "..", "acme localhost", "acme/../localhost", "acme.localhost:8080:1", "a_b.localhost", "%00", "-a.test"]
    {
        let page = world.call(Call::new("GET", host, "/sign-in")).await.expect(400);
        assert!(page.mentions("malformed_host"), "{page:?}");
    }
    let twice = Call::new("GET", HOST, "/").header("host", &host_of("acme"));
    assert!(world.call(twice).await.expect(400).mentions("malformed_host"));
    for path in [
        "/o/nobody/sign-in",
        "/o/",
        "/o//sign-in",
        "/o/..%2f/sign-in",
        "/o/ACME/sign-in",
        &format!("/o/{}/", "x".repeat(5000)),
    ] {
        let page = world.call(Call::new("GET", HOST, path)).await;
        assert!([400, 404].contains(&page.status), "{page:?}");
    }
    assert_eq!(
        std::fs::read_dir(world.data_dir().join("orgs")).unwrap().count(),
        2,
        "an unknown name touched the disk"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_none() {
    let world = acme().await;
    let operator = world.operator();
    for id in [
        "x",
        "mem_",
        "mem_x",
        "mem_0123456789abcdefghjkmnpqrs",
        "MEM_00000000000000000000000001",
        "%00",
        "%ff",
        "..",
        "' OR 1=1",
        "session_00000000000000000000000001",
    ] {
        let id = id.replace(' ', "%20").replace('\'', "%27");
        let answer = operator.get(&format!("{MEMBERS}/{id}")).await;
        assert!([400, 404].contains(&answer.status) && !answer.code().is_empty(), "{answer:?}");
        let answer = operator.get(&format!("/v1/organizations/{id}/members")).await;
        assert!([400, 404].contains(&answer.status) && !answer.code().is_empty(), "{answer:?}");
    }
    for (path, code) in [
        ("/v1/organizations/acme/sessions/x", "session_not_found"),
        ("/v1/organizations/acme/members/x", "member_not_found"),
        ("/v1/applications/x", "application_not_found"),
        ("/v1/nothing", "not_found"),
        ("/v1/organizations/acme/nothing", "not_found"),
    ] {
        operator.get(path).await.expect_problem(404, code);
    }
    operator.delete("/v1/organizations/acme/api_keys/x").await.expect_problem(404, "api_key_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_cannot_be_read() {
    let world = acme().await;
    let call = |body: Vec<u8>, content_type: &str| {
        let mut call = world.operator().call("POST", MEMBERS).header("content-type", content_type);
        call.body = body;
        world.call(call)
    };
    let json_type = "application/json";
    call(vec![b'['; 2 << 20], json_type).await.expect_problem(413, "body_too_large");
    for body in ["", "{", "nonsense", "{\"email\": \"a@b.test\"} trailing", "\u{feff}{}"] {
        call(body.into(), json_type).await.expect_problem(400, "malformed_body");
    }
    call(b"{\"email\": \"\xff\xfe@b.test\"}".to_vec(), json_type).await.expect_problem(400, "malformed_body");
    call(vec![b'['; 100_000], json_type).await.expect_problem(400, "malformed_body");
    call("{\"metadata\":".repeat(50_000).into_bytes(), json_type).await.expect_problem(422, "validation_failed");
    for body in [
        "{}",
        "[]",
        "null",
        "7",
        "{\"email\": 7}",
        "{\"email\": \"nonsense\"}",
        "{\"email\": \"a@b.test\", \"extra\": 1}",
        "{\"email\": \"a@b.test\", \"email\": \"c@d.test\"}",
    ] {
        call(body.into(), json_type).await.expect_problem(422, "validation_failed");
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        call(b"{\"email\": \"a@b.test\"}".to_vec(), content_type).await.expect_problem(415, "unsupported_media_type");
    }
    call(b"{\"email\": \"ok@b.test\"}".to_vec(), "application/json; charset=utf-8").await.expect(201);
    for value in ["a\u{0}b@b.test", "a\r\nBcc: x@y.test", &format!("{}@b.test", "x".repeat(400))] {
        let refused = world.operator().post(MEMBERS, &json!({"email": value})).await;
        refused.expect_problem(422, "validation_failed");
    }
    for field in ["name", "username", "phone", "title"] {
        for value in ["\u{0}", "\n", " ", &"x".repeat(1000)] {
            let body = json!({"email": "b@b.test", field: value});
            world.operator().post(MEMBERS, &body).await.expect_problem(422, "validation_failed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_cannot_be_read() {
    let world = acme().await;
    let mut browser = world.browser("acme");
    let csrf = browser.csrf().await;
    let mut send = async |body: Vec<u8>, content_type: &str| -> Answer {
        let mut call = browser.call("POST", "/sign-in").header("content-type", content_type);
        call.body = body;
        browser.send(call).await
    };
    let form = "application/x-www-form-urlencoded";
    let with = |rest: &str| format!("csrf={csrf}&{rest}").into_bytes();
    assert!(send(vec![b'a'; 2 << 20], form).await.expect(413).mentions("body_too_large"));
    for bad in ["email=%ff", "email=%", "email=%0", "email=%00", "password=a%00b"] {
        assert!(send(with(bad), form).await.expect(400).mentions("malformed_body"), "{bad}");
    }
    assert!(
        send(with("email=a@b.test&email=c@d.test&password=x"), form).await.expect(400).mentions("malformed_request")
    );
    assert!(
        send(with("email=a@b.test&password=x"), "application/json")
            .await
            .expect(415)
            .mentions("unsupported_media_type")
    );
    assert!(send(with("email=a@b.test&password=x"), "multipart/form-data; boundary=x").await.status == 415);
    send(with(&format!("email={}&password=x", "a".repeat(10_000))), form).await.expect(401);
    send(with(&format!("email={}&password=x", "a".repeat(100_000))), form).await.expect(400);
    send(with("email=&password="), form).await.expect(422);
    // A typed value comes back as text, never as a part of the page.
    let page = send(with("email=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&password=x"), form).await.expect(401);
    assert!(!page.text().contains("<script>alert"), "{page:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_come_from_elsewhere() {
    let world = acme().await;
    let mut browser = world.browser("acme");
    let csrf = browser.csrf().await;
    let fields = [("csrf", csrf.as_str()), ("email", "ada@acme.test"), ("password", PASSWORD)];
    for (name, value) in [
        ("origin", "https://evil.test"),
        ("origin", "http://globex.localhost:8080"),
        ("origin", "http://localhost:8080"),
        ("origin", "null"),
        ("origin", ""),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let call = browser.call("POST", "/sign-in").form(&fields).header(name, value);
        assert!(browser.send(call).await.expect(403).mentions("csrf_failed"), "{name}: {value}");
    }
    let mut forged = csrf.clone().into_bytes();
    forged[0] = if forged[0] == b'0' { b'1' } else { b'0' };
    for token in ["", "0", &String::from_utf8(forged).unwrap(), &csrf.to_uppercase(), &csrf[..63]] {
        let fields = [("csrf", token), ("email", "ada@acme.test"), ("password", PASSWORD)];
        assert!(browser.post("/sign-in", &fields).await.expect(403).mentions("csrf_failed"), "{token}");
    }
    // A token of another browser is replayed, with and without its cookie being lost.
    let other = world.browser("acme").csrf().await;
    browser.post("/sign-in", &[("csrf", &other), ("email", "ada@acme.test"), ("password", PASSWORD)]).await.expect(403);
    world.browser("acme").post("/sign-in", &fields).await.expect(403);
    let twice = [("csrf", csrf.as_str()), ("csrf", other.as_str()), ("email", "a"), ("password", PASSWORD)];
    browser.post("/sign-in", &twice).await.expect(400);
    let call = browser.call("POST", "/sign-in").form(&fields);
    let call = call.header("origin", "http://acme.localhost:8080").header("sec-fetch-site", "same-origin");
    browser.send(call).await.expect(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn authorization_requests_that_lead_elsewhere() {
    let world = acme().await;
    let app = world.application().await;
    for redirect in [
        "https://evil.test/callback",
        "https://app.example.com/callback/",
        "https://app.example.com/callback?x=1",
        "https://app.example.com/callback#",
        "https://app.example.com/CALLBACK",
        "https://app.example.com:443/callback",
        "https://app.example.com@evil.test/callback",
        "https://app.example.com.evil.test/callback",
        "https://app.example.com/./callback",
        "http://app.example.com/callback",
        "//app.example.com/callback",
        "javascript:alert(1)",
        " https://app.example.com/callback",
    ] {
        let address = app
            .authorize(&[])
            .replace("https%3A%2F%2Fapp.example.com%2Fcallback", &crate::world::encoded(&[("", redirect)])[1..]);
        for mut browser in [world.browser("acme"), world.visitor()] {
            let page = browser.get(&address).await.expect(400);
            assert!(page.location().is_empty() && page.mentions("redirect_uri_mismatch"), "{page:?}");
        }
    }
    for address in
        ["/oauth2/authorize", "/oauth2/authorize?client_id=x", "/oauth2/continue", "/oauth2/continue?request=x"]
    {
        let page = world.browser("acme").get(address).await.expect(400);
        assert!(page.mentions("authorization_request_invalid"), "{page:?}");
    }
    let forged = format!("{}A", app.sealed(&mut world.browser("acme")).await);
    world.browser("acme").get(&format!("/oauth2/continue?request={forged}")).await.expect(400);
    let wish = "/oauth2/logout?post_logout_redirect_uri=https://evil.test/";
    for address in [wish.to_owned(), format!("{wish}&client_id={}", app.id)] {
        assert!(world.browser("acme").get(&address).await.expect(400).mentions("redirect_uri_mismatch"));
    }
    world.browser("acme").get(&app.authorize(&[("client_id", &app.id)])).await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_and_tokens_that_are_forged_or_replayed() {
    let world = acme().await;
    let (app, host) = (world.application().await, host_of("acme"));
    let mut browser = world.signed_in("acme", "ada@acme.test").await;
    let code = app.code(&mut browser).await;
    let error = |answer: Answer| answer.expect(400).json()["error"].as_str().unwrap().to_owned();
    for forged in
        ["x", &code[..code.len() - 1], &code.replace("bh_ac_", "bh_rt_"), &format!("{code}0"), &code.to_uppercase()]
    {
        assert_eq!(error(world.redeem(&host, &app, forged).await), "invalid_grant");
    }
    let other = world.application().await;
    assert_eq!(error(world.redeem(&host, &other, &code).await), "invalid_grant");
    let tokens = crate::world::Tokens::of(&world.redeem(&host, &app, &code).await.expect(200));
    assert_eq!(error(world.refresh(&host, &other, &tokens.refresh).await), "invalid_grant");
    assert!(world.is_live(&host, &app, &tokens.access).await);
    // A code that comes twice takes back what it gave.
    assert_eq!(error(world.redeem(&host, &app, &code).await), "invalid_grant");
    assert!(!world.is_live(&host, &app, &tokens.access).await);
    assert_eq!(error(world.refresh(&host, &app, &tokens.refresh).await), "invalid_grant");
    // `alg` tricks.
    let tokens = app.tokens(&world, &mut browser).await;
    let parts: Vec<&str> = tokens.access.split('.').collect();
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0";
    for forged in [
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        tokens.id.clone(),
    ] {
        world.userinfo(&host, &forged).await.expect(401);
    }
    world.userinfo(&host, &tokens.access).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_address_is_believed_from_proxies_only() {
    let world = World::with(&[("BULKHEAD_SERVER_TRUSTED_PROXIES", "10.0.0.0/8")]).await;
    world.organization("acme").await;
    world.member("acme", "ada@acme.test").await;
    for (peer, forwarded, seen) in [
        ("203.0.113.7", "6.6.6.6", "203.0.113.7"),
        ("10.1.1.1", "6.6.6.6, 198.51.100.9, 10.2.2.2", "198.51.100.9"),
        ("10.1.1.1", "nonsense", "10.1.1.1"),
    ] {
        // The newest session is the one that is looked at.
        world.clock.advance(length::seconds(1));
        let mut browser = world.browser("acme");
        let csrf = browser.csrf().await;
        let fields = [("csrf", csrf.as_str()), ("email", "ada@acme.test"), ("password", PASSWORD)];
        let mut call = browser.call("POST", "/sign-in").form(&fields).header("x-forwarded-for", forwarded);
        call.peer = peer.parse().unwrap();
        browser.send(call).await.expect(303);
        let session: Value =
            world.operator().get("/v1/organizations/acme/sessions?limit=1").await.json()["data"][0].clone();
        assert_eq!(session["ip_address"], seen);
    }
    // What a proxy passes on is not from this machine.
    let mut call = Call::new("GET", HOST, "/mailbox").header("x-forwarded-for", "6.6.6.6");
    call.peer = "10.1.1.1".parse().unwrap();
    world.call(call).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_its_id_and_every_page_its_protection() {
    let world = acme().await;
    for (host, path) in [
        (HOST, "/"),
        (HOST, "/nothing"),
        (&*host_of("acme"), "/sign-in"),
        (&*host_of("acme"), "/nothing"),
        (HOST, "/v1/nothing"),
    ] {
        let sent = Call::new("GET", host, path).header("x-request-id", "chosen-by-the-client");
        let answer = world.call(sent).await;
        assert!(answer.header("x-request-id").unwrap().starts_with("req_"), "{answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
            assert_eq!(answer.header("x-frame-options"), Some("DENY"));
            assert!(answer.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
        }
    }
}

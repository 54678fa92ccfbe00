//! Self-serve sign-up: from a mailbox to an organization with an owner.

use bulkhead::base::time::length;

use crate::post_office::{Manner, PostOffice};
use crate::world::{Answer, Browser, HOST, PASSWORD, World, host_of};

/// Asks for a code and types it.
async fn prove(world: &World, browser: &mut Browser<'_>, email: &str) {
    let page = browser.get("/sign-up").await.expect(200);
    let sent = browser.submit_form(&page, &[("email", email)]).await.expect_redirect("/sign-up/code");
    let page = browser.follow(&sent).await.expect(200);
    let code = world.mailbox_code(email).await;
    browser.submit_form(&page, &[("code", &code)]).await.expect_redirect("/sign-up/organization");
}

async fn name(browser: &mut Browser<'_>, slug: &str) -> Answer {
    let page = browser.get("/sign-up/organization").await.expect(200);
    let fields = [("name", "Initech"), ("slug", slug), ("full_name", "Zoe Quill"), ("password", PASSWORD)];
    browser.submit_form(&page, &fields).await
}

/// The whole journey; the answer leads to the new organization's own address.
pub async fn found(world: &World, browser: &mut Browser<'_>, email: &str, slug: &str) -> Answer {
    prove(world, browser, email).await;
    name(browser, slug).await.expect(303)
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_mailbox_to_an_owner_who_is_signed_in() {
    let world = World::new().await;
    let mut browser = world.visitor();
    let relay = found(&world, &mut browser, "zoe@initech.test", "initech").await;
    assert!(relay.location().starts_with(&format!("http://{}/relay?token=", host_of("initech"))), "{relay:?}");
    let page = browser.follow(&relay).await.expect(200);
    assert!(page.mentions("zoe@initech.test") && browser.session().is_none(), "a link alone signed somebody in");
    browser.submit_form(&page, &[]).await.expect_redirect("/account");
    let account = browser.get("/account").await.expect(200);
    assert!(account.mentions("Zoe Quill") && account.mentions("Owner"), "{account:?}");

    // The hand-over is good once, and leads nobody into somebody else's session.
    let mut thief = world.browser("initech");
    let page = thief.get(relay.location()).await.expect(200);
    thief.submit_form(&page, &[]).await.expect_redirect("/sign-in");
    assert_eq!(thief.session(), None);
    world.browser("initech").sign_in("zoe@initech.test", PASSWORD).await.expect(303);
    let organization = world.operator().get("/v1/organizations/initech").await.expect(200).json();
    assert_eq!((organization["name"].as_str(), organization["state"].as_str()), (Some("Initech"), Some("active")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_is_good_for_a_minute_and_moves_nobody() {
    let world = World::new().await;
    let mut browser = world.visitor();
    let relay = found(&world, &mut browser, "zoe@initech.test", "initech").await;
    world.member("initech", "ada@initech.test").await;
    let mut ada = world.signed_in("initech", "ada@initech.test").await;
    let session = ada.session();
    ada.get(relay.location()).await.expect_redirect("/account");
    assert_eq!(ada.session(), session);
    let page = browser.follow(&relay).await.expect(200);
    world.clock.advance(length::minutes(1));
    browser.submit_form(&page, &[]).await.expect_redirect("/sign-in");
    browser.follow(&relay).await.expect_redirect("/sign-in");
    browser.get("/relay?token=forged").await.expect_redirect("/sign-in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_could_not_be_sent_is_told_and_can_be_asked_for_again() {
    const ZOE: &str = "zoe@initech.test";
    let office = PostOffice::open(Manner::Refuses("550 5.1.1 no such mailbox"));
    let settings = office.settings();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let world = World::with(&settings).await;
    let mut browser = world.visitor();
    let page = browser.get("/sign-up").await.expect(200);
    for answer in ["550 5.1.1 no such mailbox", "451 4.3.0 come back later"] {
        office.behave(Manner::Refuses(answer));
        let told = browser.submit_form(&page, &[("email", ZOE)]).await.expect(503);
        assert!(told.mentions("could not send a code") && told.mentions(ZOE), "{told:?}");
        // What the mail server said is between it and us.
        for theirs in ["mailbox", "4.3.0", "come back later", "wrong on our side"] {
            assert!(!told.mentions(theirs), "{theirs}: {told:?}");
        }
    }
    office.behave(Manner::Takes(std::time::Duration::ZERO));
    let page = browser.get("/sign-up").await.expect(200);
    let sent = browser.submit_form(&page, &[("email", ZOE)]).await.expect_redirect("/sign-up/code");
    let page = browser.follow(&sent).await.expect(200);
    let code = office.code_for(ZOE).unwrap();
    browser.submit_form(&page, &[("code", &code)]).await.expect_redirect("/sign-up/organization");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_is_not_there_is_no_fault_of_the_page() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let office = PostOffice::open(Manner::Silent);
    let settings = office.settings();
    let mut settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    settings.push(("BULKHEAD_MAIL_SMTP_PORT", nobody.as_str()));
    let world = World::with(&settings).await;
    let mut browser = world.visitor();
    let page = browser.get("/sign-up").await.expect(200);
    let told = browser.submit_form(&page, &[("email", "zoe@initech.test")]).await.expect(503);
    assert!(told.mentions("could not send a code"), "{told:?}");
    assert!(browser.cookie("bh_sign_up").is_none(), "a ticket for a code that was never sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_wrong_codes_are_the_end_of_a_code() {
    let world = World::new().await;
    let mut browser = world.visitor();
    let page = browser.get("/sign-up").await;
    let sent = browser.submit_form(&page, &[("email", "zoe@initech.test")]).await;
    let page = browser.follow(&sent).await;
    let code = world.mailbox_code("zoe@initech.test").await;
    let wrong = if code == "000000" { "000001" } else { "000000" };
    for _ in 0..5 {
        browser.submit_form(&page, &[("code", wrong)]).await.expect(422);
    }
    let refused = browser.submit_form(&page, &[("code", &code)]).await.expect(422);
    assert!(refused.mentions("not right, or it has expired"), "{refused:?}");
    browser.get("/sign-up/organization").await.expect_redirect("/sign-up");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fifth_try_may_be_the_right_one_and_its_form_does_not_matter() {
    let world = World::new().await;
    let mut browser = world.visitor();
    let page = browser.get("/sign-up").await;
    let sent = browser.submit_form(&page, &[("email", "zoe@initech.test")]).await;
    let page = browser.follow(&sent).await;
    let code = world.mailbox_code("zoe@initech.test").await;
    for wrong in ["", "12345", "1234567", "abcdef"] {
        browser.submit_form(&page, &[("code", wrong)]).await.expect(422);
    }
    let spaced = format!(" {}-{} ", &code[..3], &code[3..]);
    browser.submit_form(&page, &[("code", &spaced)]).await.expect(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_and_proofs_expire_to_the_second() {
    let world = World::new().await;
    for (wait, status) in [(length::seconds(599), 303), (length::minutes(10), 422)] {
        let mut browser = world.visitor();
        let page = browser.get("/sign-up").await;
        let sent = browser.submit_form(&page, &[("email", "zoe@initech.test")]).await;
        let page = browser.follow(&sent).await;
        let code = world.mailbox_code("zoe@initech.test").await;
        world.clock.advance(wait);
        browser.submit_form(&page, &[("code", &code)]).await.expect(status);
    }
    for (wait, proven) in [(length::seconds(1799), true), (length::minutes(30), false)] {
        let mut browser = world.visitor();
        prove(&world, &mut browser, "max@initech.test").await;
        world.clock.advance(wait);
        assert_eq!(browser.get("/sign-up/organization").await.status == 200, proven);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_founds_one_organization() {
    let world = World::new().await;
    let mut browser = world.visitor();
    prove(&world, &mut browser, "zoe@initech.test").await;
    let page = browser.get("/sign-up/organization").await;
    let fields =
        |slug: &'static str| [("name", "Initech"), ("slug", slug), ("full_name", "Zoe"), ("password", PASSWORD)];
    // What is wrong can be put right.
    browser.submit_form(&page, &[("name", "Initech"), ("slug", "initech"), ("password", "password")]).await.expect(422);
    browser.submit_form(&page, &[("name", ""), ("slug", "initech"), ("password", PASSWORD)]).await.expect(422);
    browser.submit_form(&page, &[("name", "I"), ("slug", "No Slug"), ("password", PASSWORD)]).await.expect(422);
    let replay = browser.clone();
    // Of two at once one goes on, and later ones as little.
    let (mut one, mut other) = (browser.clone(), browser.clone());
    let (first, second) = (fields("initech-1"), fields("initech-2"));
    let (first, second) = tokio::join!(one.submit_form(&page, &first), other.submit_form(&page, &second));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [303, 403], "{first:?} {second:?}");
    replay.clone().submit_form(&page, &fields("initech-3")).await.expect(403);
    replay.clone().get("/sign-up/organization").await.expect_redirect("/sign-up");
    assert_eq!(world.operator().get("/v1/organizations").await.json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_is_told_and_another_can_be_chosen() {
    let world = World::new().await;
    world.organization("initech").await;
    let mut browser = world.visitor();
    prove(&world, &mut browser, "zoe@initech.test").await;
    let taken = name(&mut browser, "initech").await.expect(409);
    assert!(taken.mentions("is taken"), "{taken:?}");
    // None is proposed from the name: it is taken as well, so it gets a number.
    let proposed = name(&mut browser, "").await.expect(303);
    assert!(proposed.location().starts_with(&format!("http://{}/", host_of("initech-2"))), "{proposed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_names_an_organization_without_a_proven_mailbox() {
    let world = World::new().await;
    let mut browser = world.visitor();
    for path in ["/sign-up/code", "/sign-up/organization"] {
        browser.get(path).await.expect_redirect("/sign-up");
    }
    // A ticket whose code was not typed, and one that was made up.
    let page = browser.get("/sign-up").await;
    browser.submit_form(&page, &[("email", "zoe@initech.test")]).await.expect(303);
    browser.get("/sign-up/organization").await.expect_redirect("/sign-up");
    let csrf = crate::world::text_between(&page.text(), "name=\"csrf\" value=\"", "\"").unwrap().to_owned();
    let fields = [("csrf", csrf.as_str()), ("name", "I"), ("slug", "initech"), ("password", PASSWORD)];
    browser.post("/sign-up/organization", &fields).await.expect(403);
    browser.set_cookie("bh_signup", "made-up");
    browser.post("/sign-up/organization", &fields).await.expect_redirect("/sign-up");
    assert_eq!(world.operator().get("/v1/organizations").await.json()["data"].as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_found_is_a_setting() {
    let world = World::with(&[("BULKHEAD_ORGANIZATIONS_SIGN_UP", "closed")]).await;
    let mut browser = world.visitor();
    assert!(browser.get("/sign-up").await.expect(403).mentions("sign_up_closed"));
    let mut elsewhere = world.visitor();
    let csrf_page = elsewhere.get("/").await.expect(200);
    assert!(!csrf_page.mentions("/sign-up"), "{csrf_page:?}");
    world.organization("acme").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_mailbox_founds_no_more_than_the_setting_says() {
    let world = World::with(&[("BULKHEAD_ORGANIZATIONS_MAX_PER_EMAIL", "2")]).await;
    for slug in ["first", "second"] {
        found(&world, &mut world.visitor(), "zoe@initech.test", slug).await;
    }
    let mut browser = world.visitor();
    prove(&world, &mut browser, "Zoe@Initech.TEST").await;
    let refused = name(&mut browser, "third").await.expect(403);
    assert!(refused.mentions("organization_limit_reached"), "{refused:?}");
    found(&world, &mut world.visitor(), "max@initech.test", "third").await;
    // The operator is not bound by it.
    assert_eq!(world.operator().get("/v1/organizations").await.json()["data"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_deployment_takes_no_ticket_of_an_open_one() {
    let mut world = World::new().await;
    let (name, value) = {
        let mut browser = world.visitor();
        prove(&world, &mut browser, "zoe@initech.test").await;
        browser.cookie("bh_signup").unwrap()
    };
    world.set("BULKHEAD_ORGANIZATIONS_SIGN_UP", "closed");
    world.while_stopped(|_| ()).await;
    let mut browser = world.visitor();
    browser.set_cookie(&name, &value);
    let page = browser.get("/sign-up/organization").await;
    if page.status == 200 {
        let fields = [("name", "Initech"), ("slug", "initech"), ("password", PASSWORD)];
        assert!(browser.submit_form(&page, &fields).await.expect(403).mentions("sign_up_closed"));
    }
    assert!(browser.host == HOST && world.operator().get("/v1/organizations/initech").await.status == 404);
}

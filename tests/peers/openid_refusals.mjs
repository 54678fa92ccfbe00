// What must be refused, tried with `openid-client` where it lets us and by hand where it does not.

import assert from 'node:assert/strict';
import { createHmac, createPublicKey } from 'node:crypto';
import * as client from 'openid-client';
import { check, refuses } from './lib/checks.mjs';
import { fixture } from './lib/fixture.mjs';
import { Person, asksForPassword, describe } from './lib/person.mjs';
import { begin, discover, issuers, post as send, redeem, signIn, userinfo } from './lib/rp.mjs';

const { acme, globex } = fixture.organizations;
const { basic, post, public: spa, other } = fixture.applications;
const ada = acme.members.ada;

for (const at of issuers) {
  const test = (name, act) => check(`${at.name} refuses: ${name}`, act);
  const config = await check(`${at.name}: discovery for refusals`, () => discover(at.issuer, basic));
  if (!config) continue;
  const { token_endpoint } = config.serverMetadata();
  // One person signed in for all checks that do not need the password page.
  const person = new Person(basic.redirect_uri, spa.redirect_uri, other.redirect_uri);
  await check(`${at.name}: a person signs in for refusals`, () => signIn(at, basic, ada, { person }));

  const fresh = async (app = basic, parameters = {}) => {
    const sign_in = await begin(await discover(at.issuer, app), app, { ...at.extra, ...parameters });
    return { ...sign_in, arrived: await person.authorize(sign_in.url) };
  };
  /** Opens the authorization address with changed parameters and gives what came of it. */
  const open = async (parameters, who = person, app = basic) =>
    who.go((await begin(config, app, { ...at.extra, ...parameters })).url);
  const redirectsWith = async (expected, parameters, who) => {
    const page = await open(parameters, who);
    assert.ok(page.arrived, `no redirect: ${describe(page)}`);
    const answer = page.arrived.searchParams.has('error')
      ? page.arrived.searchParams
      : new URLSearchParams(page.arrived.hash.slice(1));
    assert.match(answer.get('error') ?? `none, code ${answer.get('code')}`, expected);
    assert.equal(answer.get('iss'), at.issuer, 'iss');
    assert.ok(answer.get('state'), 'state');
    assert.ok(!answer.has('code'), 'a code beside the error');
  };
  const page400 = async (page) => {
    assert.ok(!page.arrived, `redirected to ${page.arrived}`);
    assert.equal(page.status, 400, describe(page));
    assert.match(page.headers.get('content-type'), /^text\/html/);
  };

  await test('a code used twice, and what it gave is dead', async () => {
    const sign_in = await fresh();
    const tokens = await redeem(sign_in, sign_in.arrived);
    await refuses(redeem(sign_in, sign_in.arrived), 'invalid_grant');
    await refuses(client.refreshTokenGrant(config, tokens.refresh_token), 'invalid_grant');
    assert.equal((await userinfo(config, tokens.access_token)).status, 401);
    assert.equal((await client.tokenIntrospection(config, tokens.access_token)).active, false);
  });

  await test('a code redeemed twice at the same moment', async () => {
    const sign_in = await fresh();
    const tries = await Promise.allSettled([1, 2, 3, 4].map(() => redeem(sign_in, sign_in.arrived)));
    assert.ok(tries.filter((t) => t.status === 'fulfilled').length <= 1);
    for (const t of tries.filter((t) => t.status === 'rejected')) assert.equal(t.reason.error, 'invalid_grant');
  });

  await test('a wrong or missing PKCE verifier', async () => {
    let sign_in = await fresh();
    const checks = { pkceCodeVerifier: client.randomPKCECodeVerifier() };
    await refuses(redeem(sign_in, sign_in.arrived, { checks }), 'invalid_grant');
    sign_in = await fresh();
    const code = sign_in.arrived.searchParams.get('code');
    const form = { grant_type: 'authorization_code', code, redirect_uri: basic.redirect_uri };
    const answer = await send(token_endpoint, form, basic);
    assert.equal(answer.status, 400);
    assert.match(answer.json.error, /^invalid_(grant|request)$/);
  });

  await test('an authorization request without PKCE, or with "plain"', async () => {
    await redirectsWith(/^invalid_request$/, { code_challenge: undefined, code_challenge_method: undefined });
    await redirectsWith(/^invalid_request$/, { code_challenge_method: 'plain' });
    await redirectsWith(/^invalid_request$/, { code_challenge: 'short' });
  });

  await test('another redirect_uri at the token endpoint', async () => {
    const { arrived, verifier } = await fresh();
    const form = { grant_type: 'authorization_code', code: arrived.searchParams.get('code'), code_verifier: verifier };
    const answer = await send(token_endpoint, { ...form, redirect_uri: other.redirect_uri }, basic);
    assert.equal(answer.status, 400);
    assert.equal(answer.json.error, 'invalid_grant');
  });

  const { origin, host } = new URL(basic.redirect_uri);
  const fuzzy = {
    'a trailing slash': `${basic.redirect_uri}/`,
    'an extra query': `${basic.redirect_uri}?next=1`,
    'a fragment': `${basic.redirect_uri}#x`,
    'another port': `https://${host}:444/callback`,
    'the default port spelled out': `https://${host}:443/callback`,
    'another case in the path': `${origin}/Callback`,
    'another case in the host': `HTTPS://${host.toUpperCase()}/callback`,
    'plain http': `http://${host}/callback`,
    'a user before the host': `https://user@${host}/callback`,
    'the host as a user': `https://${host}@evil.test/callback`,
    'path traversal': `${origin}/callback/../callback`,
    'encoded path traversal': `${origin}/callback/%2e%2e/callback`,
    'a backslash': `https://${host}\\@evil.test/callback`,
    'a suffix on the host': `https://${host}.evil.test/callback`,
    'a sub-domain': `https://www.${host}/callback`,
    'another host': 'https://evil.test/callback',
    'another application\'s address': other.redirect_uri,
    'no scheme': `//${host}/callback`,
    'a script': 'javascript:alert(1)',
    'white space': ` ${basic.redirect_uri}`,
    'a line break': `${basic.redirect_uri}\r\nx: y`,
    'a NUL': `${basic.redirect_uri}\0`,
    nothing: '',
    'no redirect_uri': undefined,
  };
  for (const [name, redirect_uri] of Object.entries(fuzzy)) {
    await test(`redirect_uri with ${name}`, async () => page400(await open({ redirect_uri })));
  }

  await test('an unknown client, no client, two clients, two redirect_uri', async () => {
    await page400(await open({ client_id: 'app_00000000000000000000000000' }));
    await page400(await open({ client_id: '' }));
    for (const name of ['client_id', 'redirect_uri']) {
      const { url } = await begin(config, basic, at.extra);
      url.searchParams.append(name, name === 'client_id' ? other.client_id : other.redirect_uri);
      await page400(await person.go(url));
    }
  });

  await test('response types and modes other than code and query', async () => {
    for (const response_type of ['token', 'id_token', 'code token', 'code id_token', 'none']) {
      await redirectsWith(/^unsupported_response_type$/, { response_type });
    }
    await redirectsWith(/^invalid_request$/, { response_mode: 'fragment' });
  });

  await test('request and request_uri', async () => {
    await redirectsWith(/^request_not_supported$/, { response_type: 'code', request: 'eyJhbGciOiJub25lIn0.e30.' });
    await redirectsWith(/^request_uri_not_supported$/, { response_type: 'code', request_uri: 'https://evil.test/request' });
  });

  await test('prompt=none without a session, and with other prompts', async () => {
    const stranger = new Person(basic.redirect_uri);
    await redirectsWith(/^login_required$/, { prompt: 'none' }, stranger);
    await redirectsWith(/^invalid_request$/, { prompt: 'none login' });
    await redirectsWith(/^login_required$/, { prompt: 'none', max_age: '0' });
  });

  for (const parameters of [{ max_age: '0' }, { prompt: 'login' }]) {
    await test(`an old sign-in where ${JSON.stringify(parameters)} asks for a new one`, async () => {
      const sign_in = await begin(config, basic, { ...at.extra, ...parameters });
      const since = Math.floor(Date.now() / 1000);
      const page = await person.go(sign_in.url);
      assert.ok(page.forms?.some(asksForPassword), `no password asked: ${describe(page)}`);
      // Opening the same address again must not turn the asking into a having-asked.
      const again = await person.go(page.url);
      assert.ok(again.forms?.some(asksForPassword), `not asked the second time: ${describe(again)}`);
      const { arrived } = await person.signIn(page, ada);
      assert.ok(arrived, 'no way back to the application');
      const checks = 'max_age' in parameters ? { maxAge: 0 } : {};
      const claims = (await redeem(sign_in, arrived, { checks })).claims();
      assert.ok(claims.auth_time >= since, `auth_time ${claims.auth_time} before ${since}`);
    });
  }

  await test('a wrong client secret, by either method', async () => {
    for (const app of [basic, post]) {
      const wrong = { ...app, client_secret: `${app.client_secret.slice(0, -4)}AAAA` };
      await refuses(client.refreshTokenGrant(await discover(at.issuer, wrong), 'x'), 'invalid_client', [401]);
    }
    const form = { grant_type: 'refresh_token', refresh_token: 'x' };
    const answer = await send(token_endpoint, form, { ...basic, client_secret: 'wrong' });
    assert.equal(answer.status, 401);
    assert.match(answer.headers.get('www-authenticate') ?? '', /^Basic/i);
    const none = await send(token_endpoint, { ...form, client_id: basic.client_id });
    assert.equal(none.json.error, 'invalid_client', 'a confidential client without its secret');
    const both = { ...form, client_id: post.client_id, client_secret: post.client_secret };
    const mixed = await send(token_endpoint, both, basic);
    assert.match(mixed.json.error, /^invalid_(client|request)$/, 'two clients in one request');
  });

  await test('bad requests to the token endpoint', async () => {
    const unknown = await send(token_endpoint, { grant_type: 'password', username: 'a', password: 'b' }, basic);
    assert.equal(unknown.json.error, 'unsupported_grant_type');
    assert.match(unknown.headers.get('cache-control') ?? '', /no-store/);
    const missing = await send(token_endpoint, { grant_type: 'authorization_code' }, basic);
    assert.equal(missing.json.error, 'invalid_request');
    for (const bad of ['', 'x', 'bh_rt_AAAA', '\0', 'é'.repeat(300)]) {
      const form = { grant_type: 'authorization_code', code: bad, redirect_uri: basic.redirect_uri };
      const answer = await send(token_endpoint, { ...form, code_verifier: 'v'.repeat(43) }, basic);
      assert.equal(answer.status, 400, `code ${JSON.stringify(bad)}`);
      assert.match(answer.json.error, /^invalid_(grant|request)$/);
    }
    assert.equal((await fetch(token_endpoint)).status, 405);
  });

  await test("a code or refresh token in another application's hands", async () => {
    const mine = await fresh(spa);
    await refuses(redeem(mine, mine.arrived, { config: await discover(at.issuer, other) }), 'invalid_grant');
    const sign_in = await fresh();
    const tokens = await redeem(sign_in, sign_in.arrived);
    const thief = await discover(at.issuer, other);
    await refuses(client.refreshTokenGrant(thief, tokens.refresh_token), 'invalid_grant');
    await client.tokenRevocation(thief, tokens.refresh_token).catch(() => {});
    await client.refreshTokenGrant(config, tokens.refresh_token); // neither took it from its owner
  });

  await test('a code of one issuer at another issuer', async () => {
    for (const elsewhere of [globex.issuer, ...issuers.map((i) => i.issuer).filter((i) => i !== at.issuer)]) {
      const away = await discover(elsewhere, basic);
      let sign_in = await fresh();
      const form = {
        grant_type: 'authorization_code',
        code: sign_in.arrived.searchParams.get('code'),
        redirect_uri: basic.redirect_uri,
        code_verifier: sign_in.verifier,
      };
      const answer = await send(away.serverMetadata().token_endpoint, form, basic);
      assert.equal(answer.status, 400, elsewhere);
      assert.equal(answer.json.error, 'invalid_grant', elsewhere);
      sign_in = await fresh();
      const tokens = await redeem(sign_in, sign_in.arrived);
      await refuses(client.refreshTokenGrant(away, tokens.refresh_token), 'invalid_grant');
      assert.equal((await userinfo(away, tokens.access_token)).status, 401, `userinfo of ${elsewhere}`);
      assert.equal((await client.tokenIntrospection(away, tokens.access_token)).active, false, elsewhere);
    }
  });

  await test('forged access tokens', async () => {
    const sign_in = await fresh();
    const { access_token, id_token } = await redeem(sign_in, sign_in.arrived);
    const [head, body, signature] = access_token.split('.');
    const header = JSON.parse(Buffer.from(head, 'base64url'));
    const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const { keys } = await (await fetch(config.serverMetadata().jwks_uri)).json();
    const jwk = keys.find((key) => key.kid === header.kid);
    assert.ok(jwk, 'the key of the access token is not published');
    const pem = createPublicKey({ key: jwk, format: 'jwk' }).export({ type: 'spki', format: 'pem' });
    const hmac = (secret) => {
      const signed = `${encode({ ...header, alg: 'HS256' })}.${body}`;
      return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
    };
    const later = { ...JSON.parse(Buffer.from(body, 'base64url')), exp: 4102444800 };
    const forged = {
      'alg none': `${encode({ ...header, alg: 'none' })}.${body}.`,
      'alg NONE': `${encode({ ...header, alg: 'NONE' })}.${body}.`,
      'no signature': `${head}.${body}.`,
      'HS256 with the public key': hmac(pem),
      'HS256 with the JWK': hmac(JSON.stringify(jwk)),
      'a changed body': `${head}.${encode(later)}.${signature}`,
      'an unknown key': `${encode({ ...header, kid: 'unknown' })}.${body}.${signature}`,
      'a key of its own': `${encode({ ...header, jwk, jku: 'https://evil.test/keys' })}.${body}.${signature}`,
      'the ID token': id_token,
      'no JWT': 'nonsense',
    };
    for (const [name, token] of Object.entries(forged)) {
      const answer = await userinfo(config, token);
      assert.equal(answer.status, 401, name);
      assert.match(answer.headers.get('www-authenticate') ?? '', /Bearer.*invalid_token/, name);
      assert.equal((await client.tokenIntrospection(config, token)).active, false, `introspection: ${name}`);
    }
    assert.equal((await userinfo(config, access_token)).status, 200, 'the real one still works');
  });

  await test('an answer changed on its way (nonce, iss, state)', async () => {
    let sign_in = await fresh();
    const told = (error) => (error instanceof Error ? `${error.message} ${told(error.cause)}` : JSON.stringify(error));
    const because = (name) => (error) => told(error).includes(name);
    await assert.rejects(redeem(sign_in, sign_in.arrived, { checks: { expectedNonce: 'another' } }), because('nonce'));
    for (const [name, value] of [['iss', globex.issuer], ['state', 'another']]) {
      sign_in = await fresh();
      sign_in.arrived.searchParams.set(name, value);
      await assert.rejects(redeem(sign_in, sign_in.arrived), because(name));
    }
  });

  await test('a sealed request that was changed, or taken to another organization', async () => {
    const stranger = new Person(basic.redirect_uri);
    const page = await open({}, stranger);
    const form = page.forms.find(asksForPassword);
    const sealed = form.fields.request ?? page.url.searchParams.get('request');
    assert.ok(sealed, 'no sealed request on the sign-in page');
    const middle = Math.floor(sealed.length / 2);
    const changed = sealed.slice(0, middle) + (sealed[middle] === 'A' ? 'B' : 'A') + sealed.slice(middle + 1);
    for (const [where, request] of [[page.url, changed], [`${globex.url}/oauth2/continue`, sealed]]) {
      const url = new URL(where);
      url.pathname = url.pathname.replace(/\/sign-in$/, '/oauth2/continue');
      url.search = new URLSearchParams({ request });
      const answer = await stranger.go(url);
      assert.ok(!answer.arrived && answer.status >= 400 && answer.status < 500, describe(answer));
    }
  });

  await test('a sign-in form without its CSRF token', async () => {
    const stranger = new Person(basic.redirect_uri);
    const page = await open({}, stranger);
    for (const csrf of ['', 'forged']) {
      const answer = await stranger.submit(page, asksForPassword, { csrf, email: ada.email, password: ada.password });
      assert.ok(!answer.arrived && answer.status >= 400 && answer.status < 500, describe(answer));
    }
  });

  await test('post_logout_redirect_uri that is not registered', async () => {
    const url = client.buildEndSessionUrl(config, {
      client_id: basic.client_id,
      post_logout_redirect_uri: 'https://evil.test/',
    });
    const answer = await new Person('https://evil.test/').go(url);
    assert.ok(!answer.arrived, 'redirected');
    assert.ok(!answer.html.includes('href="https://evil.test'), 'a link to it');
  });
}

const atDeployment = { issuer: fixture.public_url };
const opening = async (parameters, person = new Person(basic.redirect_uri)) =>
  person.go((await begin(await discover(fixture.public_url, basic), basic, parameters)).url);

await check('organization and organization_id that disagree', async () => {
  const page = await opening({ organization: 'acme', organization_id: globex.id });
  if (page.arrived) assert.equal(page.arrived.searchParams.get('error'), 'invalid_request');
  else assert.equal(page.status, 400, describe(page));
});

await check('an unknown organization does not become a 500 or a redirect with a code', async () => {
  for (const organization of ['nowhere', '../acme', 'acme.localhost', 'ACME\0', 'é', 'a'.repeat(5000)]) {
    const page = await opening({ organization });
    if (page.arrived) assert.ok(page.arrived.searchParams.get('error'));
    else assert.ok(page.status < 500, describe(page));
  }
});

await check('a login_hint of another organization changes nothing', async () => {
  const person = new Person(basic.redirect_uri);
  const login_hint = globex.members.grace.email;
  const page = await opening({ organization: 'acme', login_hint }, person);
  assert.ok(page.url.href.startsWith(acme.url) || page.url.pathname.startsWith('/o/acme'), describe(page));
  const refused = await person.signIn(page, globex.members.grace);
  assert.ok(!refused.arrived, 'another organization\'s password was accepted');
  assert.ok(refused.status < 500 && refused.forms.some(asksForPassword), describe(refused));
  const { tokens } = await signIn({ ...atDeployment, extra: { organization: 'acme' } }, basic, ada, { login_hint });
  assert.equal(tokens.claims().org_id, acme.id);
});

await check('a session in one organization opens nothing in another', async () => {
  const person = new Person(basic.redirect_uri);
  await signIn({ ...atDeployment, extra: { organization: 'acme' } }, basic, ada, { person });
  const silent = await opening({ organization: 'globex', prompt: 'none' }, person);
  assert.equal(silent.arrived?.searchParams.get('error'), 'login_required', describe(silent));
  const none = await opening({ prompt: 'none' }, person);
  assert.match(none.arrived?.searchParams.get('error') ?? 'no error', /_required$/, describe(none));
});

await check('too much of everything is a 4xx', async () => {
  const long = 'x'.repeat(20_000);
  for (const parameters of [{ state: long }, { nonce: long }, { scope: long }, { login_hint: long }]) {
    const page = await opening({ organization: 'acme', ...parameters });
    if (!page.arrived) assert.ok(page.status < 500, describe(page));
  }
  const { token_endpoint } = (await discover(fixture.public_url, basic)).serverMetadata();
  const answer = await send(token_endpoint, { grant_type: 'refresh_token', refresh_token: 'x'.repeat(3_000_000) }, basic);
  assert.equal(answer.status, 413);
});

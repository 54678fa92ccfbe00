// npm `openid-client` (certified relying party) as the app of a SaaS team, at both issuers.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from 'jose';
import * as client from 'openid-client';
import { check, refuses } from './lib/checks.mjs';
import { api, fixture } from './lib/fixture.mjs';
import { Person, asksForPassword, confirms, describe } from './lib/person.mjs';
import { begin, discover, issuers, redeem, signIn, userinfo } from './lib/rp.mjs';

const { acme, globex } = fixture.organizations;
const { basic, post, public: spa } = fixture.applications;

for (const at of issuers) {
  for (const app of [basic, post, spa]) await journey(at, app, `${at.name}, ${app.label}`);
  await check(`${at.name}: metadata by RFC 8414`, async () => {
    const config = await discover(at.issuer, basic, { algorithm: 'oauth2' });
    assert.equal(config.serverMetadata().issuer, at.issuer);
  });
}

async function journey(at, app, label) {
  const member = acme.members.ada;
  let config, person, sign_in, arrived, tokens;
  const step = (name, act) => check(`${label}: ${name}`, act);

  await step('discovery', async () => {
    config = await discover(at.issuer, app);
    const metadata = config.serverMetadata();
    assert.equal(metadata.issuer, at.issuer);
    assert.deepEqual(metadata.response_types_supported, ['code']);
    assert.deepEqual(metadata.code_challenge_methods_supported, ['S256']);
    assert.equal(metadata.authorization_response_iss_parameter_supported, true);
    for (const alg of ['RS256', 'ES256']) assert.ok(metadata.id_token_signing_alg_values_supported.includes(alg));
    for (const method of ['client_secret_basic', 'client_secret_post', 'none']) {
      assert.ok(metadata.token_endpoint_auth_methods_supported.includes(method), method);
    }
    for (const name of ['jwks_uri', 'userinfo', 'introspection', 'revocation', 'end_session']) {
      const url = metadata[name === 'jwks_uri' ? name : `${name}_endpoint`];
      assert.ok(url?.startsWith(at.issuer), `${name}: ${url}`);
    }
  });
  if (!config) return;

  await step('sign-in page to code', async () => {
    person = new Person(app.redirect_uri, app.post_logout_redirect_uri);
    sign_in = await begin(config, app, at.extra);
    arrived = await person.authorize(sign_in.url, member);
    assert.equal(arrived.searchParams.get('iss'), at.issuer);
    assert.equal(arrived.searchParams.get('state'), sign_in.state);
  });
  if (!arrived) return;

  await step('code to tokens', async () => {
    tokens = await redeem(sign_in, arrived);
    assert.equal(tokens.token_type.toLowerCase(), 'bearer');
    assert.ok(tokens.expires_in > 290 && tokens.expires_in <= 300, `expires_in ${tokens.expires_in}`);
    assert.ok(tokens.refresh_token, 'no refresh token');
  });
  if (!tokens) return;
  const claims = tokens.claims();

  await step('ID token', async () => {
    assert.equal(claims.iss, at.issuer);
    assert.equal(claims.org_id, acme.id);
    assert.equal(claims.org_slug, 'acme');
    assert.deepEqual(claims.roles, ['owner']);
    assert.deepEqual(claims.amr, ['pwd']);
    assert.ok(claims.sid, 'no sid');
    assert.ok(Math.abs(Date.now() / 1000 - claims.auth_time) < 60, `auth_time ${claims.auth_time}`);
    assert.equal(claims.email, member.email);
    assert.equal(claims.name, member.name);
    const half = createHash('sha256').update(tokens.access_token).digest().subarray(0, 16).toString('base64url');
    assert.equal(claims.at_hash, half);
    assert.equal(decodeProtectedHeader(tokens.id_token).alg, app.alg);
    assert.ok(!JSON.stringify(claims).includes('globex'));
  });

  await step('access token by the published keys (RFC 9068)', async () => {
    const keys = createRemoteJWKSet(new URL(config.serverMetadata().jwks_uri));
    const { payload } = await jwtVerify(tokens.access_token, keys, { issuer: at.issuer, typ: 'at+jwt' });
    assert.equal(payload.exp - payload.iat, 300);
    assert.equal(payload.client_id, app.client_id);
    assert.equal(payload.sub, claims.sub);
    assert.equal(payload.org_id, acme.id);
    assert.ok(payload.jti && payload.aud, 'jti and aud');
    const set = await (await fetch(config.serverMetadata().jwks_uri)).json();
    for (const key of set.keys) for (const secret of ['d', 'p', 'q', 'k']) assert.ok(!(secret in key), `JWKS: ${secret}`);
  });

  await step('userinfo by GET and POST', async () => {
    const info = await client.fetchUserInfo(config, tokens.access_token, claims.sub);
    assert.equal(info.email, member.email);
    assert.equal(info.name, member.name);
    assert.equal(info.org_id, acme.id);
    const posted = await userinfo(config, tokens.access_token, 'POST');
    assert.equal(posted.status, 200);
    assert.deepEqual(await posted.json(), info);
  });

  if (app.method !== 'none') {
    await step('introspection', async () => {
      const answer = await client.tokenIntrospection(config, tokens.access_token);
      assert.equal(answer.active, true);
      assert.equal(answer.sub, claims.sub);
      assert.equal(answer.client_id, app.client_id);
      const refresh = await client.tokenIntrospection(config, tokens.refresh_token);
      assert.equal(refresh.active, true);
      assert.equal((await client.tokenIntrospection(config, 'nonsense')).active, false);
    });
  }

  await step('single sign-on: no second password', async () => {
    const again = await signIn(at, app, undefined, { person, prompt: 'none' });
    assert.equal(again.tokens.claims().sid, claims.sid);
    assert.equal(again.tokens.claims().auth_time, claims.auth_time);
  });

  await step('refresh rotates, reuse revokes the family', async () => {
    const second = await client.refreshTokenGrant(config, tokens.refresh_token);
    assert.notEqual(second.refresh_token, tokens.refresh_token);
    if (second.id_token) {
      assert.equal(second.claims().sub, claims.sub);
      assert.equal(second.claims().auth_time, claims.auth_time);
      assert.equal(second.claims().org_id, acme.id);
    }
    await client.fetchUserInfo(config, second.access_token, claims.sub);
    const third = await client.refreshTokenGrant(config, second.refresh_token);
    await refuses(client.refreshTokenGrant(config, tokens.refresh_token), 'invalid_grant');
    await refuses(client.refreshTokenGrant(config, third.refresh_token), 'invalid_grant');
    assert.equal((await userinfo(config, third.access_token)).status, 401);
  });

  await step('revocation', async () => {
    const { tokens } = await signIn(at, app, undefined, { person });
    await client.tokenRevocation(config, tokens.refresh_token, { token_type_hint: 'refresh_token' });
    await refuses(client.refreshTokenGrant(config, tokens.refresh_token), 'invalid_grant');
    assert.equal((await userinfo(config, tokens.access_token)).status, 401, 'access token of a revoked grant');
    if (app.method !== 'none') {
      for (const token of [tokens.refresh_token, tokens.access_token]) {
        assert.equal((await client.tokenIntrospection(config, token)).active, false);
      }
    }
    const other = (await signIn(at, app, undefined, { person })).tokens;
    await client.tokenRevocation(config, other.access_token, { token_type_hint: 'access_token' });
    assert.equal((await userinfo(config, other.access_token)).status, 401, 'revoked access token');
    await client.tokenRevocation(config, 'never-issued'); // RFC 7009: 200, nothing to learn from it
  });

  await step('logout', async () => {
    const { tokens } = await signIn(at, app, undefined, { person });
    const url = client.buildEndSessionUrl(config, {
      id_token_hint: tokens.id_token,
      post_logout_redirect_uri: app.post_logout_redirect_uri,
      state: 'after',
    });
    let page = await person.go(url);
    if (page.forms?.some(confirms)) page = await person.submit(page, confirms);
    assert.ok(page.arrived, `stuck at ${describe(page)}`);
    assert.equal(page.arrived.searchParams.get('state'), 'after');
    const silent = await begin(config, app, { ...at.extra, prompt: 'none' });
    const answer = await person.go(silent.url);
    assert.equal(answer.arrived?.searchParams.get('error'), 'login_required', describe(answer));
  });
}

await check('deployment issuer without an organization asks for it', async () => {
  const config = await discover(fixture.public_url, basic);
  const person = new Person(basic.redirect_uri);
  const sign_in = await begin(config, basic);
  const arrived = await person.authorize(sign_in.url, globex.members.grace, { choose: 'globex' });
  const tokens = await redeem(sign_in, arrived);
  assert.equal(tokens.claims().org_id, globex.id);
});

await check('organization_id by id, slug and external id', async () => {
  for (const organization_id of [acme.id, 'acme', acme.external_id]) {
    const at = { issuer: fixture.public_url, extra: { organization_id } };
    const { tokens } = await signIn(at, basic, acme.members.ada);
    assert.equal(tokens.claims().org_id, acme.id);
  }
});

await check('one address in two organizations is two people', async () => {
  const here = await signIn(issuers[0], basic, acme.members.both);
  const there = await signIn({ issuer: globex.issuer }, basic, globex.members.both);
  assert.equal(here.tokens.claims().email, there.tokens.claims().email);
  assert.notEqual(here.tokens.claims().sub, there.tokens.claims().sub);
  // The password of one is nothing in the other.
  const person = new Person(basic.redirect_uri);
  const config = await discover(globex.issuer, basic);
  const page = await person.go((await begin(config, basic)).url);
  const refused = await person.signIn(page, acme.members.both);
  assert.ok(refused.forms?.some(asksForPassword), describe(refused));
});

await check('deactivation of a member ends sessions and grants at both issuers', async () => {
  const path = `/v1/organizations/${acme.id}/members/${acme.members.leaver.id}/deactivation`;
  const signed = [];
  for (const at of issuers) signed.push({ at, ...(await signIn(at, basic, acme.members.leaver)) });
  await api('PUT', path);
  for (const { at, config, tokens, person } of signed) {
    await refuses(client.refreshTokenGrant(config, tokens.refresh_token), 'invalid_grant');
    assert.equal((await userinfo(config, tokens.access_token)).status, 401);
    assert.equal((await client.tokenIntrospection(config, tokens.access_token)).active, false);
    const answer = await person.go((await begin(config, basic, { ...at.extra, prompt: 'none' })).url);
    assert.equal(answer.arrived?.searchParams.get('error'), 'login_required', describe(answer));
  }
  await api('DELETE', path);
});

await import('./openid_refusals.mjs');

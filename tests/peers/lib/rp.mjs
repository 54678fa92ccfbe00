// An application (relying party) made of the unmodified `openid-client` library.

import * as client from 'openid-client';
import { fixture } from './fixture.mjs';
import { Person } from './person.mjs';

const methods = {
  basic: (app) => client.ClientSecretBasic(app.client_secret),
  post: (app) => client.ClientSecretPost(app.client_secret),
  none: () => client.None(),
};

/** The two addresses at which every application may sign people in. */
export const issuers = [
  { name: 'own issuer', issuer: fixture.organizations.acme.issuer, extra: {} },
  { name: 'deployment issuer', issuer: fixture.public_url, extra: { organization: 'acme' } },
];

/** Discovers an issuer for one of the fixture's applications: `basic`, `post`, `public`, `other`. */
export async function discover(issuer, app, { algorithm } = {}) {
  const metadata = { id_token_signed_response_alg: app.alg };
  const options = { execute: [client.allowInsecureRequests, client.enableNonRepudiationChecks], algorithm };
  return client.discovery(new URL(issuer), app.client_id, metadata, methods[app.method](app), options);
}

/** A sign-in about to begin: the address to open, and what must be remembered until the answer. */
export async function begin(config, app, parameters = {}) {
  const verifier = client.randomPKCECodeVerifier();
  const sign_in = { config, app, verifier, state: client.randomState(), nonce: client.randomNonce() };
  const all = {
    redirect_uri: app.redirect_uri,
    scope: 'openid profile email offline_access',
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    state: sign_in.state,
    nonce: sign_in.nonce,
    ...parameters,
  };
  for (const [name, value] of Object.entries(all)) if (value === undefined) delete all[name];
  sign_in.url = client.buildAuthorizationUrl(config, all);
  return sign_in;
}

/** Exchanges the code for tokens, with every check that the library has. */
export function redeem(sign_in, arrived, changed = {}) {
  return client.authorizationCodeGrant(changed.config ?? sign_in.config, arrived, {
    pkceCodeVerifier: sign_in.verifier,
    expectedState: sign_in.state,
    expectedNonce: sign_in.nonce,
    idTokenExpected: true,
    ...changed.checks,
  });
}

/** From nothing to tokens. */
export async function signIn({ issuer, extra = {} }, app, member, { person, ...parameters } = {}) {
  person ??= new Person(app.redirect_uri);
  const config = await discover(issuer, app);
  const sign_in = await begin(config, app, { ...extra, ...parameters });
  const arrived = await person.authorize(sign_in.url, member);
  return { ...sign_in, person, arrived, tokens: await redeem(sign_in, arrived) };
}

/** The token endpoint without the library, for what no library would send. */
export async function post(url, form, app) {
  const headers = {};
  if (app?.client_secret) {
    const pair = `${encodeURIComponent(app.client_id)}:${encodeURIComponent(app.client_secret)}`;
    headers.authorization = `Basic ${btoa(pair)}`;
  }
  const response = await fetch(url, { method: 'POST', headers, body: new URLSearchParams(form), redirect: 'manual' });
  const text = await response.text();
  const json = response.headers.get('content-type')?.includes('json') ? JSON.parse(text) : undefined;
  return { status: response.status, headers: response.headers, json, text };
}

export function userinfo(config, token, method = 'GET') {
  const headers = { authorization: `Bearer ${token}` };
  return fetch(config.serverMetadata().userinfo_endpoint, { method, headers, redirect: 'manual' });
}

// One line a check, which `run` counts: "ok   name" or "FAIL name: why".

import assert from 'node:assert/strict';

const only = process.env.PEERS_ONLY && new RegExp(process.env.PEERS_ONLY, 'i');

/** Runs one check. A check that fails does not stop the others; its value is then undefined. */
export async function check(name, act) {
  if (only && !only.test(name)) return undefined;
  try {
    const value = await act();
    console.log(`ok   ${name}`);
    return value;
  } catch (error) {
    process.exitCode = 1;
    console.log(`FAIL ${name}: ${why(error).replaceAll('\n', '\n     ')}`);
    if (process.env.PEERS_TRACE) console.log(error.stack);
    return undefined;
  }
}

function why(error) {
  const parts = [error.message];
  if (error.error) parts.push(`${error.error}: ${error.error_description ?? ''}`);
  if (error.cause) parts.push(error.cause.message ?? JSON.stringify(error.cause));
  return parts.join(' | ');
}

/** The promise must end in this OAuth error, told by a 4xx answer. */
export async function refuses(promise, expected, statuses = [400, 401]) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    // A challenge (WWW-Authenticate) comes before the library reads the body.
    const told = error.error ?? (await error.response?.json().catch(() => undefined))?.error;
    assert.equal(told, expected, `refused otherwise: ${why(error)}`);
    if (error.status) assert.ok(statuses.includes(error.status), `${expected} with status ${error.status}`);
    return;
  }
  assert.fail(`accepted, should be ${expected}: ${JSON.stringify(value)}`);
}

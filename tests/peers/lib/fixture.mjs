// What `run` prepared (addresses, organizations, members, applications), and names below localhost.

import { readFileSync } from 'node:fs';
import dns from 'node:dns';

if (!process.env.PEERS_FIXTURE) {
  console.error('PEERS_FIXTURE is not set: start this through tests/peers/run');
  process.exit(2);
}

export const fixture = JSON.parse(readFileSync(process.env.PEERS_FIXTURE, 'utf8'));

// RFC 6761: localhost and all below it is this machine. The name service of many systems does not
// know; everything in Node that opens a socket by name goes through this function.
const lookup = dns.lookup;
dns.lookup = (host, options, callback) => {
  if (typeof options === 'function') [options, callback] = [{}, options];
  if (host !== 'localhost' && !host.endsWith('.localhost')) return lookup(host, options, callback);
  const found = { address: '127.0.0.1', family: 4 };
  process.nextTick(() => (options.all ? callback(null, [found]) : callback(null, found.address, found.family)));
};

/** A request to the operator's API; throws unless it answers with a success. */
export async function api(method, path, body) {
  const response = await fetch(new URL(path, fixture.public_url), {
    method,
    headers: { authorization: `Bearer ${fixture.operator_key}`, ...(body && { 'content-type': 'application/json' }) },
    body: body && JSON.stringify(body),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return text ? JSON.parse(text) : null;
}

// A person with a browser that has no scripts: follows redirects, keeps cookies for each host,
// reads forms and submits them with all of their hidden fields.

import assert from 'node:assert/strict';

export class Person {
  #cookies = new Map();

  /** @param arrivals addresses of applications: a redirect to one of them is where a journey ends */
  constructor(...arrivals) {
    this.arrivals = arrivals;
  }

  /** Loads a page, through all redirects. Gives `{arrived}` where an application would take over. */
  async go(address, form) {
    let url = new URL(address);
    let body = form && new URLSearchParams(form);
    for (let hops = 0; hops < 15; hops++) {
      if (this.arrivals.some((arrival) => same(new URL(arrival), url))) return { arrived: url };
      const headers = { accept: 'text/html', cookie: this.#cookieHeader(url) };
      // Browsers name where a form comes from; a server may insist on it.
      if (body) Object.assign(headers, { origin: url.origin, 'sec-fetch-site': 'same-origin' });
      const method = body ? 'POST' : 'GET';
      const response = await fetch(url, { method, body, headers, redirect: 'manual' });
      this.#keep(url, response);
      const location = response.headers.get('location');
      if (location && response.status >= 300 && response.status < 400) {
        await response.arrayBuffer();
        url = new URL(location, url);
        if (![307, 308].includes(response.status)) body = undefined;
        continue;
      }
      const html = await response.text();
      return { status: response.status, headers: response.headers, url, html, forms: forms(html, url) };
    }
    throw new Error(`too many redirects, the last to ${url}`);
  }

  /** Submits the form in which `which` holds, with what was typed and the button pressed. */
  async submit(page, which, typed) {
    const form = page.forms?.find(which);
    assert.ok(form, `no such form on ${describe(page)}`);
    const fields = { ...form.fields, ...typed };
    if (form.method === 'post') return this.go(form.action, fields);
    const url = new URL(form.action);
    url.search = new URLSearchParams(fields);
    return this.go(url);
  }

  async signIn(page, member) {
    return this.submit(page, asksForPassword, { email: member.email, password: member.password });
  }

  /** The whole way from the authorization address back to the application. */
  async authorize(address, member, { choose } = {}) {
    let page = await this.go(address);
    for (let step = 0; step < 5 && !page.arrived; step++) {
      if (page.forms.some(asksForPassword)) {
        assert.ok(member, `a password is asked for, though the person is signed in: ${describe(page)}`);
        page = await this.signIn(page, member);
        member = undefined; // one attempt: asked again, the password was not accepted
      } else if (page.forms.some(confirms)) {
        page = await this.submit(page, confirms, { action: 'continue' });
      } else if (choose && page.forms.some(asksForOrganization)) {
        page = await this.submit(page, asksForOrganization, { organization: choose });
      } else break;
    }
    assert.ok(page.arrived, `stuck at ${describe(page)}`);
    return page.arrived;
  }

  /** Forgets every cookie, as a new browser would. */
  forget() {
    this.#cookies.clear();
  }

  cookies(host) {
    return this.#cookies.get(host) ?? new Map();
  }

  #cookieHeader(url) {
    return [...this.cookies(url.hostname)].map(([name, value]) => `${name}=${value}`).join('; ');
  }

  #keep(url, response) {
    for (const line of response.headers.getSetCookie()) {
      const [pair, ...attributes] = line.split(';').map((part) => part.trim());
      const [name, value] = [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)];
      const has = (wanted) => attributes.find((a) => a.toLowerCase().startsWith(wanted));
      // A cookie with a domain would reach the other organizations' hosts.
      assert.ok(!has('domain'), `cookie ${name} of ${url.host} has a domain`);
      assert.ok(has('samesite'), `cookie ${name} of ${url.host} has no SameSite`);
      assert.ok(has('httponly'), `cookie ${name} of ${url.host} is readable by scripts`);
      const jar = this.cookies(url.hostname);
      const gone = has('max-age=0') || new Date(has('expires=')?.slice(8)) < new Date();
      if (gone || value === '') jar.delete(name);
      else jar.set(name, value);
      this.#cookies.set(url.hostname, jar);
    }
  }
}

export const asksForPassword = (form) => form.types.includes('password') && 'email' in form.fields;
export const asksForOrganization = (form) => 'organization' in form.fields && !form.types.includes('password');
export const confirms = (form) => new URL(form.action).pathname.endsWith('/confirm');

export function describe(page) {
  if (page.arrived) return `${page.arrived}`;
  const text = page.html.replace(/<(style|script|head)[\s\S]*?<\/\1>/g, ' ').replace(/<[^>]+>/g, ' ');
  return `${page.status} ${page.url.origin}${page.url.pathname}: ${decode(text).replace(/\s+/g, ' ').trim().slice(0, 240)}`;
}

const same = (a, b) => a.origin === b.origin && a.pathname === b.pathname;

function forms(html, base) {
  return [...html.matchAll(/<form\b([^>]*)>([\s\S]*?)<\/form>/gi)].map(([, tag, inside]) => {
    const form = attributes(tag);
    const fields = {};
    const types = [];
    for (const [, input] of inside.matchAll(/<input\b([^>]*)>/gi)) {
      const { name, value = '', type = 'text', ...rest } = attributes(input);
      types.push(type.toLowerCase());
      if (name && (!/^(checkbox|radio)$/.test(type) || 'checked' in rest)) fields[name] = value;
    }
    return {
      action: new URL(form.action ?? '', base).href,
      method: (form.method ?? 'get').toLowerCase(),
      fields,
      types,
    };
  });
}

function attributes(tag) {
  const found = {};
  for (const [, name, double, single, bare] of tag.matchAll(/([\w:-]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+)))?/g)) {
    found[name.toLowerCase()] = decode(double ?? single ?? bare ?? '');
  }
  return found;
}

function decode(text) {
  const named = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: ' ' };
  return text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, (all, hex, number, name) => {
    if (hex) return String.fromCodePoint(parseInt(hex, 16));
    if (number) return String.fromCodePoint(Number(number));
    return named[name] ?? all;
  });
}

// A real browser (chromium through playwright-core) at the demo application and the hosted pages:
// both issuers, phone and desktop, light and dark, with and without scripts, axe on every kind of
// page, nothing loaded from elsewhere, nothing in the console.
//
// Takes the folder for the screenshots; the pictures are there to be looked at.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AxeBuilder } from '@axe-core/playwright';
import { chromium } from 'playwright-core';
import { check } from './lib/checks.mjs';
import { api, fixture } from './lib/fixture.mjs';

const folder = process.argv[2] ?? mkdtempSync(join(tmpdir(), 'bulkhead-pages-'));
mkdirSync(folder, { recursive: true });
const { acme, globex } = fixture.organizations;
const ada = acme.members.ada;

const executablePath =
  process.env.CHROMIUM_BIN ?? ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);
assert.ok(executablePath, 'no chromium; name one in CHROMIUM_BIN');
const browser = await chromium.launch({
  executablePath,
  args: [
    ...['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking'],
    ...['--disable-component-update', '--disable-sync', '--no-proxy-server'],
  ],
});

const sizes = { phone: { width: 360, height: 740 }, desktop: { width: 1440, height: 900 } };

/** A new browser profile, with what was seen in it that should not have been. */
class Visit {
  static async start(label, { size = 'desktop', scheme = 'light', scripts = true } = {}) {
    const visit = new Visit();
    Object.assign(visit, { label, scripts, problems: [], shots: 0 });
    visit.context = await browser.newContext({
      viewport: sizes[size] ?? size,
      colorScheme: scheme,
      javaScriptEnabled: scripts,
      reducedMotion: 'reduce',
    });
    visit.context.setDefaultTimeout(120_000);
    const page = (visit.page = await visit.context.newPage());
    page.on('request', (request) => {
      const { protocol, hostname } = new URL(request.url());
      if (protocol === 'data:') return;
      if (hostname !== 'localhost' && !hostname.endsWith('.localhost')) visit.problems.push(`request to ${request.url()}`);
    });
    page.on('pageerror', (error) => visit.problems.push(`error in a script: ${error.message}`));
    page.on('console', (message) => {
      // A refusal is a page with a 4xx status, which the browser notes; everything else is ours.
      const noted = /status of 4\d\d/.test(message.text()) && message.location().url === page.url();
      if (['error', 'warning'].includes(message.type()) && !noted) visit.problems.push(`console: ${message.text()}`);
    });
    return visit;
  }

  /** Takes the picture, and looks for what a picture does not show. */
  async see(name) {
    const { page } = this;
    const number = String(++this.shots).padStart(2, '0');
    // A page of many screens is more than a browser can draw as one picture.
    const fullPage = await page.evaluate(() => document.documentElement.scrollHeight < 12_000);
    await page.screenshot({ path: join(folder, `${this.label}-${number}-${name}.png`), fullPage });
    if (!this.scripts) return;
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(wide <= 0, `${name} is ${wide} px too wide`);
    const { violations } = await new AxeBuilder({ page }).analyze();
    const told = violations.map((v) => `${v.id} (${v.help}): ${v.nodes.map((n) => n.target.join(' ')).join(', ')}`);
    assert.deepEqual(told, [], `axe on ${name}`);
  }

  /** Fills the form that has these fields and presses its first button. */
  async submit(fields) {
    const names = Object.keys(fields);
    const form = this.page.locator(`form${names.map((name) => `:has([name="${name}"])`).join('')}`).first();
    for (const name of names) await form.locator(`[name="${name}"]`).fill(fields[name]);
    await form.locator('button:not([type="button"]), input[type="submit"]').first().click();
    await this.page.waitForLoadState();
  }

  /** The code that was sent last to an address, read from the local mailbox page. */
  async code(address) {
    const mailbox = await this.context.newPage();
    try {
      for (let tries = 0; tries < 400; tries++) {
        await mailbox.goto(new URL('/mailbox', fixture.public_url).href);
        const text = await mailbox.locator('body').innerText();
        const code = text.slice(Math.max(text.indexOf(address), 0)).match(/\b(\d{3})[ \-\u2009\u202f\u00a0]?(\d{3})\b/);
        if (text.includes(address) && code) {
          await mailbox.screenshot({ path: join(folder, `${this.label}-mailbox.png`) });
          return code[1] + code[2];
        }
        await mailbox.waitForTimeout(250);
      }
      throw new Error(`no code for ${address} in the mailbox`);
    } finally {
      await mailbox.close();
    }
  }

  async at(url) {
    await this.page.waitForURL(url);
  }

  async end() {
    await this.context.close();
    assert.deepEqual(this.problems, []);
  }
}

async function visit(label, options, act) {
  await check(`browser: ${label}`, async () => {
    const visit = await Visit.start(label, options);
    try {
      await act(visit, visit.page);
    } catch (error) {
      const path = join(folder, `${label}-failed.png`);
      await visit.page.screenshot({ path, fullPage: true }).catch(() => {});
      await visit.context.close();
      const seen = visit.problems.length ? `; seen: ${visit.problems.join('; ')}` : '';
      throw new Error(`${error.message} (at ${visit.page.url()}, see ${path}${seen})`);
    }
    await visit.end();
  });
}

const demo = fixture.demo_url;
const home = (url) => url.origin === new URL(demo).origin && url.pathname === '/';

/** Through the demo application: sign in, refresh, sign out. */
async function signInAndOut(v, way, organization, member) {
  const { page } = v;
  await page.goto(demo);
  await v.see('demo');
  const form = page.locator(`form:has(input[name="at"][value="${way}"])`);
  await form.locator('input[name="organization"]').fill(organization);
  await form.locator('button').click();
  await page.locator('input[name="password"]').waitFor();
  await v.see('sign-in');
  await v.submit({ email: member.email, password: 'not the password' });
  await page.locator('input[name="password"]').waitFor();
  assert.equal(await page.locator('input[name="email"]').inputValue(), member.email, 'what was typed is gone');
  await v.see('sign-in-wrong');
  await v.submit({ email: member.email, password: member.password });
  await v.at(home);
  assert.equal(await page.locator('#claim-org_slug').innerText(), organization);
  assert.equal(await page.locator('#claim-email').innerText(), member.email);
  await v.see('demo-signed-in');
  await page.getByRole('button', { name: 'Refresh tokens' }).click();
  await page.getByText('refreshed once').waitFor();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.waitForLoadState();
  if (!home(new URL(page.url()))) {
    await v.see('signed-out');
    await page.locator('form button:not([type="button"])').first().click();
  }
  await v.at(home);
  await page.getByRole('button', { name: 'Sign in', exact: true }).waitFor();
}

for (const size of Object.keys(sizes)) {
  for (const scheme of ['light', 'dark']) {
    for (const way of ['deployment', 'organization']) {
      await visit(`${way}-issuer-${size}-${scheme}`, { size, scheme }, (v) => signInAndOut(v, way, 'acme', ada));
    }
  }
}
for (const way of ['deployment', 'organization']) {
  await visit(`${way}-issuer-without-scripts`, { size: 'phone', scripts: false }, (v) =>
    signInAndOut(v, way, 'globex', globex.members.grace),
  );
}

for (const [size, scheme] of [['phone', 'light'], ['desktop', 'dark']]) {
  await visit(`choose-organization-${size}-${scheme}`, { size, scheme }, async (v, page) => {
    await page.goto(demo);
    await page.locator('form:has(input[value="deployment"]) button').click();
    await page.locator('[name="organization"]').waitFor();
    await v.see('choose');
    await v.submit({ organization: 'acme' });
    await page.locator('input[name="password"]').waitFor();
    await v.see('sign-in');
  });

  await visit(`account-${size}-${scheme}`, { size, scheme }, async (v, page) => {
    await page.goto(acme.url);
    await page.locator('input[name="email"]').fill(ada.email);
    // Without a mouse: Tab to the password, Enter to send it.
    await page.locator('input[name="email"]').focus();
    await page.keyboard.press('Tab');
    for (let tabs = 0; tabs < 3; tabs++) {
      if (await page.locator('input[name="password"]:focus').count()) break;
      await page.keyboard.press('Tab');
    }
    await page.keyboard.type(ada.password);
    await page.keyboard.press('Enter');
    await v.at((url) => url.pathname.endsWith('/account'));
    await v.see('account');
    await v.submit({ current_password: 'not the password', new_password: 'quiet harbour lamp 27' });
    await v.see('account-wrong-password');
  });

  await visit(`first-password-${size}-${scheme}`, { size, scheme }, async (v, page) => {
    const email = `new-${size}@acme.test`;
    await api('POST', `/v1/organizations/${acme.id}/members`, { email, name: 'Noor Newcomer' });
    await page.goto(new URL('/recovery', acme.url).href);
    await v.see('recovery');
    await v.submit({ email });
    await page.locator('[name="code"]').waitFor();
    await v.see('recovery-code');
    await v.submit({ code: '000000' });
    await v.see('recovery-code-wrong');
    await v.submit({ code: await v.code(email) });
    await page.locator('input[name="password"]').waitFor();
    await v.see('recovery-password');
    await v.submit({ password: 'password' });
    await v.see('recovery-password-weak');
    await v.submit({ password: 'quiet harbour lamp 27' });
    await v.at((url) => url.pathname.endsWith('/account'));
    await v.see('account');
  });
}

for (const [name, size, scheme, scripts] of [
  ['phone', { width: 390, height: 844 }, 'light', true],
  ['desktop', sizes.desktop, 'dark', true],
  ['phone-without-scripts', { width: 390, height: 844 }, 'dark', false],
]) {
  await visit(`export-${name}`, { size, scheme, scripts }, async (v, page) => {
    await page.goto(acme.url);
    await v.submit({ email: ada.email, password: ada.password });
    await v.at((url) => url.pathname.endsWith('/account'));
    await v.see('account');
    await page.getByRole('link', { name: /export/i }).click();
    await v.at((url) => url.pathname.endsWith('/account/export'));
    await v.see('export');
    const make = page.locator('form[action$="/account/export"]');
    await make.locator('[name="password"]').fill('not the password');
    await make.getByRole('button', { name: 'Make an export' }).click();
    await page.waitForLoadState();
    await v.see('export-wrong-password');
    await make.locator('[name="password"]').fill(ada.password);
    await make.getByRole('button', { name: 'Make an export' }).click();
    await page.waitForURL((url) => url.search === '?done=begun');
    await v.see('export-begun');
    // As a person would, until it is there.
    const fetchForms = page.locator('form[action$="/content"]');
    const before = name === 'phone' ? 0 : name === 'desktop' ? 1 : 2;
    for (let tries = 0; tries < 1000 && (await fetchForms.count()) <= before; tries++) {
      await page.waitForTimeout(250);
      await page.goto(new URL('/account/export', acme.url).href);
    }
    await v.see('export-ready');
    const newest = fetchForms.first();
    await newest.locator('[name="password"]').fill('not the password');
    await newest.getByRole('button', { name: 'Download' }).click();
    await page.waitForLoadState();
    await v.see('export-download-wrong-password');
    // Told beside the field that was wrong, and not beside the other.
    assert.equal(await page.locator('form[action$="/content"] .field-error').count(), 1);
    assert.equal(await make.locator('.field-error').count(), 0);
    await fetchForms.first().locator('[name="password"]').fill(ada.password);
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      fetchForms.first().getByRole('button', { name: 'Download' }).click(),
    ]);
    assert.match(download.suggestedFilename(), /^bulkhead-export-acme-\d{8}T\d{6}Z\.tar\.zst$/);
    // RFC 8878 section 3.1.1: how a frame of zstd begins.
    assert.equal(readFileSync(await download.path()).subarray(0, 4).toString('hex'), '28b52ffd');
  });
}

for (const [size, scheme, scripts] of [['phone', 'dark', true], ['desktop', 'light', true], ['phone', 'light', false]]) {
  const label = `sign-up-${size}-${scheme}${scripts ? '' : '-without-scripts'}`;
  await visit(label, { size, scheme, scripts }, async (v, page) => {
    const slug = `new-${size}-${scheme}`;
    const email = `owner@${slug}.test`;
    await page.goto(fixture.public_url);
    await v.see('landing');
    await page.goto(new URL('/sign-up', fixture.public_url).href);
    await v.see('sign-up');
    await v.submit({ email });
    await page.locator('[name="code"]').waitFor();
    await v.see('code');
    await v.submit({ code: await v.code(email) });
    await page.locator('[name="slug"]').waitFor();
    await v.see('organization');
    const form = { name: 'Wissenschaftliche Verlagsgesellschaft mbH & Co. KG', full_name: 'Wilhelmine Wissenschaft' };
    await v.submit({ ...form, slug: 'acme', password: 'quiet harbour lamp 27' });
    await page.locator('[name="slug"]').waitFor();
    await v.see('organization-slug-taken');
    await v.submit({ ...form, slug, password: 'quiet harbour lamp 27' });
    await v.at((url) => url.hostname === `${slug}.localhost` && url.pathname === '/relay');
    await v.see('welcome');
    await page.click('button[type=submit]');
    await v.at((url) => url.hostname === `${slug}.localhost` && url.pathname === '/account');
    await v.see('account');
  });
}

await visit('documents', {}, async (v, page) => {
  for (const path of ['/docs/api', '/mailbox', '/', '/nowhere']) {
    await page.goto(new URL(path, fixture.public_url).href);
    await v.see(path.replaceAll('/', '-').slice(1) || 'landing');
  }
});

await check('browser: the sign-in page weighs less than 60 KB in all', async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  const bodies = [];
  page.on('response', (response) => bodies.push(response.body().catch(() => Buffer.alloc(0))));
  await page.goto(new URL('/sign-in', acme.url).href, { waitUntil: 'networkidle' });
  const bytes = (await Promise.all(bodies)).reduce((sum, body) => sum + body.length, 0);
  await context.close();
  assert.ok(bytes < 60_000, `${bytes} bytes`);
});

await browser.close();
console.log(`     screenshots in ${folder}`);

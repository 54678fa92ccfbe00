-- The file of one organization. Times are integer milliseconds since 1970 UTC; ids are their text.
-- Each table and each index costs a page of every file, so none is here without a query that needs it.

CREATE TABLE organization (
  singleton    INTEGER PRIMARY KEY CHECK (singleton = 1),
  id           TEXT NOT NULL,                 -- the stamp: compared with the catalog at every open
  name         TEXT NOT NULL,
  slug         TEXT NOT NULL,
  external_id  TEXT,
  hosts        TEXT NOT NULL DEFAULT '[]',    -- JSON array of custom hosts
  state        TEXT NOT NULL CHECK (state IN ('active', 'suspended')),
  metadata     TEXT NOT NULL DEFAULT '{}',    -- JSON object of strings, the SaaS team's own
  accent       TEXT,                          -- '#rrggbb'
  policy       TEXT NOT NULL DEFAULT '{}',    -- JSON object; what is absent is the deployment's default
  created_at   INTEGER NOT NULL,
  updated_at   INTEGER NOT NULL
) STRICT;

CREATE TABLE member (
  id              TEXT PRIMARY KEY,
  email           TEXT NOT NULL,
  email_key       TEXT NOT NULL UNIQUE,       -- lower case
  name            TEXT,
  username        TEXT,
  phone           TEXT,
  title           TEXT,
  status          TEXT NOT NULL CHECK (status IN ('pending', 'active', 'inactive')),
  roles           TEXT NOT NULL,              -- JSON array of role slugs
  email_verified  INTEGER NOT NULL DEFAULT 0,
  password_hash   TEXT,                       -- PHC string, argon2id
  password_set_at INTEGER,
  failed_attempts INTEGER NOT NULL DEFAULT 0,
  locked_until    INTEGER,
  created_at      INTEGER NOT NULL,
  updated_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE session (
  id              TEXT PRIMARY KEY,
  member_id       TEXT NOT NULL REFERENCES member (id) ON DELETE CASCADE,
  token_hash      BLOB NOT NULL UNIQUE,       -- SHA-256
  amr             TEXT NOT NULL,              -- separated by spaces, RFC 8176
  auth_time       INTEGER NOT NULL,
  ip_address      TEXT,
  user_agent      TEXT,
  created_at      INTEGER NOT NULL,
  last_seen_at    INTEGER NOT NULL,
  idle_expires_at INTEGER NOT NULL,
  expires_at      INTEGER NOT NULL,
  ended_at        INTEGER,
  end_reason      TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX session_by_member ON session (member_id, id);

-- A six-digit code on its way to a mailbox, or the proof that it arrived.
CREATE TABLE email_challenge (
  id          TEXT PRIMARY KEY,
  member_id   TEXT REFERENCES member (id) ON DELETE CASCADE, -- null: no such member; the answer is the same
  code_hash   BLOB NOT NULL,
  attempts    INTEGER NOT NULL DEFAULT 0,
  proven_at   INTEGER,
  used_at     INTEGER,
  created_at  INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Hand-overs from the deployment's address that have arrived: each is good once.
CREATE TABLE used_relay (
  token_hash BLOB PRIMARY KEY,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What one authorization gave to one application; ends with its session.
CREATE TABLE oauth_grant (
  id             TEXT PRIMARY KEY,
  application_id TEXT NOT NULL,
  member_id      TEXT NOT NULL REFERENCES member (id) ON DELETE CASCADE,
  session_id     TEXT NOT NULL REFERENCES session (id) ON DELETE CASCADE,
  issuer         TEXT NOT NULL CHECK (issuer IN ('organization', 'deployment')),
  scope          TEXT NOT NULL,
  nonce          TEXT,
  redirect_uri   TEXT NOT NULL,
  code_hash      BLOB NOT NULL UNIQUE,
  code_challenge TEXT NOT NULL,               -- S256, RFC 7636 section 4.2
  code_expires_at INTEGER NOT NULL,
  code_used_at   INTEGER,
  created_at     INTEGER NOT NULL,
  revoked_at     INTEGER,
  revoke_reason  TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX oauth_grant_by_session ON oauth_grant (session_id);

CREATE TABLE refresh_token (
  token_hash BLOB PRIMARY KEY,
  grant_id   TEXT NOT NULL REFERENCES oauth_grant (id) ON DELETE CASCADE,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  used_at    INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX refresh_token_by_grant ON refresh_token (grant_id);

-- Access tokens that were revoked one by one; kept until they would have expired.
CREATE TABLE revoked_access_token (
  jti        TEXT PRIMARY KEY,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE signing_key (
  id          TEXT PRIMARY KEY,
  algorithm   TEXT NOT NULL CHECK (algorithm IN ('RS256', 'ES256')),
  public_jwk  TEXT NOT NULL,
  private_key BLOB NOT NULL,                  -- sealed PKCS#8
  created_at  INTEGER NOT NULL,
  active_from INTEGER NOT NULL,
  retire_at   INTEGER                         -- leaves the JWKS
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key (
  id           TEXT PRIMARY KEY,
  name         TEXT NOT NULL,
  secret_hash  BLOB NOT NULL UNIQUE,
  suffix       TEXT NOT NULL,
  scopes       TEXT NOT NULL,                 -- JSON array
  created_at   INTEGER NOT NULL,
  last_used_at INTEGER,
  expires_at   INTEGER,
  revoked_at   INTEGER
) STRICT, WITHOUT ROWID;

-- Hash-chained: hash = SHA-256 over (prev_hash, sequence, id, occurred_at, action, outcome, payload_digest).
-- The payload with its personal data can be blanked without breaking the chain, since only its salted
-- digest is in the hash.
CREATE TABLE audit_event (
  sequence       INTEGER PRIMARY KEY,
  id             TEXT NOT NULL UNIQUE,
  occurred_at    INTEGER NOT NULL,
  action         TEXT NOT NULL,
  outcome        TEXT NOT NULL CHECK (outcome IN ('success', 'failure')),
  payload        TEXT,                        -- JSON: actor, targets, context, request_id, metadata
  payload_salt   BLOB,
  payload_digest BLOB NOT NULL,
  prev_hash      BLOB NOT NULL,
  hash           BLOB NOT NULL
) STRICT;

-- Effects outside this file, delivered after commit.
CREATE TABLE outbox (
  id              TEXT PRIMARY KEY,
  kind            TEXT NOT NULL,
  payload         BLOB NOT NULL,              -- sealed
  attempts        INTEGER NOT NULL DEFAULT 0,
  created_at      INTEGER NOT NULL,
  next_attempt_at INTEGER NOT NULL,
  failed_at       INTEGER
) STRICT, WITHOUT ROWID;

-- Answers to requests with an Idempotency-Key, kept for 24 hours.
CREATE TABLE idempotency (
  key          BLOB PRIMARY KEY,              -- SHA-256 of (caller, key)
  request_hash BLOB NOT NULL,
  status       INTEGER,                       -- null while the first request runs
  body         BLOB,                          -- sealed
  created_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The global directory: routing facts and what belongs to the deployment. No names of people, no e-mail
-- addresses, no names of organizations: whoever reads this file learns where things are, not who they are.

CREATE TABLE organization (
  id             TEXT PRIMARY KEY,
  slug           TEXT NOT NULL UNIQUE,
  external_id    TEXT UNIQUE,
  state          TEXT NOT NULL CHECK (state IN ('creating', 'active', 'suspended')),
  placement      TEXT NOT NULL DEFAULT 'local',
  schema_version INTEGER NOT NULL,
  created_at     INTEGER NOT NULL,
  updated_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- What a crash left half done; empty otherwise, so that start-up does not walk the organizations.
CREATE INDEX organization_creating ON organization (id) WHERE state = 'creating';

-- Slugs and external ids that organizations gave up: nobody else may take them, and with them an address
-- and an issuer that apps and people still trust.
CREATE TABLE retired_name (
  name            TEXT PRIMARY KEY,
  organization_id TEXT NOT NULL REFERENCES organization (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE host (
  host            TEXT PRIMARY KEY,
  organization_id TEXT NOT NULL REFERENCES organization (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX host_by_organization ON host (organization_id);

-- How many organizations one mailbox has founded; the key is an HMAC of the address.
CREATE TABLE founder (
  email_mac       BLOB NOT NULL,
  organization_id TEXT NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
  PRIMARY KEY (email_mac, organization_id)
) STRICT, WITHOUT ROWID;

-- A sign-up on its way. The address itself travels sealed in the person's browser.
CREATE TABLE sign_up (
  id         TEXT PRIMARY KEY,
  email_mac  BLOB NOT NULL,
  code_hash  BLOB NOT NULL,
  attempts   INTEGER NOT NULL DEFAULT 0,
  proven_at  INTEGER,
  used_at    INTEGER,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sign_up_by_email ON sign_up (email_mac, created_at);

-- Apps are registered once for the deployment and usable in every organization.
CREATE TABLE application (
  id                           TEXT PRIMARY KEY, -- the client_id
  name                         TEXT NOT NULL,
  type                         TEXT NOT NULL CHECK (type IN ('confidential', 'public')),
  secret_hash                  BLOB,
  redirect_uris                TEXT NOT NULL,    -- JSON array
  post_logout_redirect_uris    TEXT NOT NULL,    -- JSON array
  id_token_signed_response_alg TEXT NOT NULL,
  state                        TEXT NOT NULL CHECK (state IN ('active', 'deleted')),
  created_at                   INTEGER NOT NULL,
  updated_at                   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key (
  id           TEXT PRIMARY KEY,
  name         TEXT NOT NULL,
  secret_hash  BLOB NOT NULL UNIQUE,
  suffix       TEXT NOT NULL,
  scopes       TEXT NOT NULL,                    -- JSON array
  created_at   INTEGER NOT NULL,
  last_used_at INTEGER,
  expires_at   INTEGER,
  revoked_at   INTEGER
) STRICT, WITHOUT ROWID;

-- The operators' log: the same chain as in an organization's file.
CREATE TABLE audit_event (
  sequence       INTEGER PRIMARY KEY,
  id             TEXT NOT NULL UNIQUE,
  occurred_at    INTEGER NOT NULL,
  action         TEXT NOT NULL,
  outcome        TEXT NOT NULL CHECK (outcome IN ('success', 'failure')),
  payload        TEXT,
  payload_salt   BLOB,
  payload_digest BLOB NOT NULL,
  prev_hash      BLOB NOT NULL,
  hash           BLOB NOT NULL
) STRICT;

-- Keys that sign tokens of the deployment's own issuer; sealed with the deployment's key.
CREATE TABLE signing_key (
  id          TEXT PRIMARY KEY,
  algorithm   TEXT NOT NULL CHECK (algorithm IN ('RS256', 'ES256')),
  public_jwk  TEXT NOT NULL,
  private_key BLOB NOT NULL,
  created_at  INTEGER NOT NULL,
  active_from INTEGER NOT NULL,
  retire_at   INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
  key          BLOB PRIMARY KEY,
  request_hash BLOB NOT NULL,
  status       INTEGER,
  body         BLOB,                             -- sealed with the deployment's key
  created_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

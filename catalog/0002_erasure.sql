-- Organizations that are to be erased, and those that were. From `erasing` on a row is a tombstone: it stays for
-- ever, so that its id never means another organization. It references nothing, because it outlives the rows of
-- the organization.
CREATE TABLE erasure (
  organization_id TEXT PRIMARY KEY,
  slug            TEXT NOT NULL,
  state           TEXT NOT NULL CHECK (state IN ('scheduled', 'erasing', 'erased', 'cancelled')),
  was_suspended   INTEGER NOT NULL,          -- before it was scheduled: a cancelled one is left as it was found
  requested_by    TEXT,                      -- the operator's key; null: on the machine itself
  requested_at    INTEGER NOT NULL,
  due_at          INTEGER NOT NULL,
  catalog_rows    TEXT,                      -- JSON: how many rows of which table were deleted here
  findings        TEXT,                      -- JSON: what there was before anything was destroyed
  replica         TEXT,                      -- JSON: what was deleted of the replica; 'null' if there was none
  erased_at       INTEGER,
  certificate     TEXT,                      -- compact JWS
  certificate_key TEXT                       -- JSON: the JWK that verifies it, for when the JWKS has moved on
) STRICT, WITHOUT ROWID;
CREATE INDEX erasure_due ON erasure (due_at) WHERE state IN ('scheduled', 'erasing');

-- Names of organizations that were erased. Nobody else may take them: apps and people may still trust such an
-- address and issuer.
CREATE TABLE tombstone_name (
  name            TEXT PRIMARY KEY,
  organization_id TEXT NOT NULL REFERENCES erasure (organization_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstone_name_by_organization ON tombstone_name (organization_id);

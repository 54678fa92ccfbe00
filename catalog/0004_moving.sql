-- Organizations that are frozen: nothing in their files changes. The reason is for operators, and names no people.
-- What counts is the organization's own log, whose newest event says so; this finds it without opening a file.
CREATE TABLE freeze (
  organization_id TEXT PRIMARY KEY REFERENCES organization (id) ON DELETE CASCADE,
  state           TEXT NOT NULL CHECK (state IN ('freezing', 'frozen', 'releasing')),
  reason          TEXT NOT NULL,
  requested_by    TEXT,                          -- the operator's key; null: on the machine itself
  since           INTEGER NOT NULL,
  certificate     TEXT,                          -- compact JWS
  certificate_key TEXT                           -- JSON: the JWK that verifies it
) STRICT, WITHOUT ROWID;

-- Files that stand on another volume than the data directory's own. Empty in most deployments.
CREATE INDEX organization_placed ON organization (placement, id) WHERE placement <> 'local';

-- Where the file of an organization is that is being erased: its own row is gone then.
ALTER TABLE erasure ADD COLUMN placement TEXT;

-- Files on their way from one volume to another; what a crash has left half done is in here.
CREATE TABLE relocation (
  organization_id TEXT PRIMARY KEY REFERENCES organization (id) ON DELETE CASCADE,
  source          TEXT NOT NULL,
  target          TEXT NOT NULL,
  state           TEXT NOT NULL CHECK (state IN ('copying', 'switched')),
  started_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Organizations on their way to or from another deployment. One that has left stays in here for good: it never takes
-- a write again under this transfer. It references nothing, because it outlives the organization's rows.
CREATE TABLE transfer (
  id              TEXT PRIMARY KEY,
  organization_id TEXT NOT NULL,
  direction       TEXT NOT NULL CHECK (direction IN ('departure', 'arrival')),
  state           TEXT NOT NULL CHECK (state IN ('prepared', 'leaving', 'gone', 'arrived', 'active', 'cancelling',
                                                     'cancelled')),
  peer            TEXT NOT NULL,                 -- the other deployment's address
  peer_key        TEXT,                          -- arrival: JSON, the JWK of the deployment that it comes from
  recipient       TEXT,                          -- age1…: whom the archive is sealed for
  identity        TEXT,                          -- arrival: what opens it, sealed with the deployment's key
  slug            TEXT NOT NULL,
  suspended       INTEGER NOT NULL DEFAULT 0,    -- arrival: it is suspended where it comes from
  archive_sha256  TEXT,
  audit_sequence  INTEGER,                       -- the end of the log that is in the archive
  audit_hash      TEXT,
  proof           TEXT,                          -- compact JWS: it has left; made when it had
  created_at      INTEGER NOT NULL,
  ended_at        INTEGER
) STRICT, WITHOUT ROWID;
-- One of a kind at a time.
CREATE UNIQUE INDEX transfer_open ON transfer (organization_id, direction)
  WHERE state IN ('prepared', 'leaving', 'gone', 'arrived', 'cancelling');

-- Files that an operator, or a check, has set aside: nobody gets in until they are released. The reason is for
-- operators, and names no people.
CREATE TABLE quarantine (
  organization_id TEXT PRIMARY KEY REFERENCES organization (id) ON DELETE CASCADE,
  reason          TEXT NOT NULL,
  since           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Walks over all organizations. They go on after a restart from where they were.
CREATE TABLE fleet_job (
  id         TEXT PRIMARY KEY,
  kind       TEXT NOT NULL CHECK (kind IN ('check', 'migration')),
  options    TEXT NOT NULL,                      -- JSON object
  state      TEXT NOT NULL CHECK (state IN ('running', 'paused', 'done', 'failed')),
  place      TEXT NOT NULL DEFAULT '',           -- where it has come to: the last one that was looked at
  total      INTEGER NOT NULL,
  done       INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  ended_at   INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX fleet_job_running ON fleet_job (id) WHERE state = 'running';

CREATE TABLE fleet_finding (
  job_id          TEXT NOT NULL REFERENCES fleet_job (id) ON DELETE CASCADE,
  sequence        INTEGER NOT NULL,
  organization_id TEXT,                          -- null: of no organization that the catalog knows
  code            TEXT NOT NULL,
  problem         TEXT NOT NULL,
  advice          TEXT NOT NULL,
  PRIMARY KEY (job_id, sequence)
) STRICT, WITHOUT ROWID;

-- A data key can be replaced: the one before stays for as long as something may need it.

CREATE TABLE data_key_by_version (
  name          TEXT NOT NULL,               -- an organization's id, or 'deployment'
  version       INTEGER NOT NULL DEFAULT 1,  -- the highest one seals
  wrapped       BLOB NOT NULL,               -- by the master key, bound to name and version
  master_key_id TEXT NOT NULL,               -- 'command:…' and 'http:…' are of an external provider
  created_at    INTEGER NOT NULL,
  replaced_at   INTEGER,                     -- since when there is a higher one
  resealed_at   INTEGER,                     -- since when nothing in the organization's file needs it
  PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;

INSERT INTO data_key_by_version (name, wrapped, master_key_id, created_at)
  SELECT name, wrapped, master_key_id, created_at FROM data_key;
DROP TABLE data_key;
ALTER TABLE data_key_by_version RENAME TO data_key;

CREATE INDEX data_key_replaced ON data_key (replaced_at) WHERE replaced_at IS NOT NULL;

-- Rotations of the master key, of which one at a time is not retired yet.
CREATE TABLE master_rotation (
  id          TEXT PRIMARY KEY,
  target      TEXT NOT NULL,      -- the master key that everything is wrapped by in the end
  retire_now  INTEGER NOT NULL,   -- whether the ones before leave their file as soon as nothing here needs them
  total       INTEGER NOT NULL,   -- keys to be wrapped anew when it began
  started_at  INTEGER NOT NULL,
  ended_at    INTEGER,            -- every key is wrapped by the target
  retire_at   INTEGER,            -- when the ones before may leave their file
  retired_at  INTEGER,
  last_error  TEXT
) STRICT;

-- Sweeps that give organizations new data keys, of which one at a time runs.
CREATE TABLE data_rotation (
  id          TEXT PRIMARY KEY,
  before      INTEGER NOT NULL,   -- keys made before this are replaced
  place       TEXT NOT NULL,      -- the name that it has come to
  total       INTEGER NOT NULL,
  done        INTEGER NOT NULL,
  skipped     INTEGER NOT NULL,   -- nothing is written to them for now, because somebody wants that
  failed      INTEGER NOT NULL,
  started_at  INTEGER NOT NULL,
  ended_at    INTEGER,
  last_error  TEXT
) STRICT;

-- Wrapped keys, and nothing else. A row that is deleted here makes a file unreadable everywhere.

CREATE TABLE data_key (
  name          TEXT PRIMARY KEY,   -- an organization's id, or 'deployment'
  wrapped       BLOB NOT NULL,      -- AES-256-GCM under the master key, bound to the name
  master_key_id TEXT NOT NULL,
  created_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- An organization's file can come under another key, or under none: for the time in between, either is right.

ALTER TABLE data_key ADD COLUMN stage TEXT NOT NULL DEFAULT 'settled'
  CHECK (stage IN (
    'coming',    -- of a whole file: it may not be under this key yet
    'going',     -- of a whole file: it may not be under this key any more
    'clearing',  -- copies from before are being deleted
    'settled'));
-- Whether copies from before are to be deleted once the file is under its key, or under none.
ALTER TABLE data_key ADD COLUMN clears INTEGER NOT NULL DEFAULT 0;
-- Since when it is as it is; null where it never was otherwise.
ALTER TABLE data_key ADD COLUMN settled_at INTEGER;

CREATE INDEX data_key_in_motion ON data_key (name) WHERE stage <> 'settled';

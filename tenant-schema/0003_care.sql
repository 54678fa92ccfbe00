-- Limits that operators have set for this organization; null is the deployment's default, 0 is none.
ALTER TABLE organization ADD COLUMN max_bytes INTEGER;
ALTER TABLE organization ADD COLUMN max_members INTEGER;
-- Names that led here before, as JSON array: nobody else may have them, also in a catalog that is made again from
-- the files.
ALTER TABLE organization ADD COLUMN former_names TEXT NOT NULL DEFAULT '[]';

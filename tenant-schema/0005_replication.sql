-- What a write has reached when it is acknowledged, as an operator has set it; null is the deployment's default.
ALTER TABLE organization ADD COLUMN replication TEXT CHECK (replication IN ('local', 'object'));

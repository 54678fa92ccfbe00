-- What operators have set for this organization of requests, hashes and written bytes, as JSON object; what is absent
-- is the deployment's default, 0 is no limit.
ALTER TABLE organization ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';

-- For whoever reads an export with any SQLite tool. Names and columns of these views stay as they are
-- (docs/EXPORT.md); times are UTC in ISO 8601. They hold no secret and cost no page of their own data.

CREATE VIEW v_organization AS
  SELECT id, name, slug, external_id, state, hosts, metadata, accent, policy,
         strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1000.0, 'unixepoch') AS created_at,
         strftime('%Y-%m-%dT%H:%M:%fZ', updated_at / 1000.0, 'unixepoch') AS updated_at
  FROM organization;

CREATE VIEW v_members AS
  SELECT id, email, name, username, phone, title, status, roles, email_verified,
         password_set_at IS NOT NULL AS has_password,
         strftime('%Y-%m-%dT%H:%M:%fZ', locked_until / 1000.0, 'unixepoch') AS locked_until,
         strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1000.0, 'unixepoch') AS created_at,
         strftime('%Y-%m-%dT%H:%M:%fZ', updated_at / 1000.0, 'unixepoch') AS updated_at
  FROM member;

CREATE VIEW v_sessions AS
  SELECT s.id, s.member_id, m.email, s.amr AS methods, s.ip_address, s.user_agent,
         strftime('%Y-%m-%dT%H:%M:%fZ', s.created_at / 1000.0, 'unixepoch') AS signed_in_at,
         strftime('%Y-%m-%dT%H:%M:%fZ', s.last_seen_at / 1000.0, 'unixepoch') AS last_seen_at,
         strftime('%Y-%m-%dT%H:%M:%fZ', s.expires_at / 1000.0, 'unixepoch') AS expires_at,
         strftime('%Y-%m-%dT%H:%M:%fZ', s.ended_at / 1000.0, 'unixepoch') AS ended_at, s.end_reason
  FROM session s JOIN member m ON m.id = s.member_id;

CREATE VIEW v_grants AS
  SELECT g.id, g.application_id, g.member_id, m.email, g.session_id, g.issuer, g.scope,
         strftime('%Y-%m-%dT%H:%M:%fZ', g.created_at / 1000.0, 'unixepoch') AS created_at,
         strftime('%Y-%m-%dT%H:%M:%fZ', g.revoked_at / 1000.0, 'unixepoch') AS revoked_at, g.revoke_reason
  FROM oauth_grant g JOIN member m ON m.id = g.member_id;

CREATE VIEW v_api_keys AS
  SELECT id, name, suffix, scopes,
         strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1000.0, 'unixepoch') AS created_at,
         strftime('%Y-%m-%dT%H:%M:%fZ', last_used_at / 1000.0, 'unixepoch') AS last_used_at,
         strftime('%Y-%m-%dT%H:%M:%fZ', expires_at / 1000.0, 'unixepoch') AS expires_at,
         strftime('%Y-%m-%dT%H:%M:%fZ', revoked_at / 1000.0, 'unixepoch') AS revoked_at
  FROM api_key;

CREATE VIEW v_audit AS
  SELECT sequence, id, strftime('%Y-%m-%dT%H:%M:%fZ', occurred_at / 1000.0, 'unixepoch') AS occurred_at,
         action, outcome, payload ->> '$.actor.type' AS actor_type, payload ->> '$.actor.id' AS actor_id,
         payload ->> '$.actor.name' AS actor_name, payload -> '$.targets' AS targets,
         payload ->> '$.context.ip_address' AS ip_address, payload ->> '$.context.user_agent' AS user_agent,
         payload ->> '$.request_id' AS request_id, payload -> '$.metadata' AS metadata,
         lower(hex(prev_hash)) AS prev_hash, lower(hex(hash)) AS hash
  FROM audit_event;

-- How a deployment that an organization has left gets it back, where the other one never served it: SHA-256, in
-- hexadecimal, of what the other one shows once it never will. Departures only; an arrival's own is derived.
ALTER TABLE transfer ADD COLUMN waiver_sha256 TEXT;

-- What the file of an arrival becomes here, as the other deployment has told it before anything was sent: 1 is one that
-- is ciphertext as a whole. Arrivals only; of a departure the keyring knows.
ALTER TABLE transfer ADD COLUMN encrypted INTEGER NOT NULL DEFAULT 0 CHECK (encrypted IN (0, 1));

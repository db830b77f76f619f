-- The mark of a session of a test login; empty in others. Another secret or number in
-- the configuration has another mark.
ALTER TABLE {sessions} ADD COLUMN test {id 64} NOT NULL DEFAULT '';

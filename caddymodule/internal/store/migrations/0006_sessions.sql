-- The first audience of the site that opened the session; empty: from before
-- there was this column.
ALTER TABLE {sessions} ADD COLUMN audience {text 512} NOT NULL DEFAULT '';
-- Why the session ended; empty while it has not.
ALTER TABLE {sessions} ADD COLUMN end_reason {id 32} NOT NULL DEFAULT '';
-- When the last access token of the session will have expired. It is known only
-- where tokens_counter equals counter: a replica from before these columns
-- advances the counter alone.
ALTER TABLE {sessions} ADD COLUMN tokens_until {int} NOT NULL DEFAULT 0;
ALTER TABLE {sessions} ADD COLUMN tokens_counter {int} NOT NULL DEFAULT 0;

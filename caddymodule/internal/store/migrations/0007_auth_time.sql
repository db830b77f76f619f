-- When the openid last logged in with a phone number here; 0: never. Unlike
-- phone_at, no import and no silent login sets it.
ALTER TABLE {bindings} ADD COLUMN auth_at {int} NOT NULL DEFAULT 0;

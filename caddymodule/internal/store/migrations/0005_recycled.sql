-- What an openid may do for its user: 0 active; 1 suspended, because another
-- WeChat account logged in with the user's number; 2 detached, because WeChat
-- reported that its owner left. state_at is by the database's clock.
ALTER TABLE {bindings} ADD COLUMN state {int} NOT NULL DEFAULT 0;
ALTER TABLE {bindings} ADD COLUMN state_at {int} NOT NULL DEFAULT 0;
UPDATE {bindings} SET state = 2 WHERE phone_at = 0;

-- The last openid that left a user in an app, by moving to another user or by
-- being replaced. left_at is by the database's clock.
CREATE TABLE {former_openids} (
	user_id {id 128} NOT NULL,
	appid   {id 64}  NOT NULL,
	openid  {id 128} NOT NULL,
	unionid {id 128} NOT NULL, -- empty: unknown
	left_at {int}    NOT NULL,
	PRIMARY KEY (user_id, appid)
) {options};

-- A row is both: the tombstone of an erased user (erased_at, by the database's
-- clock), and the switch of a disabled one whose record lives elsewhere.
ALTER TABLE {barred_users} ADD COLUMN disabled {int} NOT NULL DEFAULT 0;
UPDATE {barred_users} SET disabled = 1 WHERE erased_at = 0;

-- When the step's code was first seen, by the database's clock; 0: unknown.
ALTER TABLE {claimed_steps} ADD COLUMN seen_at {int} NOT NULL DEFAULT 0;

-- A login code opens one session: the login that changes 0 to 1 opens it.
ALTER TABLE {kept_steps} ADD COLUMN spent {int} NOT NULL DEFAULT 0;

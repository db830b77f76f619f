-- Users whom no login may let in: those disabled whose record lives elsewhere
-- than in {users}, and those of {users} that were erased, for the logins that
-- were under way then.
CREATE TABLE {barred_users} (
	user_id   {id 128} NOT NULL PRIMARY KEY,
	erased_at {int}    NOT NULL -- 0: disabled, until they are enabled
) {options};
CREATE INDEX {prefix}barred_users_erased ON {barred_users} (erased_at);

-- WeChat names a user who leaves by their openid.
CREATE INDEX {prefix}sessions_openid ON {sessions} (openid, ended_at);

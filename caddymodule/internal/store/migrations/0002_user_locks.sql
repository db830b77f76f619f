-- Rows to lock: of two logins of one user at once the second waits for the
-- first. A user's own row may be in another database.
CREATE TABLE {user_locks} (
	stripe {int} NOT NULL PRIMARY KEY
) {options};

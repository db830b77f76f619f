-- The number of the last phone login, sealed, where the directory of users tells
-- no numbers; else NULL.
ALTER TABLE {bindings} ADD COLUMN phone {blob};

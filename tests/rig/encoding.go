package rig

import (
	"testing"
)

// NewPostgresIn creates a database in PostgreSQL for the time of the test, with that
// encoding, and with settings such as "standard_conforming_strings TO off" for all
// connections. The embedded handle asks for UTF-8; the URL does not.
func NewPostgresIn(t testing.TB, encoding string, settings ...string) *Database {
	t.Helper()
	admin, u, own := onServer(t, "postgres")
	statements := []string{"CREATE DATABASE " + own + " ENCODING '" + encoding + "' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"}
	for _, setting := range settings {
		statements = append(statements, "ALTER DATABASE "+own+" SET "+setting)
	}
	t.Cleanup(func() {
		if _, err := admin.Exec("DROP DATABASE IF EXISTS " + own + " WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	for _, statement := range statements {
		if _, err := admin.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	u.Path = "/" + own
	plain := u.String()
	q := u.Query()
	q.Set("client_encoding", "UTF8")
	q.Set("standard_conforming_strings", "on")
	u.RawQuery = q.Encode()
	db := open(t, u.String())
	db.URL = plain
	return db
}

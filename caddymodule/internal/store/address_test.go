package store

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Two sites with the same database share a store, even if the path of its file or the scheme of its
// server is spelled differently.
func TestOneDatabaseHasOneAddress(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	file := "sqlite:" + filepath.Join(wd, "x.db")
	for address, want := range map[string]string{
		"sqlite:x.db": file, "sqlite:./x.db": file, "sqlite:a/../x.db": file, "sqlite://x.db": file, file: file,
		"sqlite://" + filepath.Join(wd, "x.db"): file,

		"postgresql://wx@db/wx": "postgres://wx@db/wx",
		"postgres://wx@db/wx":   "postgres://wx@db/wx",
		"mysql://wx@db/wx":      "mysql://wx@db/wx",
		"sqlite::memory:":       "sqlite::memory:", // New refuses it
		"oracle://db":           "oracle://db",
	} {
		if got, err := Canonical(address); err != nil || got != want {
			t.Errorf("%s: %s, %v", address, got, err)
		}
	}
	if _, err := Canonical("sqlite:~/x.db"); err == nil {
		t.Error("a home directory was taken")
	}
}

// The settings depend on whether a kind of database needs a key from the configuration, and on its
// default port.
func TestKinds(t *testing.T) {
	if got := Kinds(); !slices.Equal(got, []string{"mysql", "postgres", "sqlite"}) {
		t.Errorf("kinds %v", got)
	}
	for address, want := range map[string]Kind{
		"sqlite:/x.db": {"sqlite", ""}, "postgresql://db/x": {"postgres", "5432"}, "mysql": {"mysql", "3306"}, "oracle://db": {},
	} {
		if got := KindOf(address); got != want {
			t.Errorf("%s: %+v", address, got)
		}
	}
}

// A server whose autocommit is off, by its configuration or an init_connect, would undo a
// refresh that was answered: its one statement is sent without a BEGIN.
func TestMySQLSetsAutocommit(t *testing.T) {
	db, err := New("mysql://root@127.0.0.1/test", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := db.server.(*mysqlAddress).config.Params["autocommit"]; got != "1" {
		t.Errorf("autocommit = %q", got)
	}
}

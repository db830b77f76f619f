package sqldb

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
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
		t.Error("a path with ~ was accepted")
	}
}

// The configuration depends on which kinds need an encryption key, and on their default ports.
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

// A refresh is one statement, sent without a BEGIN. If a server's configuration or init_connect
// turns autocommit off, the server would undo the refresh after it was acknowledged.
func TestMySQLSetsAutocommit(t *testing.T) {
	db, err := New("mysql://root@127.0.0.1/test", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := db.server.(*mysqlAddress).config.Params["autocommit"]; got != "1" {
		t.Errorf("autocommit = %q", got)
	}
}

// A mistyped store address is refused. The error says what to write instead, and never contains the
// password.
func TestBadAddressIsRefusedWithTheRemedy(t *testing.T) {
	for address, want := range map[string]string{
		"":                                "sqlite:<path>",
		"wx.db":                           "sqlite:<path>",
		"sqlite:":                         "needs the path",
		"sqlite:dir/":                     "needs the path",
		"sqlite::memory:":                 "outlive",
		"sqlite:wx.db?mode=ro":            "without parameters",
		"redis://hunter2@x":               "unknown kind",
		"postgres://u:hunter2@db.example": "name of a database",
		"postgres://u:hunter2@db.example/wx?sslmode=perhaps":                            "sslmode",
		"postgres://u:hunter2@a,b/wx?target_session_attrs=prefer-standby":               "may lag behind",
		"postgres://u:hunter2@db.example:x/wx":                                          "cannot be read",
		"postgres://u:hunter2/@db.example/wx":                                           "percent-encoded",
		"postgres://u:12?hunter2@db.example/wx":                                         "percent-encoded",
		"postgres://u:12/hunter2@db.example/wx":                                         "percent-encoded",
		"postgres://u:#hunter2@db.example/wx":                                           "percent-encoded",
		"postgres://u:%hunter2@db.example/wx":                                           "percent-encoded",
		"postgres:u:hunter2@db.example/wx":                                              "cannot be read",
		"postgres://u:hunter2@db.example/wx?default_query_exec_mode=x&password=hunter2": "default_query_exec_mode",
		"mysql://u:hunter2@db.example":                                                  "name of a database",
		"mysql://u:hunter2@a,b/wx":                                                      "primary",
		"mysql://u:hunter2@db.example/wx?tls=perhaps":                                   "tls is true",
		"mysql://u:hunter2@db.example/wx?tls_ca=/ca.pem":                                "tls=true",
		"mysql://u:hunter2@db.example/wx?parseTime=true":                                "unknown parameter",
		"mysql://u:12?hunter2=@db.example/wx":                                           "name of a database",
	} {
		_, err := New(address, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%q): %v; want %q", address, err, want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error contains the password: %v", err)
		}
	}
	for _, prefix := range []string{"X", "a b", "a;", "1a", strings.Repeat("a", 40), "ü"} {
		if _, err := New("sqlite:x.db", Options{Prefix: prefix}); err == nil {
			t.Errorf("prefix %q was accepted", prefix)
		}
	}
}

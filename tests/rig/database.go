package rig

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // to look into the store as another process would
)

// Kinds are the kinds of databases that can hold a store.
var Kinds = []string{"sqlite", "postgres", "mysql"}

// Database is a database that belongs to one test. The embedded handle reads it as
// another process would. Its tables begin with wx_auth_.
type Database struct {
	*sql.DB
	Kind string // one of Kinds
	URL  string // for `store`
	Key  string // for `encryption_key`, base64
}

// Environ returns the environment variables of ReplicaSite.
func (d *Database) Environ() []string {
	return []string{"WX_AUTH_STORE=" + d.URL, "WX_AUTH_KEY=" + d.Key}
}

// Count returns the one number that a query selects.
func (d *Database) Count(t testing.TB, query string) (n int64) {
	t.Helper()
	if err := d.QueryRow(query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// Connections returns how many connections to this database the gateway has, as the
// server reports it; 0 for SQLite. A pool keeps the connections of a burst, so a check
// for leaks subtracts them.
func (d *Database) Connections(t testing.TB) int {
	t.Helper()
	var n int64
	switch d.Kind {
	case "postgres":
		n = d.Count(t, `SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = current_setting('application_name')`)
	case "mysql":
		n = d.Count(t, `SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE()`)
	default:
		return 0
	}
	return int(n) - d.Stats().OpenConnections
}

// Run runs a statement that must succeed.
func (d *Database) Run(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := d.Exec(statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// requireDatabases makes tests fail, rather than be skipped, if a database server is
// missing.
const requireDatabases = "WX_AUTH_TEST_REQUIRE_DATABASES"

// LeaveOut skips a test because something is missing on this machine, and says what. If all
// databases are required, the test fails instead.
func LeaveOut(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(requireDatabases) != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf("LEFT OUT: "+format, args...)
}

// server is a database server that all tests share.
type server struct {
	variable string // environment variable with its address
	address  string
	admin    func() (*sql.DB, error) // for creating and dropping databases
}

var servers = map[string]*server{
	"postgres": newServer("WX_AUTH_TEST_POSTGRES", "postgres://root@127.0.0.1:5432/test"),
	"mysql":    newServer("WX_AUTH_TEST_MYSQL", "mysql://root@127.0.0.1:3306/test"),
}

func newServer(variable, address string) *server {
	s := &server{variable: variable, address: cmp.Or(os.Getenv(variable), address)}
	s.admin = sync.OnceValues(func() (*sql.DB, error) {
		db, err := openSQL(s.address)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return db, db.PingContext(ctx)
	})
	return s
}

// openSQL opens the database at an address in the form of `store`.
func openSQL(address string) (*sql.DB, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	var db *sql.DB
	switch u.Scheme {
	case "sqlite":
		db, err = sql.Open("sqlite", "file://"+u.Opaque+u.Path+"?_busy_timeout=5000&_txlock=immediate")
	case "postgres":
		db, err = sql.Open("pgx", address)
	case "mysql":
		c := client.NewConfig()
		c.User, c.DBName = u.User.Username(), strings.TrimPrefix(u.Path, "/")
		c.Passwd, _ = u.User.Password()
		c.Net, c.Addr = "tcp", u.Host
		if socket := u.Query().Get("socket"); socket != "" {
			c.Net, c.Addr = "unix", socket
		}
		c.InterpolateParams = true
		c.Logger = &client.NopLogger{}
		var connector driver.Connector
		if connector, err = client.NewConnector(c); err == nil {
			db = sql.OpenDB(connector)
		}
	default:
		return nil, fmt.Errorf("no database is called %q", u.Scheme)
	}
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(4) // other tests use the server too
	return db, nil
}

// onServer returns the administrator's handle and the URL of a server, and a new name for a
// database there. If the server is missing, the test is skipped or fails; see LeaveOut.
func onServer(t testing.TB, kind string) (admin *sql.DB, u *url.URL, own string) {
	t.Helper()
	s := servers[kind]
	admin, err := s.admin()
	if err != nil {
		LeaveOut(t, "%s does not answer (set %s to its address): %v", kind, s.variable, err)
	}
	if u, err = url.Parse(s.address); err != nil {
		t.Fatal(err)
	}
	var name [8]byte
	rand.Read(name[:]) // never fails
	return admin, u, "wx_auth_test_" + hex.EncodeToString(name[:])
}

// NewDatabase creates an empty database for the time of the test. If the server is
// missing, the test is skipped or fails; see LeaveOut.
func NewDatabase(t testing.TB, kind string) *Database {
	t.Helper()
	if kind == "sqlite" {
		dir, err := os.MkdirTemp(scratch, "sqlite-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		return open(t, "sqlite:"+filepath.Join(dir, "wx_auth.db"))
	}
	admin, u, own := onServer(t, kind)
	space, end := "DATABASE", ""
	if kind == "postgres" {
		space, end = "SCHEMA", " CASCADE"
		q := u.Query()
		q.Set("search_path", own)
		q.Set("application_name", own) // Connections counts the connections of this name
		u.RawQuery = q.Encode()
	} else {
		u.Path = "/" + own
	}
	if _, err := admin.Exec("CREATE " + space + " " + own); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := admin.Exec("DROP " + space + " " + own + end); err != nil {
			t.Error(err)
		}
	})
	return open(t, u.String())
}

// open returns the Database at that address.
func open(t testing.TB, address string) *Database {
	t.Helper()
	db, err := openSQL(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	var key [32]byte
	rand.Read(key[:]) // never fails
	kind, _, _ := strings.Cut(address, ":")
	return &Database{DB: db, Kind: kind, URL: address, Key: base64.StdEncoding.EncodeToString(key[:])}
}

// OnDatabases runs a test on a new database of each kind.
func OnDatabases(t *testing.T, test func(t *testing.T, db *Database)) {
	t.Helper()
	for _, kind := range Kinds {
		t.Run(kind, func(t *testing.T) { test(t, NewDatabase(t, kind)) })
	}
}

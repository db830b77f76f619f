package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// server is a database server that the tests may use.
type server struct {
	variable string // the environment variable with its address
	address  string
	admin    *DB   // creates and drops databases and schemas for the tests
	missing  error // why the server cannot be used
}

// servers are the servers that the tests have found, by the kind of database.
var servers = map[string]*server{
	"postgres": {variable: "WX_AUTH_TEST_POSTGRES", address: "postgres://root@127.0.0.1:5432/test"},
	"mysql":    {variable: "WX_AUTH_TEST_MYSQL", address: "mysql://root@127.0.0.1:3306/test"},
}

// requireServers is an environment variable that makes a missing server a failure.
const requireServers = "WX_AUTH_TEST_REQUIRE_DATABASES"

func TestMain(m *testing.M) {
	for _, s := range servers {
		s.address = cmp.Or(os.Getenv(s.variable), s.address)
		s.admin, s.missing = New(s.address, Options{})
		if s.missing == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			s.missing = s.admin.opened(ctx, true, func(context.Context, *pools) error { return nil })
			cancel()
		}
	}
	code := m.Run()
	for _, s := range servers {
		if s.missing == nil {
			s.admin.Close()
		}
	}
	os.Exit(code)
}

// TestServersLeftOut lists the databases that the tests have skipped.
func TestServersLeftOut(t *testing.T) {
	if testing.Short() {
		t.Log("-short: tests meet SQLite alone")
	}
	for kind, s := range servers {
		switch {
		case s.missing == nil:
		case os.Getenv(requireServers) != "":
			t.Errorf("%s is missing (set %s to its address): %v", kind, s.variable, s.missing)
		default:
			t.Logf("LEFT OUT: all tests with %s, as %s does not answer (set %s to its address): %v", kind, s.admin, s.variable, s.missing)
		}
	}
}

// do runs SQL directly on the server.
func (s *server) do(t *testing.T, format string, args ...any) {
	t.Helper()
	if _, err := s.admin.pools.Load().write.Exec(fmt.Sprintf(format, args...)); err != nil {
		t.Fatal(err)
	}
}

// without reports whether the tests skip this kind of database. They do if its server is missing,
// which TestServersLeftOut logs, or if -short asks for SQLite alone.
func without(kind string) bool {
	s := servers[kind]
	return s != nil && (testing.Short() || s.missing != nil)
}

// newPostgres creates a separate schema in the test database.
func newPostgres(t *testing.T) database {
	return handles(t, postgresSchema(t))
}

func postgresSchema(t *testing.T) (address string) {
	t.Helper()
	s, name := servers["postgres"], testName()
	s.do(t, "CREATE SCHEMA %s", name)
	t.Cleanup(func() { s.do(t, "DROP SCHEMA %s CASCADE", name) })
	return withParameter(s.address, "search_path", name)
}

// newMySQL creates a separate database.
func newMySQL(t *testing.T) database {
	return handles(t, mysqlDatabase(t))
}

func mysqlDatabase(t *testing.T) (address string) {
	t.Helper()
	s, name := servers["mysql"], testName()
	// The database's default character set differs from that of our tables, as it may in
	// production.
	s.do(t, "CREATE DATABASE %s DEFAULT CHARACTER SET latin1", name)
	t.Cleanup(func() { s.do(t, "DROP DATABASE %s", name) })
	u, err := url.Parse(s.address)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func testName() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return "wx_auth_test_" + hex.EncodeToString(b[:])
}

func withParameter(address, name, value string) string {
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	return address + separator + name + "=" + url.QueryEscape(value)
}

// onServers runs a test over the database servers, without SQLite.
func onServers(t *testing.T, test func(t *testing.T, kind, address string)) {
	for kind, fresh := range map[string]func(*testing.T) string{"postgres": postgresSchema, "mysql": mysqlDatabase} {
		if !without(kind) {
			t.Run(kind, func(t *testing.T) {
				t.Parallel()
				test(t, kind, fresh(t))
			})
		}
	}
}

// accepting listens on a port of its own, handles each connection in a goroutine, and returns the
// address.
func accepting(t *testing.T, handle func(net.Conn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go handle(conn)
		}
	}()
	return listener.Addr().String()
}

// Package dbtest gives tests databases of their own on real servers.
package dbtest

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// server is a database server that the tests may use.
type server struct {
	variable string // the environment variable with its address
	address  string // unless the variable has another
	connect  func(address string) (*sql.DB, error)

	once    sync.Once
	admin   *sql.DB // creates and drops databases and schemas for the tests
	missing error   // why the server cannot be used
}

// servers are the servers by the kind of database.
var servers = map[string]*server{
	"postgres": {variable: "WX_AUTH_TEST_POSTGRES", address: "postgres://root@127.0.0.1:5432/test", connect: connectPostgres},
	"mysql":    {variable: "WX_AUTH_TEST_MYSQL", address: "mysql://root@127.0.0.1:3306/test", connect: connectMySQL},
}

// requireServers is an environment variable that makes a missing server a failure.
const requireServers = "WX_AUTH_TEST_REQUIRE_DATABASES"

// The tests of package sqldb use this package, so it cannot use sqldb.

func connectPostgres(address string) (*sql.DB, error) {
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, err
	}
	return stdlib.OpenDB(*config), nil
}

func connectMySQL(address string) (*sql.DB, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	config := mysql.NewConfig()
	config.User, config.DBName = u.User.Username(), strings.TrimPrefix(u.Path, "/")
	config.Passwd, _ = u.User.Password()
	config.Net, config.Addr = "tcp", u.Host
	if socket := u.Query().Get("socket"); socket != "" {
		config.Net, config.Addr = "unix", socket
	} else if u.Port() == "" {
		config.Addr = net.JoinHostPort(u.Hostname(), "3306")
	}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// on returns the server of a kind of database, or nil for SQLite. Its first call connects.
func on(kind string) *server {
	s := servers[kind]
	if s == nil {
		return nil
	}
	s.once.Do(func() {
		s.address = cmp.Or(os.Getenv(s.variable), s.address)
		if s.admin, s.missing = s.connect(s.address); s.missing == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			s.missing = s.admin.PingContext(ctx)
		}
	})
	return s
}

// LeftOut logs which databases the tests of a package have skipped. It fails the test if the
// environment requires them.
func LeftOut(t *testing.T) {
	if testing.Short() {
		t.Log("-short: tests meet SQLite alone")
	}
	for kind := range servers {
		switch s := on(kind); {
		case s.missing == nil:
		case os.Getenv(requireServers) != "":
			t.Errorf("%s is missing (set %s to its address): %v", kind, s.variable, s.missing)
		default:
			t.Logf("LEFT OUT: all tests with %s, which does not answer (set %s to its address): %v", kind, s.variable, s.missing)
		}
	}
}

// Without reports whether tests skip this kind of database. They do if its server is missing, which
// LeftOut logs, or if -short asks for SQLite alone.
func Without(kind string) bool {
	return servers[kind] != nil && (testing.Short() || on(kind).missing != nil)
}

// Address returns the address of a server and a database on it, which other tests use too.
func Address(kind string) string { return on(kind).address }

// Admin returns connections with which tests manage a server.
func Admin(kind string) *sql.DB { return on(kind).admin }

// Do runs SQL on a server.
func Do(t *testing.T, kind, format string, args ...any) {
	t.Helper()
	if _, err := Admin(kind).Exec(fmt.Sprintf(format, args...)); err != nil {
		t.Fatal(err)
	}
}

// Fresh returns the address of an empty database of this kind, for this test alone. On PostgreSQL
// it is a schema of its own.
func Fresh(t *testing.T, kind string) (address string) {
	t.Helper()
	s, name := on(kind), Name()
	if kind == "postgres" {
		Do(t, kind, "CREATE SCHEMA %s", name)
		t.Cleanup(func() { Do(t, kind, "DROP SCHEMA %s CASCADE", name) })
		return WithParameter(s.address, "search_path", name)
	}
	// The database's default character set differs from that of our tables, as it may in
	// production.
	Do(t, kind, "CREATE DATABASE %s DEFAULT CHARACTER SET latin1", name)
	t.Cleanup(func() { Do(t, kind, "DROP DATABASE %s", name) })
	u, err := url.Parse(s.address)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

// Name returns a name for a database, a schema or a role that no other test uses.
func Name() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return "wx_auth_test_" + hex.EncodeToString(b[:])
}

// WithParameter adds a parameter to an address.
func WithParameter(address, name, value string) string {
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	return address + separator + name + "=" + url.QueryEscape(value)
}

// OnServers runs a test over the database servers, without SQLite. Each run has a database of its
// own.
func OnServers(t *testing.T, test func(t *testing.T, kind, address string)) {
	for kind := range servers {
		if !Without(kind) {
			t.Run(kind, func(t *testing.T) {
				t.Parallel()
				test(t, kind, Fresh(t, kind))
			})
		}
	}
}

// Accepting listens on a port of its own, handles each connection in a goroutine, and returns the
// address.
func Accepting(t *testing.T, handle func(net.Conn)) (address string) {
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

// WaitFor waits until a condition holds, and fails the test if that takes long.
func WaitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for " + what)
		}
	}
}

package store

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
)

// An error that only the operator can fix is reported as such, and never contains the
// password.
func TestOperatorErrorsHideThePassword(t *testing.T) {
	const password = "hunter2 $&%/x"
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		role := dbtest.Name()
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if kind == "mysql" {
			dbtest.Do(t, kind, "CREATE USER '%s'@'%%' IDENTIFIED BY 'right'", role)
			t.Cleanup(func() { dbtest.Do(t, kind, "DROP USER '%s'@'%%'", role) })
			dbtest.Do(t, kind, "CREATE USER '%s'@'localhost' IDENTIFIED BY 'right'", role)
			t.Cleanup(func() { dbtest.Do(t, kind, "DROP USER '%s'@'localhost'", role) })
		} else {
			dbtest.Do(t, kind, "CREATE ROLE %s LOGIN PASSWORD 'right'", role)
			t.Cleanup(func() { dbtest.Do(t, kind, "DROP ROLE %s", role) })
			dbtest.Do(t, kind, "GRANT USAGE ON SCHEMA %s TO %s", u.Query().Get("search_path"), role)
			t.Cleanup(func() { dbtest.Do(t, kind, "DROP OWNED BY %s", role) })
		}
		cases := map[string]struct {
			change func(u *url.URL)
			want   string
		}{
			"no such database": {func(u *url.URL) { u.Path = "/none_such" }, "none_such"},
			"no permission":    {func(u *url.URL) { u.User = url.UserPassword(role, "right") }, "denied"},
		}
		if kind == "mysql" {
			cases["wrong password"] = struct {
				change func(u *url.URL)
				want   string
			}{func(u *url.URL) { u.User = url.UserPassword(role, password) }, "denied"}
		}
		for name, c := range cases {
			changed := *u
			c.change(&changed)
			db, err := New(changed.String(), defaults)
			if err != nil {
				t.Fatal(name, err)
			}
			defer db.Close()
			err = db.With(testKeys(t, 1)).Open(t.Context())
			if err == nil || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(fmt.Sprintf("%+v %s", err, db), "hunter2") {
				t.Errorf("%s: the error contains the password: %v", name, err)
			}
		}
	})
}

// The tests' own PostgreSQL asks for no password. This server asks for one and refuses it.
func TestPostgresWrongPasswordIsPermanent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var shown atomic.Value
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			server := pgproto3.NewBackend(conn, conn)
			if _, err := server.ReceiveStartupMessage(); err == nil {
				server.Send(&pgproto3.AuthenticationCleartextPassword{})
				server.Flush()
				server.SetAuthType(pgproto3.AuthTypeCleartextPassword)
				if m, err := server.Receive(); err == nil {
					p := m.(*pgproto3.PasswordMessage).Password
					shown.Store(p)
					// The server repeats what the client sent.
					server.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "password authentication failed for user \"wx\" with " + p})
					server.Flush()
				}
			}
			conn.Close()
		}
	}()
	db, err := New("postgres://wx:hunter2%20%24%2Fx@"+listener.Addr().String()+"/wx?sslmode=disable", defaults)
	if err != nil {
		t.Fatal(err)
	}
	err = db.With(testKeys(t, 1)).Open(t.Context())
	if err == nil || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "password authentication failed") {
		t.Error(err)
	}
	if shown.Load() != "hunter2 $/x" {
		t.Errorf("the server received %q", shown.Load())
	}
	if text := fmt.Sprintf("%v %+v %s", err, err, db); strings.Contains(text, "hunter2") {
		t.Errorf("the error contains the password: %s", text)
	}
}

// With a database server the key must be configured, because a generated file would
// differ between replicas.
func TestServersNeedAnEncryptionKey(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, _, address string) {
		s := handles(t, address)(defaults).With(nil)
		if err := s.Open(t.Context()); err == nil || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "encryption_key") {
			t.Error(err)
		}
		var n int
		if err := s.db.sql.Pools().Read.QueryRow(s.db.sql.SQL(s.db.sql.Dialect.HasTable), "wx_auth_meta").Scan(&n); err != nil || n != 0 {
			t.Error("tables were created", n, err)
		}
	})
}

package sqldb

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"database/sql/driver"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
)

// strictPooler forwards connections to the server. Like some poolers, it refuses a connection that
// starts with settings that the pooler does not know.
func strictPooler(t *testing.T, address string) (through string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		t.Skipf("LEFT OUT: a pooler before %s, which is reached otherwise than by a port", address)
	}
	target := u.Host
	if u.Port() == "" {
		target += ":5432"
	}
	u.Host = dbtest.Accepting(t, func(conn net.Conn) { pass(conn, target) })
	return dbtest.WithParameter(u.String(), "sslmode", "disable")
}

func pass(conn net.Conn, target string) {
	defer conn.Close()
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return
	}
	start := make([]byte, binary.BigEndian.Uint32(size[:])-4)
	if _, err := io.ReadFull(conn, start); err != nil {
		return
	}
	var m pgproto3.StartupMessage
	if m.Decode(start) == nil {
		for name := range m.Parameters {
			if !slices.Contains([]string{"user", "database", "application_name", "search_path"}, name) {
				server := pgproto3.NewBackend(conn, conn)
				server.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "unsupported startup parameter: " + name})
				_ = server.Flush()
				return
			}
		}
	}
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	if _, err := server.Write(append(size[:], start...)); err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(server, conn)
		server.Close()
	}()
	_, _ = io.Copy(conn, server)
}

// A pooler that accepts no settings can be used if the role has the right settings by default. If
// they are wrong, the error must name the remedy.
func TestPoolerThatTakesNoSettings(t *testing.T) {
	if dbtest.Without("postgres") {
		return
	}
	for name, tc := range map[string]struct {
		role string
		says string
	}{
		"right as it is": {"", ""},
		"wrong":          {"standard_conforming_strings TO off", "ALTER ROLE"},
		"another":        {"client_encoding TO 'LATIN1'", "client_encoding"},
	} {
		t.Run(name, func(t *testing.T) {
			role, address := dbtest.Name(), dbtest.Fresh(t, "postgres")
			do := func(format string, args ...any) { dbtest.Do(t, "postgres", format, args...) }
			do("CREATE ROLE %s LOGIN SUPERUSER", role)
			t.Cleanup(func() { do("DROP OWNED BY %s", role); do("DROP ROLE %s", role) })
			do("ALTER ROLE %s SET client_encoding TO 'UTF8'", role)
			if tc.role != "" {
				do("ALTER ROLE %s SET %s", role, tc.role)
			}
			u, err := url.Parse(strictPooler(t, address))
			if err != nil {
				t.Fatal(err)
			}
			u.User = url.User(role)
			external := func(c driver.Connector) driver.Connector { return c }
			for _, wrap := range []func(driver.Connector) driver.Connector{nil, external} {
				c := clientOf(t, u.String(), Options{Wrap: wrap})
				err = c.connect(t.Context())
				switch {
				case tc.says != "":
					if err == nil || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), tc.says) {
						t.Error(err)
					}
				case err != nil:
					t.Error(err)
				default:
					var text string
					if err := c.DB.Pools().Read.QueryRow(`SELECT '安' WHERE 'a\' <> $1`, "b").Scan(&text); err != nil || text != "安" {
						t.Errorf("%q, %v", text, err)
					}
				}
			}
		})
	}
}

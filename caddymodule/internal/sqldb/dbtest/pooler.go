package dbtest

import (
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// BehindPoolers runs a test with an empty PostgreSQL database behind a pooler that accepts no
// settings: with a role that has the right settings by default, and with roles that have others.
// says is what the error must contain for those. It is empty if there must be none.
func BehindPoolers(t *testing.T, test func(t *testing.T, address, says string)) {
	if Without("postgres") {
		return
	}
	for setting, says := range map[string]string{
		"":                                   "", // the role's settings are right
		"standard_conforming_strings TO off": "ALTER ROLE",
		"client_encoding TO 'LATIN1'":        "client_encoding",
	} {
		t.Run(setting, func(t *testing.T) { test(t, strictPooler(t, setting), says) })
	}
}

// strictPooler returns the address of an empty PostgreSQL database behind a pooler that, like some,
// refuses a connection that starts with settings that it does not know. The database's role has the
// settings that the gateway needs by default, and then this one, which may be empty.
func strictPooler(t *testing.T, setting string) (address string) {
	t.Helper()
	const kind = "postgres"
	role := Name()
	u, err := url.Parse(Fresh(t, kind))
	if err != nil || u.Host == "" {
		t.Skipf("LEFT OUT: a pooler before %s, which is reached otherwise than by a port", kind)
	}
	Do(t, kind, "CREATE ROLE %s LOGIN SUPERUSER", role)
	t.Cleanup(func() { Do(t, kind, "DROP OWNED BY %s", role); Do(t, kind, "DROP ROLE %s", role) })
	Do(t, kind, "ALTER ROLE %s SET client_encoding TO 'UTF8'", role)
	if setting != "" {
		Do(t, kind, "ALTER ROLE %s SET %s", role, setting)
	}
	target := u.Host
	if u.Port() == "" {
		target += ":5432"
	}
	u.Host, u.User = Accepting(t, func(conn net.Conn) { pass(conn, target) }), url.User(role)
	return WithParameter(u.String(), "sslmode", "disable")
}

// pass forwards a connection, unless it starts with an unknown setting.
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

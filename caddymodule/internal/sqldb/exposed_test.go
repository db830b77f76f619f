package sqldb

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
)

// An address or a name is public if any connection to it leaves private networks.
func TestExposedAddresses(t *testing.T) {
	names := lookup(func(_ context.Context, host string) ([]netip.Addr, error) {
		switch host {
		case "db":
			return []netip.Addr{netip.MustParseAddr("172.18.0.3")}, nil
		case "rds.example":
			return []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("::ffff:203.0.113.9")}, nil
		case "public.example":
			return []netip.Addr{netip.MustParseAddr("2001:db8::1")}, nil
		}
		return nil, errors.New("no such host")
	})
	for host, want := range map[string]bool{
		"": false, "/var/run/postgresql": false, "@abstract": false, "127.0.0.1": false, "::1": false, "10.0.0.5": false, "192.168.1.1": false,
		"172.16.0.1": false, "100.64.1.1": false, "fd00::1": false, "fe80::1%eth0": false, "169.254.1.1": false, "db": false,
		"203.0.113.9": true, "8.8.8.8": true, "2001:db8::1": true, "172.32.0.1": true, "100.128.0.1": true, "::ffff:8.8.8.8": true, "rds.example": true, "public.example": true,
	} {
		if got, err := names.exposes(t.Context(), host); got != want || err != nil {
			t.Errorf("%q: %v, %v", host, got, err)
		}
	}
	if _, err := names.exposes(t.Context(), "nowhere.example"); err == nil {
		t.Error("a host that cannot be looked up counts as private")
	}
}

// An attacker on the path drops the first look-up of the database's name, but not the driver's own
// look-up. The password must not be sent in plain text because of that.
func TestFailedLookupSendsNoPlainText(t *testing.T) {
	for _, kind := range []string{"postgres", "mysql"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		connected := make(chan bool, 100)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				connected <- true
				conn.Close()
			}
		}()
		address := kind + "://wx:secret@localhost:" + l.Addr().String()[len("127.0.0.1:"):] + "/wx"
		c := clientOf(t, address, Options{lookup: func(context.Context, string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "i/o timeout", IsTimeout: true}
		}})
		if err := c.connect(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", kind, err)
		}
		l.Close()
		if len(connected) > 0 {
			t.Errorf("%s: the connection was not refused", kind)
		}
	}
}

// An attacker between the gateway and a database at a public address answers that the server has no
// TLS. The password must not be sent then, unless the address allows it. Nothing changes within a
// private network.
func TestNoPlainTextToAPublicAddress(t *testing.T) {
	public := lookup(func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("203.0.113.9")}, nil
	})
	inside := lookup(func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	})
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if u.Hostname() != "127.0.0.1" {
			t.Skip("the server is not on this machine")
		}
		u.Host = "localhost:" + u.Port()
		open := func(address string, l lookup) (*Client, error) {
			c := clientOf(t, address, Options{lookup: l})
			return c, c.connect(t.Context())
		}
		if _, err := open(u.String(), inside); err != nil {
			t.Errorf("inside: %v", err)
		}
		mode := map[string]string{"postgres": "sslmode=disable", "mysql": "tls=false"}[kind]
		name, value, _ := strings.Cut(mode, "=")
		if _, err := open(dbtest.WithParameter(u.String(), name, value), public); err != nil {
			t.Errorf("plain text that the address asks for: %v", err)
		}
		c, err := open(u.String(), public)
		if err == nil { // this server has TLS
			query := map[string]string{"postgres": "SELECT ssl::int FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
				"mysql": "SELECT VARIABLE_VALUE <> '' FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'SSL_CIPHER'"}[kind]
			var encrypted int
			if err := c.DB.Pools().Read.QueryRow(query).Scan(&encrypted); err != nil || encrypted != 1 {
				t.Errorf("outside: plain text: %d, %v", encrypted, err)
			}
		} else if errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), mode) {
			t.Errorf("outside: %v", err)
		}
	})
}

// An attacker on the path answers N (no TLS) to PostgreSQL's SSLRequest.
func TestNoDowngradeOutside(t *testing.T) {
	for name, want := range map[string]bool{"127.0.0.1": true, "203.0.113.9": false} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		starts := make(chan bool, 100) // receives whether a connection continued in plain text
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				var message [8]byte
				if _, err := io.ReadFull(conn, message[:]); err == nil {
					starts <- message[4] == 0 && message[5] == 3
					_, _ = conn.Write([]byte("N"))
				}
				conn.Close()
			}
		}()
		address := "postgres://wx:secret@localhost:" + l.Addr().String()[len("127.0.0.1:"):] + "/wx"
		c := clientOf(t, address, Options{lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr(name)}, nil
		}})
		if err := c.connect(t.Context()); err == nil || strings.Contains(err.Error(), "sslmode=disable") == want {
			t.Errorf("%s: %v", name, err)
		}
		plain := false
		for len(starts) > 0 {
			plain = <-starts || plain
		}
		if plain != want {
			t.Errorf("%s: plain text: %v", name, plain)
		}
	}
}

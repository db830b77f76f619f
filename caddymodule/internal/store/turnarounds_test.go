package store

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// counter is a proxy for a database server that counts turnarounds: the client sends, then waits
// for the answer.
type counter struct{ n atomic.Int64 }

// behind starts a counter in front of a server, and returns its address.
func behind(t *testing.T, address string) (string, *counter) {
	t.Helper()
	c := new(counter)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	u.Host = dbtest.Accepting(t, func(conn net.Conn) { c.carry(conn, server) })
	return u.String(), c
}

func (c *counter) carry(client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	var mu sync.Mutex
	asking := false // the client has sent something since the server's last answer
	pass := func(from, to net.Conn, note func()) {
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			if n > 0 {
				mu.Lock()
				note()
				mu.Unlock()
			}
			if _, e := to.Write(buffer[:n]); err != nil || e != nil {
				from.Close()
				to.Close()
				return
			}
		}
	}
	var both sync.WaitGroup
	both.Go(func() {
		pass(client, server, func() {
			if !asking {
				c.n.Add(1)
			}
			asking = true
		})
	})
	both.Go(func() { pass(server, client, func() { asking = false }) })
	both.Wait()
}

// tokenWeChat is a WeChat that accepts every code: it exchanges "person" for an openid, and
// "person/number" for a phone number.
type tokenWeChat struct{}

func (tokenWeChat) Code2Session(_ context.Context, app wechat.App, code string) (wechat.Session, error) {
	person, _, _ := strings.Cut(code, "/")
	return wechat.Session{OpenID: person + "@" + app.ID, UnionID: "union-" + person}, nil
}

func (tokenWeChat) WarmToken(context.Context, wechat.App) error { return nil }

func (tokenWeChat) PhoneNumber(_ context.Context, _ wechat.App, code, _ string) (wechat.PhoneNumber, error) {
	return wechat.PhoneNumber{CountryCode: "86", PurePhoneNumber: strings.Split(code, "/")[1]}, nil
}

// chain returns a login chain on the store.
func chain(t *testing.T, s *Store, now func() time.Time) *login.Chain {
	t.Helper()
	keys, err := session.NewKeys([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	set := settings
	set.Max = 20
	return &login.Chain{
		WeChat: tokenWeChat{}, Directory: user.Checked(s.Users(true, set)), Store: s, State: new(login.State),
		Sessions: session.Sessions{
			Store: s, Keys: keys, Settings: set, Issuer: "wx-auth", Apps: []string{"wx1"}, Revoked: session.NewRevoked(),
		},
		Settings: login.Settings{Silent: 90 * 24 * time.Hour, NewOpenID: user.Replace},
		Mint:     func(session.Session, user.User, time.Time) (string, error) { return "token", nil },
		Hold:     func() func() { return func() {} },
		Now:      now,
	}
}

// The database may be in another zone, so turnarounds dominate the time of a login and of a
// refresh. They are counted here, so that none is added by accident. docs/design/turnarounds.md
// explains each of them.
func TestTurnaroundsOfALogin(t *testing.T) {
	want := map[string]map[string]int64{
		"first phone login":  {"postgres": 5, "mysql": 5},
		"later phone login":  {"postgres": 5, "mysql": 5},
		"silent login":       {"postgres": 4, "mysql": 4},
		"login sent again":   {"postgres": 6, "mysql": 6},
		"refresh":            {"postgres": 2, "mysql": 2},
		"refresh sent again": {"postgres": 2, "mysql": 2},
		"poll of the feed":   {"postgres": 1, "mysql": 1},
		"lease":              {"postgres": 1, "mysql": 1},
		"renewal":            {"postgres": 1, "mysql": 1},
		"result kept":        {"postgres": 1, "mysql": 1},
		"logout":             {"postgres": 4, "mysql": 4},
	}
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		address, wire := behind(t, address)
		s := started(t, handles(t, address))
		pool := s.db.sql.Pools().Write
		pool.SetMaxOpenConns(1) // one connection, which has prepared all statements
		at := now
		c := chain(t, s, func() time.Time { return at })
		n := 0
		request := func(phone bool) login.Request {
			r := login.Request{App: wechat.App{ID: "wx1"}, Code: fmt.Sprintf("ann%d/%d", n, time.Now().UnixNano())}
			if phone {
				r.PhoneCode = fmt.Sprintf("ann%d/138%08d/%d", n, n, time.Now().UnixNano())
			}
			return r
		}
		var last login.Result
		in := func(r login.Request) {
			t.Helper()
			var err error
			if last, err = c.Login(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		var again login.Request
		users := s.Users(true, c.Sessions.Settings)
		refresh := func(token string) string {
			t.Helper()
			at = at.Add(time.Second)
			_, next, err := c.Sessions.Refresh(t.Context(), token, at, func(ctx context.Context, s session.Session) error {
				_, err := users.Check(ctx, s.UserID)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return next
		}
		token := ""
		step := func() (k login.Key) {
			copy(k[:], fmt.Sprint(time.Now().UnixNano()))
			return k
		}
		operations := []struct {
			name string
			do   func()
		}{
			{"first phone login", func() { n++; in(request(true)) }},
			{"later phone login", func() { in(request(true)) }},
			{"silent login", func() { again = request(false); in(again); token = last.RefreshToken }},
			{"login sent again", func() { in(again) }},
			{"refresh", func() { token = refresh(token) }},
			{"refresh sent again", func() { refresh(last.RefreshToken) }},
			{"poll of the feed", func() {
				if _, err := s.Revocations(t.Context(), 0, time.Minute); err != nil {
					t.Fatal(err)
				}
			}},
			{"lease", func() {
				if _, err := s.Lease(t.Context(), "me", at, time.Minute, step(), step()); err != nil {
					t.Fatal(err)
				}
			}},
			{"renewal", func() {
				if err := s.Renew(t.Context(), "me", time.Minute, step()); err != nil {
					t.Fatal(err)
				}
			}},
			{"result kept", func() {
				if err := s.Keep(t.Context(), step(), []byte("x"), at.Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
			}},
			{"logout", func() {
				if _, err := s.End(t.Context(), last.Session.ID, ending(at, at.Add(time.Hour))); err != nil {
					t.Fatal(err)
				}
			}},
		}
		const rounds = 3 // the first rounds prepare statements
		for round := range rounds {
			for _, o := range operations {
				before := wire.n.Load()
				o.do()
				if got := wire.n.Load() - before; round == rounds-1 && got != want[o.name][kind] {
					t.Errorf("%s: %d turnarounds, want %d", o.name, got, want[o.name][kind])
				} else if os.Getenv("WX_AUTH_TEST_TURNAROUNDS") != "" && round == rounds-1 {
					t.Logf("%s: %d", o.name, got)
				}
			}
		}
	})
}

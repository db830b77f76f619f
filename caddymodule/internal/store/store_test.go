package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"path/filepath"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// database opens a database for a test. Each call returns another handle on the same database, as
// another process would have.
type database func(opts Options) *DB

// kinds are the databases of the conformance tests. Each function creates an empty one.
var kinds = map[string]func(t *testing.T) database{
	"sqlite":   newSQLite,
	"postgres": func(t *testing.T) database { return handles(t, dbtest.Fresh(t, "postgres")) },
	"mysql":    newMySQL,
}

// TestServersLeftOut lists the databases that the tests have skipped.
func TestServersLeftOut(t *testing.T) { dbtest.LeftOut(t) }

func newMySQL(t *testing.T) database { return handles(t, dbtest.Fresh(t, "mysql")) }

func newSQLite(t *testing.T) database {
	return handles(t, "sqlite:"+filepath.Join(t.TempDir(), "wx.db"))
}

func handles(t *testing.T, address string) database {
	return func(opts Options) *DB {
		db, err := New(address, opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
}

// onEach runs a conformance test over every kind of database.
func onEach(t *testing.T, test func(t *testing.T, open database)) {
	for name, fresh := range kinds {
		if dbtest.Without(name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each test mostly waits for its disk
			test(t, fresh(t))
		})
	}
}

// now is the time at which the tests happen.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// settings are the session settings of the tests.
var settings = session.Settings{Idle: 30 * 24 * time.Hour, Lifetime: 180 * 24 * time.Hour, Grace: time.Minute, TokenLife: time.Hour}

// testKey is an encryption key that differs by its seed.
func testKey(seed byte) string {
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = seed + byte(i)
	}
	return base64.StdEncoding.EncodeToString(raw)
}

func testKeys(t *testing.T, newest byte, old ...byte) *Keys {
	t.Helper()
	var olds []string
	for _, seed := range old {
		olds = append(olds, testKey(seed))
	}
	k, err := ParseKeys(testKey(newest), olds...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var defaults = Options{Now: func() time.Time { return now }}

// patient returns a context for opening a store that has no tables yet: on a machine that is busy
// with other tests, a server may take longer for them than a gateway waits at a time.
func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// started opens a store with the first test key.
func started(t *testing.T, open database) *Store {
	t.Helper()
	s := open(defaults).With(testKeys(t, 1))
	if err := s.Open(patient(t)); err != nil {
		t.Fatal(err)
	}
	return s
}

func phone(t *testing.T, national string) user.Phone {
	t.Helper()
	p, err := user.ParsePhone("86", national)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newSession returns a session that was opened at the given time.
func newSession(userID, appid, openid string, at time.Time) session.Session {
	return session.Session{
		ID: newID(at), UserID: userID, Issuer: "wx-auth", AppID: appid, OpenID: openid,
		CreatedAt: at, RefreshedAt: at, AdvancedAt: at, ExpiresAt: at.Add(settings.Idle),
		UserAgent: "MicroMessenger/8.0", Address: "192.0.2.1",
	}
}

// loginCommit returns the commit of a login at the time of its session.
func loginCommit(b user.Binding, rule user.NewOpenID, opened session.Session) login.Commit {
	at := opened.CreatedAt
	return login.Commit{
		Binding: b, Rule: rule, Until: settings.Until(at), Session: opened,
		Login: sha256.Sum256([]byte(opened.ID)), Value: []byte(opened.ID), Expires: at.Add(time.Minute),
		Code: sha256.Sum256([]byte("code " + opened.ID)), Spent: []byte("spent"),
		Phone: user.Phone{Country: "86", National: "13800138000"},
	}
}

// advance returns a refresh at the given time.
func advance(from, to uint64, now, expires time.Time) session.Advance {
	return session.Advance{From: from, To: to, Now: now, Expires: expires, Audience: "wx-auth"}
}

// ending returns a logout at the given time.
func ending(now, until time.Time) session.Ending {
	return session.Ending{Reason: session.ReasonLogout, Now: now, Until: until}
}

// endUser ends a user's sessions and returns their ids.
func endUser(ctx context.Context, s *Store, userID string, e session.Ending) (ended []string, err error) {
	err = s.EndUser(ctx, userID, e, func(ids []string) { ended = append(ended, ids...) })
	return ended, err
}

// commit commits a login as the login chain does: first it stores the result of the login code, and
// reads what is known of the account. The login has the user's own number.
func commit(t *testing.T, s *Store, l login.Commit) (login.Committed, error) {
	t.Helper()
	if err := s.Keep(t.Context(), l.Code, []byte("whose"), l.Session.CreatedAt.Add(time.Minute)); err != nil {
		t.Error(err)
	}
	var err error
	if l.Known, err = s.Known(t.Context(), login.Account{AppID: l.Binding.AppID, OpenID: l.Binding.OpenID, UnionID: l.Binding.UnionID}); err != nil {
		t.Error(err)
	}
	if u, err := s.Users(true, settings).Check(t.Context(), l.Binding.UserID); err == nil && !l.Silent() {
		l.Phone = u.Phone
	}
	return s.Commit(t.Context(), l)
}

// logIn logs a user in with their number.
func logIn(t *testing.T, s *Store, b user.Binding, rule user.NewOpenID, at time.Time) (session.Session, []string) {
	t.Helper()
	opened := newSession(b.UserID, b.AppID, b.OpenID, at)
	done, err := commit(t, s, loginCommit(b, rule, opened))
	if err != nil {
		t.Fatal(err)
	}
	return opened, done.Ended
}

// count runs a query that returns one number.
func count(t *testing.T, s *Store, query string, args ...any) (n int) {
	t.Helper()
	err := s.sql.Read(t.Context(), "counting", func(t *sqldb.Tx) error { return t.Row(query, args...).Scan(&n) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func execute(t *testing.T, s *Store, query string, args ...any) {
	t.Helper()
	if err := s.sql.Write(t.Context(), "changing", func(t *sqldb.Tx) error { _, err := t.Exec(query, args...); return err }); err != nil {
		t.Fatal(err)
	}
}

// ping asks the database for nothing but an answer.
func ping(ctx context.Context, s *Store) error {
	return s.sql.Read(ctx, "asking", func(t *sqldb.Tx) error { return t.Row(`SELECT 1`).Scan(new(int)) })
}

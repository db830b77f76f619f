package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// A database for a test. Each call returns another handle on the same database, like that of
// another process.
type database func(opts Options) *DB

// kinds are the databases of the conformance tests. Each function creates an empty one. Those of
// servers are in servers_test.go.
var kinds = map[string]func(t *testing.T) database{
	"sqlite":   newSQLite,
	"postgres": newPostgres,
	"mysql":    newMySQL,
}

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
		if without(name) {
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

// started opens a store with the first test key.
func started(t *testing.T, open database) *Store {
	t.Helper()
	s := open(defaults).With(testKeys(t, 1))
	if err := s.Open(t.Context()); err != nil {
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

// settlement returns a login that ends at the time of its session.
func settlement(b user.Binding, rule user.NewOpenID, opened session.Session) login.Commit {
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

// commit ends a login as the chain does: the result of its code is stored, what is known of the
// account is read, and the number belongs to the user.
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

// settle logs a user in with their number.
func settle(t *testing.T, s *Store, b user.Binding, rule user.NewOpenID, at time.Time) (session.Session, []string) {
	t.Helper()
	opened := newSession(b.UserID, b.AppID, b.OpenID, at)
	done, err := commit(t, s, settlement(b, rule, opened))
	if err != nil {
		t.Fatal(err)
	}
	return opened, done.Ended
}

// count asks the database directly.
func count(t *testing.T, s *Store, query string, args ...any) (n int) {
	t.Helper()
	err := s.read(t.Context(), "counting", func(t *tx) error { return t.row(query, args...).Scan(&n) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func execute(t *testing.T, s *Store, query string, args ...any) {
	t.Helper()
	if err := s.write(t.Context(), "changing", func(t *tx) error { _, err := t.exec(query, args...); return err }); err != nil {
		t.Fatal(err)
	}
}

// A mistyped store address is refused, with what to write instead.
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
		"postgres://u:hunter2@a,b/wx?target_session_attrs=prefer-standby":               "must not lag",
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
			t.Errorf("the error tells the password: %v", err)
		}
	}
	for _, prefix := range []string{"X", "a b", "a;", "1a", strings.Repeat("a", 40), "ü"} {
		if _, err := New("sqlite:x.db", Options{Prefix: prefix}); err == nil {
			t.Errorf("prefix %q was taken", prefix)
		}
	}
}

// Two stores with different table prefixes share a database and no users.
func TestTwoStoresWithPrefixesShareADatabase(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a := open(Options{Prefix: "a_"}).With(testKeys(t, 1))
		b := open(Options{Prefix: "b_"}).With(testKeys(t, 2))
		key := [32]byte{1}
		if err := a.Keep(t.Context(), key, []byte("a"), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := b.Kept(t.Context(), key, time.Now()); ok || err != nil {
			t.Fatal(ok, err)
		}
	})
}

// After a restart everything is still there.
func TestDataOutlivesClosing(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		created, err := s.Users(true, settings).Login(t.Context(), user.Login{AppID: "wx1", OpenID: "o1", Phone: phone(t, "13800138000")})
		if err != nil {
			t.Fatal(err)
		}
		opened, _ := settle(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: created.ID, PhoneAt: now}, user.Replace, now)
		if err := s.db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Ping(t.Context()); err == nil {
			t.Error("a closed store answers")
		}

		s = started(t, open)
		if u, err := s.Users(true, settings).Check(t.Context(), created.ID); err != nil || u.Phone != created.Phone || u.New {
			t.Errorf("the user came back as %+v, %v", u, err)
		}
		if got, err := s.Session(t.Context(), opened.ID); err != nil || got != opened {
			t.Errorf("the session came back as %+v, %v", got, err)
		}
	})
}

// Replicas that open an old store at once must not run a migration twice.
func TestConcurrentOpenMigratesOnce(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		keys := testKeys(t, 1)
		var stores []*Store
		for range 3 { // three processes, each with many callers
			s := open(defaults).With(keys)
			stores = append(stores, s, s, s, s)
		}
		errs := make(chan error)
		for _, s := range stores {
			go func() { errs <- s.Open(context.Background()) }()
		}
		for range stores {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if n := count(t, stores[0], `SELECT COUNT(*) FROM {meta}`); n != 2 {
			t.Errorf("%d rows in meta", n)
		}
	})
}

// A start with the wrong encryption key is refused before it can damage anything.
func TestWrongKeyIsRefusedAndNothingIsWritten(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		before := dump(t, s)
		wrong := open(defaults).With(testKeys(t, 2))
		err := wrong.Open(t.Context())
		if !isPermanent(err, ErrKey) {
			t.Fatalf("wrong key: %v", err)
		}
		if err := wrong.Keep(t.Context(), [32]byte{1}, []byte("x"), now.Add(time.Hour)); !isPermanent(err, ErrKey) {
			t.Errorf("writing with a wrong key: %v", err)
		}
		if _, err := wrong.Secrets(t.Context()); !isPermanent(err, ErrKey) {
			t.Errorf("a wrong key was handed out: %v", err)
		}
		if after := dump(t, s); after != before {
			t.Errorf("written with a wrong key:\n%s\nbefore:\n%s", after, before)
		}
		// The same handle works with the right key, as after a corrected reload.
		if err := wrong.db.With(testKeys(t, 3, 1)).Open(t.Context()); err != nil {
			t.Errorf("an old key that is right: %v", err)
		}
	})
}

// An old version must not write into tables that a newer one has changed.
func TestNewerSchemaIsRefused(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		execute(t, s, `UPDATE {meta} SET value = ? WHERE name = 'schema_version'`, []byte(fmt.Sprint(len(migrations)+1)))
		for _, migrate := range []bool{true, false} {
			db := open(Options{})
			s := db.With(testKeys(t, 1))
			if !migrate {
				s = db.WithTables(testKeys(t, 1))
			}
			err := s.Open(t.Context())
			if !isPermanent(err, ErrSchema) || !strings.Contains(err.Error(), "newer") {
				t.Errorf("migrate %v: %v", migrate, err)
			}
		}
	})
}

// With `migrate off` the tables must exist and be complete. If not, the error must name what is
// missing.
func TestMigrateOffVerifiesTheTables(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		if err := open(defaults).WithTables(testKeys(t, 1)).Open(t.Context()); !isPermanent(err, ErrSchema) {
			t.Fatalf("no tables: %v", err)
		}
		s := started(t, open)
		if err := open(defaults).WithTables(testKeys(t, 1)).Open(t.Context()); err != nil {
			t.Fatalf("all tables: %v", err)
		}
		execute(t, s, `ALTER TABLE {sessions} DROP COLUMN address`)
		if err := open(defaults).WithTables(testKeys(t, 1)).Open(t.Context()); !isPermanent(err, ErrSchema) || !strings.Contains(err.Error(), "sessions") {
			t.Fatalf("a missing column: %v", err)
		}
	})
}

// The schema that the command prints must be accepted with `migrate off`.
func TestPrintedSchemaIsWhatMigrateOffAccepts(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		db := open(Options{Prefix: "own_"})
		text, err := Schema(db.dialect.name, "own_", 0)
		if err != nil {
			t.Fatal(err)
		}
		// Any handle can run it. This one migrates under another prefix.
		other := open(Options{Prefix: "other_"}).With(testKeys(t, 2))
		if err := other.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		client, err := other.db.pools.Load().write.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for statement := range strings.SplitAfterSeq(text, ";\n") {
			if strings.TrimSpace(statement) == "" {
				continue
			}
			if _, err := client.ExecContext(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		if err := db.WithTables(testKeys(t, 1)).Open(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// A caller that hangs up is no failure of the store. A caller that waits too long is one.
func TestCancelledIsNotUnavailable(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		for name, ask := range map[string]func(context.Context) error{
			"read":  func(ctx context.Context) error { _, err := s.Session(ctx, "x"); return err },
			"write": func(ctx context.Context) error { return s.Release(ctx, "", login.Key{}) },
		} {
			if err := ask(cancelled); !isPermanent(err, context.Canceled) {
				t.Errorf("%s, cancelled: %v", name, err)
			}
			if err := ask(late); !strings.Contains(fmt.Sprint(err), ErrUnavailable.Error()) {
				t.Errorf("%s, late: %v", name, err)
			}
		}
	})
}

// Housekeeping deletes expired rows in small batches, and nothing else.
func TestPurgeDeletesOnlyExpiredRows(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		now := time.Now().UTC().Truncate(time.Millisecond) // the database's clock decides
		for i := range 5 {
			at := now.Add(-400*24*time.Hour + time.Duration(i)*time.Second)
			opened, _ := settle(t, s, user.Binding{AppID: "wx1", OpenID: fmt.Sprint("o", i), UserID: "u"}, user.Keep, at)
			if _, err := s.End(t.Context(), opened.ID, ending(at, at.Add(time.Hour))); err != nil {
				t.Fatal(err)
			}
			if err := s.Keep(t.Context(), [32]byte{byte(i)}, nil, at); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Lease(t.Context(), "me", at, time.Until(at), [32]byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		alive, _ := settle(t, s, user.Binding{AppID: "wx1", OpenID: "o", UserID: "u"}, user.Keep, now)
		if err := s.Keep(t.Context(), [32]byte{99}, []byte("new"), now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		var each []int
		for {
			n, err := s.Purge(t.Context(), 2)
			if err != nil {
				t.Fatal(err)
			}
			each = append(each, n)
			if n == 0 {
				break
			}
		}
		// The newest of five revocations stays. A login leaves two steps.
		if want := []int{8, 8, 4, 2, 2, 2, 2, 1, 0}; !slices.Equal(each, want) {
			t.Errorf("purged %v; want %v", each, want)
		}
		if _, err := s.Session(t.Context(), alive.ID); err != nil {
			t.Errorf("a live session was purged: %v", err)
		}
		if _, ok, err := s.Kept(t.Context(), [32]byte{99}, now); !ok || err != nil {
			t.Errorf("a kept step was purged: %v", err)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {bindings}`); n != 6 {
			t.Errorf("%d bindings left of 6", n)
		}
	})
}

// The first replica that asks does the housekeeping, until it stops or gives the role up.
func TestOneReplicaDoesTheHousekeeping(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a := started(t, open)
		b := open(defaults).With(testKeys(t, 1))
		keeps := func(s *Store, name string) bool {
			t.Helper()
			if err := s.Keep(t.Context(), [32]byte{1}, []byte("over"), now.Add(-time.Minute)); err != nil {
				t.Fatal(err)
			}
			n, ours, err := s.Housekeep(t.Context(), name, 10)
			if err != nil || ours != (n == 1) {
				t.Fatalf("%s deleted %d: %v, %v", name, n, ours, err)
			}
			return ours
		}
		for range 3 {
			if !keeps(a, "a") || keeps(b, "b") {
				t.Error("not a alone")
			}
		}
		left := func() time.Duration {
			return time.Duration(count(t, a, `SELECT lease_until - {now} FROM {claimed_steps}`)) * time.Millisecond
		}
		if d := left(); d < housekeepingLease-time.Minute || d > housekeepingLease {
			t.Errorf("a is not asked again for %v", d)
		}
		// Replica a stopped five minutes ago.
		execute(t, a, `UPDATE {claimed_steps} SET lease_until = {now} - 1`)
		if !keeps(b, "b") || keeps(a, "a") {
			t.Error("b did not take over")
		}
		if err := a.LeaveHousekeeping(t.Context(), "a"); err != nil || keeps(a, "a") {
			t.Errorf("a gave b's role up: %v", err)
		}
		if err := b.LeaveHousekeeping(t.Context(), "b"); err != nil || !keeps(a, "a") {
			t.Errorf("b gave the role up, and a did not take it: %v", err)
		}
	})
}

package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// firstLogin prepares the first login of a new user, up to its commit.
func firstLogin(t *testing.T, s *Store, national string) (context.Context, login.Commit) {
	t.Helper()
	ctx := s.Together(t.Context())
	number := phone(t, national)
	u, err := s.Users(true, settings).Login(ctx, user.Login{Phone: number})
	if err != nil {
		t.Fatal(err)
	}
	openid := "of " + national
	l := loginCommit(user.Binding{AppID: "wx1", OpenID: openid, UserID: u.ID, PhoneAt: now}, user.Replace, newSession(u.ID, "wx1", openid, now))
	l.Phone = number
	if err := s.Keep(ctx, l.Code, nil, l.Expires); err != nil {
		t.Fatal(err)
	}
	return ctx, l
}

// Many logins commit in one transaction. One of them is refused, one has a step that must be made
// alone, and two are of one user. Each gets what it would get by itself.
func TestLoginsShareATransaction(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, _, address string) {
		s := started(t, handles(t, address))
		type one struct {
			ctx  context.Context
			l    login.Commit
			want error
		}
		var all []one
		add := func(ctx context.Context, l login.Commit, want error) { all = append(all, one{ctx, l, want}) }
		const firsts = 4
		for n := range firsts {
			ctx, l := firstLogin(t, s, fmt.Sprint(13800138000+n))
			add(ctx, l, nil)
		}
		former, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "former", UserID: "replaced", PhoneAt: now}, user.Replace, now)
		add(t.Context(), keptLogin(t, s, "replaced", "latter", "13900139001"), nil) // the former account's session ends
		surplus, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "full", UserID: "full", PhoneAt: now}, user.Replace, now)
		full := keptLogin(t, s, "full", "full", "13900139004")
		full.Max, full.Known.UserID = 1, "full"
		add(t.Context(), full, nil)
		spent := keptLogin(t, s, "late", "late", "13900139002")
		spent.Code = sha256.Sum256([]byte("code " + former.ID))
		add(t.Context(), spent, login.ErrCodeSpent)
		add(t.Context(), keptLogin(t, s, "same", "one", "13900139003"), nil)
		add(t.Context(), keptLogin(t, s, "same", "other", "13900139003"), nil)

		at := behindGate(s, "committing a login", sqldb.Durable)
		var wg sync.WaitGroup
		for n, one := range all {
			wg.Go(func() {
				done, err := s.Commit(one.ctx, one.l)
				if !errors.Is(err, one.want) {
					t.Errorf("login %d: %v, want %v", n, err, one.want)
				}
				if one.l.Binding.OpenID == "latter" && !slices.Equal(done.Ended, []string{former.ID}) {
					t.Errorf("it has ended %q", done.Ended)
				}
				if one.l.Max == 1 && !slices.Equal(done.Surplus, []string{surplus.ID}) {
					t.Errorf("it has ended %q", done.Surplus)
				}
			})
			at.until(t, func(waiting, running int) bool { return n < sqldb.GroupEnough && waiting == n || running == 2 })
		}
		close(at.open)
		wg.Wait()
		for table, want := range map[string]int{"users": firsts, "sessions": firsts + 2 + 2 + 2, "bindings": firsts + 3, "revocations": 3} {
			if n := count(t, s, `SELECT COUNT(*) FROM {`+table+`}`); n != want {
				t.Errorf("%d rows of %s, want %d", n, table, want)
			}
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {sessions} WHERE ended_at = 0`); n != firsts+3 {
			t.Errorf("%d live sessions", n)
		}
		largest := 0
		for len(at.sizes) > 0 {
			largest = max(largest, <-at.sizes)
		}
		if largest < 5 { // users may share a lock by chance
			t.Errorf("the largest transaction had %d logins", largest)
		}
	})
}

// keptLogin prepares a login of a user whom an external directory has returned, up to its commit.
func keptLogin(t *testing.T, s *Store, userID, openid, national string) login.Commit {
	t.Helper()
	l := loginCommit(user.Binding{AppID: "wx1", OpenID: openid, UserID: userID, PhoneAt: now}, user.Replace, newSession(userID, "wx1", openid, now))
	l.External, l.Phone = true, phone(t, national)
	if err := s.Keep(t.Context(), l.Code, nil, l.Expires); err != nil {
		t.Fatal(err)
	}
	return l
}

// loseAnswers lets the transactions of an operation be made, but no caller gets an answer.
func loseAnswers(s *Store, doing string) {
	s.sql.Grouping(doing, sqldb.Durable).Intercept(func(send sqldb.Send) sqldb.Send {
		return func(ctx context.Context, writes []*sqldb.Grouped) error {
			return errors.Join(send(ctx, writes), errors.New("the connection is lost"))
		}
	})
}

// A common transaction is committed, but its answer is lost. Each login is then made alone, and
// finds the session that it has opened.
func TestSharedCommitWithoutAnswer(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, _, address string) {
		s := started(t, handles(t, address))
		loseAnswers(s, "committing a login")
		l := keptLogin(t, s, "alice", "alice@wx1", "13900139000")
		var opened *login.Opened
		if _, err := s.Commit(t.Context(), l); !errors.As(err, &opened) || string(opened.Value) != string(l.Value) {
			t.Errorf("%v, %+v", err, opened)
		}
		ctx, first := firstLogin(t, s, "13800138000")
		if _, err := s.Commit(ctx, first); !errors.Is(err, login.ErrChanged) {
			t.Errorf("a new user's login, which asks the directory again: %v", err)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {sessions}`); n != 2 {
			t.Errorf("%d sessions", n)
		}
	})
}

// A test login is committed, but the answer is lost. It has no code by which its session is found
// again, so it is not made once more.
func TestTestLoginWithoutAnswer(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, _, address string) {
		s := started(t, handles(t, address))
		loseAnswers(s, "committing a test login")
		u, err := s.Users(true, settings).Login(t.Context(), user.Login{Phone: phone(t, "13800138000")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := commitTest(t, s, u); err != nil && !errors.Is(err, ErrUnavailable) {
			t.Errorf("it is tried again: %v", err)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {sessions}`); n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}

// While a replica that hangs holds the lock of one user who logs in again and again, others hardly
// wait.
func TestLoginsBesideALock(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, _, address string) {
		s := started(t, handles(t, address))
		if err := s.makeLocks(t.Context()); err != nil {
			t.Fatal(err)
		}
		held, err := s.db.sql.Pools().Write.Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer held.Rollback()
		if err := lockUser(s.db.sql.Asking(t.Context(), held), "alice"); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for n := range 6 {
			if n < 3 {
				stuck := keptLogin(t, s, "alice", "alice@wx1", fmt.Sprint(13900139000+n))
				wg.Go(func() { s.Commit(t.Context(), stuck) }) // it succeeds or not, depending on the time
				time.Sleep(20 * time.Millisecond)
			}
			l := keptLogin(t, s, fmt.Sprint("user", n), fmt.Sprint("openid", n), fmt.Sprint(13900139100+n))
			start := time.Now()
			if _, err := s.Commit(t.Context(), l); err != nil || time.Since(start) > sqldb.GroupTimeout/2 {
				t.Errorf("login %d took %v: %v", n, time.Since(start), err)
			}
		}
		held.Rollback()
		wg.Wait()
	})
}

// A login is sent twice, because the rows to lock were missing at first. The second time, its
// transaction does not even begin. The login is then made alone.
func TestSecondSharedCommitFails(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, _, address string) {
		s := started(t, handles(t, address))
		sent := 0
		s.sql.Grouping("committing a login", sqldb.Durable).Intercept(func(send sqldb.Send) sqldb.Send {
			return func(ctx context.Context, writes []*sqldb.Grouped) error {
				if sent++; sent > 1 {
					return errors.New("the connection is lost")
				}
				return send(ctx, writes)
			}
		})
		if _, err := s.Commit(t.Context(), keptLogin(t, s, "alice", "alice@wx1", "13900139000")); err != nil || sent != 2 {
			t.Errorf("sent %d times: %v", sent, err)
		}
	})
}

package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Every field of a session must survive the database, including times and empty texts.
func TestSessionIsReadAsItWasOpened(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		want, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Replace, now.Add(123*time.Millisecond))
		if got, err := s.Session(t.Context(), want.ID); err != nil || got != want {
			t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
		}
		if _, err := s.Session(t.Context(), "none"); err != session.ErrNotFound {
			t.Errorf("an unknown session: %v", err)
		}
		// Ids are compared byte by byte.
		if _, err := s.Session(t.Context(), strings.ToUpper(want.ID)); err != session.ErrNotFound {
			t.Errorf("the id in capitals: %v", err)
		}
		if _, err := s.Session(t.Context(), want.ID+" "); err != session.ErrNotFound {
			t.Errorf("the id and a blank: %v", err)
		}
	})
}

// A client's User-Agent must not break the insert, nor the terminal of an operator.
func TestHostileUserAgentIsStoredHarmlessly(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		opened := newSession("u1", "wx1", "o1", now)
		opened.UserAgent = "a\x00b\xff" + strings.Repeat("微", 1000)
		if _, err := commit(t, s, loginCommit(user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Replace, opened)); err != nil {
			t.Fatal(err)
		}
		got, err := s.Session(t.Context(), opened.ID)
		if err != nil || !strings.HasPrefix(got.UserAgent, "ab微") || len(got.UserAgent) > 512 {
			t.Errorf("%q, %v", got.UserAgent, err)
		}
	})
}

// winners makes n attempts at once, in turn on each of the stores, and returns how many of them
// succeeded.
func winners(t *testing.T, n int, stores []*Store, try func(s *Store, i int) (bool, error)) int32 {
	t.Helper()
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			ok, err := try(stores[i%len(stores)], i)
			if err != nil {
				t.Error(err)
			}
			if ok {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	return won.Load()
}

// Many refreshes of one token at once: exactly one may advance the counter.
func TestAdvanceIsWonByOne(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		opened, _ := logIn(t, a, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Replace, now)
		at, expires := now.Add(time.Hour), now.Add(31*24*time.Hour)
		won := winners(t, 50, []*Store{a, b}, func(s *Store, _ int) (bool, error) {
			return s.Advance(t.Context(), opened.ID, advance(0, 1, at, expires))
		})
		got, err := a.Session(t.Context(), opened.ID)
		if won != 1 || err != nil || got.Counter != 1 || !got.AdvancedAt.Equal(at) || !got.RefreshedAt.Equal(at) || !got.ExpiresAt.Equal(expires) {
			t.Errorf("won %d times: %+v, %v", won, got, err)
		}
		// The counter may jump far ahead, after the database has lost a write.
		if ok, err := a.Advance(t.Context(), opened.ID, advance(1, 9, at, expires)); !ok || err != nil {
			t.Error(ok, err)
		}
		if ok, err := a.Advance(t.Context(), "none", advance(0, 1, at, expires)); ok || err != nil {
			t.Error(ok, err)
		}
		if _, err := a.Advance(t.Context(), opened.ID, advance(9, 1<<63, at, expires)); err == nil {
			t.Error("a counter that is too large for the column was accepted")
		}
		if _, err := a.End(t.Context(), opened.ID, ending(at, at)); err != nil {
			t.Fatal(err)
		}
		if ok, err := a.Advance(t.Context(), opened.ID, advance(9, 10, at, expires)); ok || err != nil {
			t.Error("an ended session advanced", err)
		}
	})
}

// A session that is ended twice has one entry in the feed.
func TestEndWritesOneRevocation(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Replace, now)
		until := now.Add(time.Hour)
		won := winners(t, 20, []*Store{s}, func(s *Store, _ int) (bool, error) { return s.End(t.Context(), opened.ID, ending(now, until)) })
		feed, err := s.Revocations(t.Context(), 0, 0)
		if won != 1 || err != nil || len(feed) != 1 || feed[0].SessionID != opened.ID || !feed[0].Until.Equal(until) || feed[0].Seq < 1 {
			t.Errorf("ended %d times: %+v, %v", won, feed, err)
		}
		if got, err := s.Session(t.Context(), opened.ID); err != nil || !got.EndedAt.Equal(now) {
			t.Errorf("%+v, %v", got, err)
		}
		if ended, err := s.End(t.Context(), "none", ending(now, until)); ended || err != nil {
			t.Error(ended, err)
		}
	})
}

// Ending a user's sessions ends all of them, and no other user's.
func TestEndUserEndsNoOtherSessions(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		var want []string
		for i, app := range []string{"wx1", "wx2", "wx3"} {
			opened, _ := logIn(t, s, user.Binding{AppID: app, OpenID: "o1", UserID: "u1"}, user.Keep, now.Add(time.Duration(i)*time.Second))
			want = append([]string{opened.ID}, want...)
		}
		other, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o2", UserID: "u2"}, user.Replace, now)

		list, err := s.UserSessions(t.Context(), "u1", now)
		var listed []string
		for _, one := range list {
			listed = append(listed, one.ID)
		}
		if err != nil || !slices.Equal(listed, want) {
			t.Errorf("listed %v, %v; want %v", listed, err, want)
		}
		if list, err := s.UserSessions(t.Context(), "u1", now.Add(settings.Idle+time.Second)); err != nil || len(list) != 1 {
			t.Errorf("of three sessions two have expired: %v, %v", list, err)
		}

		ended, err := endUser(t.Context(), s, "u1", ending(now, now.Add(time.Hour)))
		slices.Sort(ended)
		slices.Sort(want)
		if err != nil || !slices.Equal(ended, want) {
			t.Errorf("ended %v, %v; want %v", ended, err, want)
		}
		if again, err := endUser(t.Context(), s, "u1", ending(now, now)); err != nil || len(again) != 0 {
			t.Error(again, err)
		}
		if list, err := s.UserSessions(t.Context(), "u1", now); err != nil || len(list) != 0 {
			t.Error(list, err)
		}
		if got, err := s.Session(t.Context(), other.ID); err != nil || !got.EndedAt.IsZero() {
			t.Error("another user's session ended", err)
		}
	})
}

// The feed must return all rows after the cursor. It must also return recent rows before it, which
// may have been committed late.
func TestFeedReadsNewAndYoungRevocations(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		for range 4 {
			opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Replace, now)
			if _, err := s.End(t.Context(), opened.ID, ending(now, now)); err != nil {
				t.Fatal(err)
			}
		}
		all, err := s.Revocations(t.Context(), 0, 0)
		if err != nil || len(all) != 4 || !slices.IsSortedFunc(all, func(a, b session.Revocation) int { return int(a.Seq - b.Seq) }) {
			t.Fatalf("%+v, %v", all, err)
		}
		// The feed uses the database's clock. By that clock, two of the rows are made old here.
		execute(t, s, `UPDATE {revocations} SET recorded_at = recorded_at - 3600000 WHERE seq <= ?`, all[1].Seq)
		for _, c := range []struct {
			after  int64
			window time.Duration
			want   int
		}{{0, 0, 4}, {all[2].Seq, 0, 1}, {all[3].Seq, time.Minute, 2}, {all[3].Seq, 2 * time.Hour, 4}, {all[0].Seq, time.Minute, 3}, {1 << 40, -time.Minute, 0}} {
			got, err := s.Revocations(t.Context(), c.after, c.window)
			if err != nil || len(got) != c.want {
				t.Errorf("after %d, %v: %+v, %v; want %d", c.after, c.window, got, err, c.want)
			}
		}
	})
}

// A number in the feed is never assigned twice, even after the newest rows are gone.
func TestFeedNumbersOnlyGrow(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		var last int64
		for range 3 {
			s := started(t, open)
			opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Replace, now)
			if _, err := s.End(t.Context(), opened.ID, ending(now, now)); err != nil {
				t.Fatal(err)
			}
			feed, err := s.Revocations(t.Context(), last, 0)
			if err != nil || len(feed) != 1 || feed[0].Seq <= last {
				t.Fatalf("after %d: %+v, %v", last, feed, err)
			}
			last = feed[0].Seq
			if _, err := s.Purge(t.Context(), 100); err != nil {
				t.Fatal(err)
			}
			s.db.Close()
		}
	})
}

// An unavailable store must not look like "no such session", or users would be logged
// out.
func TestUnavailableStoreIsNoAnswer(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		s.db.Close()
		if _, err := s.Session(t.Context(), "x"); !errors.Is(err, ErrUnavailable) || errors.Is(err, session.ErrNotFound) {
			t.Error(err)
		}
		if ended, err := s.End(t.Context(), "x", ending(now, now)); ended || !errors.Is(err, ErrUnavailable) {
			t.Error(ended, err)
		}
		if _, err := s.Users(true, settings).Login(t.Context(), user.Login{Phone: phone(t, "13800138000")}); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
	})
}

// A reload or a time limit ends a poll between two rows. Such a poll has no answer of the
// database's clock, so it says nothing about the process's clock.
func TestAbortedPollMovesNoClock(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		c := clock.New()
		s := open(Options{Clock: c}).With(testKeys(t, 1))
		if err := s.Open(patient(t)); err != nil {
			t.Fatal(err)
		}
		err := s.sql.Rewrite(t.Context(), "filling", func(tx *sqldb.Tx) error {
			for range 3000 {
				if _, err := tx.Exec(`INSERT INTO {revocations} (session_id, until_at, recorded_at) VALUES (?, ?, {now})`,
					session.NewID(time.Now()), time.Now().Add(time.Hour).UnixMilli()); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := s.Revocations(t.Context(), 0, time.Hour); err != nil {
			t.Fatal(err)
		}
		whole := time.Since(start)
		for i := range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), whole/4+time.Duration(i)*whole/150)
			_, _ = s.Revocations(ctx, 0, time.Hour) // whether it was fast enough does not matter
			cancel()
			if c.State().Off {
				t.Fatalf("after %d polls that were cut short the clock counts as wrong: %+v", i+1, c.State())
			}
		}
	})
}

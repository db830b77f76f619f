package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// A session reads back as it was opened, refreshed and ended, even if a replica of an earlier
// version refreshed it in between.
func TestSessionsKeepAudienceAndReason(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		opened := newSession("u1", "wx1", "o1", now)
		opened.Counter, opened.TokensUntil = 1, now.Add(time.Hour)
		if _, err := commit(t, s, loginCommit(user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Replace, opened)); err != nil {
			t.Fatal(err)
		}
		want := opened
		check := func() {
			t.Helper()
			if got, err := s.Session(t.Context(), opened.ID); err != nil || got != want {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
			}
		}
		check()
		// A session from before the column existed gets the audience of its first refresh, and
		// keeps it.
		later := now.Add(time.Minute)
		for i, audience := range []string{"shop", "admin"} {
			a := session.Advance{From: uint64(i + 1), To: uint64(i + 2), Now: later, Expires: later.Add(time.Hour), TokensUntil: later.Add(2 * time.Hour), Audience: audience}
			if ok, err := s.Advance(t.Context(), opened.ID, a); !ok || err != nil {
				t.Fatal(ok, err)
			}
			want.Counter, want.AdvancedAt, want.RefreshedAt, want.ExpiresAt, want.TokensUntil = a.To, a.Now, a.Now, a.Expires, a.TokensUntil
			want.Audience = "shop"
			check()
		}
		for _, until := range []time.Duration{time.Hour, 3 * time.Hour} { // the time only moves forward
			if err := s.Extend(t.Context(), opened.ID, later.Add(until)); err != nil {
				t.Fatal(err)
			}
		}
		want.TokensUntil = later.Add(3 * time.Hour)
		check()
		// A replica of an earlier version updates only the columns that it knows.
		execute(t, s, `UPDATE {sessions} SET counter = counter + 1, advanced_at = ?, refreshed_at = ? WHERE id = ?`, s.db.millis(later), s.db.millis(later), opened.ID)
		want.Counter++
		want.TokensUntil = time.Time{}
		check()
		for _, reason := range []session.Reason{session.ReasonMax, session.ReasonLogout} { // the first one counts
			if _, err := s.End(t.Context(), opened.ID, session.Ending{Reason: reason, Now: later, Until: later}); err != nil {
				t.Fatal(err)
			}
		}
		want.EndedAt, want.EndReason = later, session.ReasonMax
		check()
	})
}

// All replicas read the feed, so a session whose last token has expired gets no entry in it. A
// session that may have a valid token gets one.
func TestFeedHoldsSessionsWithTokensOnly(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		// The tests' clock differs from the database's clock. The later of the two counts.
		real := time.Now()
		s := started(t, open)
		opened := make(map[string]string)
		add := func(name string, tokensUntil time.Time, change string) {
			one := newSession("u1", "wx1", "o1", real)
			one.Counter, one.TokensUntil = 1, tokensUntil
			if err := s.sql.Write(t.Context(), "opening", func(t *sqldb.Tx) error { return addSession(t, s, one) }); err != nil {
				t.Fatal(err)
			}
			if change != "" {
				execute(t, s, `UPDATE {sessions} SET `+change+` WHERE id = ?`, one.ID)
			}
			opened[one.ID] = name
		}
		add("expired", real.Add(-time.Hour), "")
		add("live", real.Add(time.Hour), "")
		add("from before the columns", time.Time{}, "tokens_counter = 0")
		add("advanced by an earlier version", real.Add(-time.Hour), "counter = 2")
		want := map[string]bool{"live": true, "from before the columns": true, "advanced by an earlier version": true}

		ended, err := endUser(t.Context(), s, "u1", ending(real, real.Add(time.Hour)))
		if err != nil || len(ended) != len(opened) {
			t.Fatal(ended, err)
		}
		wantFeed := func(after int64) (last int64) {
			t.Helper()
			feed, err := s.Revocations(t.Context(), after, 0)
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[string]bool)
			for _, r := range feed {
				if r.Seq > after { // a row of this millisecond is returned again
					got[opened[r.SessionID]], last = true, r.Seq
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("in the feed are %v, want %v", got, want)
			}
			return last
		}
		last := wantFeed(0)

		// A token is valid by the database's clock. A replica whose clock is a year ahead or behind
		// must not treat it as expired.
		clear(opened)
		add("live", real.Add(time.Hour), "")
		add("expired", real.Add(-time.Hour), "")
		want = map[string]bool{"live": true}
		if _, err := endUser(t.Context(), s, "u1", ending(real.Add(365*24*time.Hour), real)); err != nil {
			t.Fatal(err)
		}
		last = wantFeed(last)
		clear(opened)
		add("expired", real.Add(-time.Hour), "")
		want = map[string]bool{"expired": true}
		if _, err := endUser(t.Context(), s, "u1", ending(real.Add(-365*24*time.Hour), real)); err != nil {
			t.Fatal(err)
		}
		wantFeed(last)
	})
}

// A user has more sessions than one transaction ends. Other users can log in meanwhile.
func TestManySessionsEndInBatches(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		const many = 3*endBatch + 7
		for range many {
			one := newSession("u1", "wx1", "o1", now)
			if err := s.sql.Change(t.Context(), "opening", sqldb.Once, sqldb.Light, func(t *sqldb.Tx) error { return addSession(t, s, one) }); err != nil {
				t.Fatal(err)
			}
		}
		other, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o2", UserID: "u2"}, user.Replace, now)
		var batches []int
		err := s.EndUser(t.Context(), "u1", ending(now, now.Add(time.Hour)), func(ids []string) {
			batches = append(batches, len(ids))
			// Another login comes between two transactions.
			logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o2", UserID: "u2"}, user.Replace, now)
		})
		if err != nil || fmt.Sprint(batches) != fmt.Sprint([]int{endBatch, endBatch, endBatch, 7}) {
			t.Errorf("batches of %v, %v", batches, err)
		}
		if live, told := count(t, s, `SELECT COUNT(*) FROM {sessions} WHERE user_id = 'u1' AND ended_at = 0`), count(t, s, `SELECT COUNT(DISTINCT session_id) FROM {revocations}`); live != 0 || told != many {
			t.Errorf("%d live, %d in the feed", live, told)
		}
		if got, err := s.Session(t.Context(), other.ID); err != nil || !got.EndedAt.IsZero() {
			t.Errorf("another user's session: %+v, %v", got, err)
		}
	})
}

// A logout from all devices fails in the middle. The device that asked for it must be able to ask
// again, so its own session ends last.
func TestSessionThatAsksEndsLast(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		var first string
		for range endBatch + 20 {
			one := newSession("u1", "wx1", "o1", now)
			if first == "" || one.ID < first {
				first = one.ID
			}
			if err := s.sql.Change(t.Context(), "opening", sqldb.Once, sqldb.Light, func(t *sqldb.Tx) error { return addSession(t, s, one) }); err != nil {
				t.Fatal(err)
			}
		}
		e := ending(now, now.Add(time.Hour))
		e.Last = first // otherwise it would be in the first batch
		ctx, broken := context.WithCancel(t.Context())
		if err := s.EndUser(ctx, "u1", e, func([]string) { broken() }); err == nil {
			t.Fatal("no error was returned")
		}
		if got, err := s.Session(t.Context(), first); err != nil || !got.EndedAt.IsZero() {
			t.Errorf("%+v, %v", got, err)
		}
		ended, err := endUser(t.Context(), s, "u1", e)
		if err != nil || len(ended) != 20 || ended[len(ended)-1] != first {
			t.Errorf("the second call ended %d, %v", len(ended), err)
		}
	})
}

// A table from before sessions were limited holds thousands of a former owner's sessions. The new
// owner's login ends them all, in batches, before it opens a session.
func TestLoginEndsVeryManySessions(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		b := user.Binding{AppID: "wx1", OpenID: "former", UserID: "u", PhoneAt: now}
		if _, err := commit(t, s, loginCommit(b, user.Replace, newSession("u", "wx1", "former", now))); err != nil {
			t.Fatal(err)
		}
		const many = 2*endBatch + 7
		if err := s.sql.Write(t.Context(), "filling", func(t *sqldb.Tx) error {
			for range many {
				if err := addSession(t, s, newSession("u", "wx1", "former", now)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		b.OpenID = "new"
		done, err := commit(t, s, loginCommit(b, user.Replace, newSession("u", "wx1", "new", now)))
		if err != nil || len(done.Ended) != many+1 {
			t.Errorf("%d ended, want %d: %v", len(done.Ended), many+1, err)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {sessions} WHERE ended_at = 0`); n != 1 {
			t.Errorf("%d sessions live", n)
		}
	})
}

// New sessions appear as fast as a login ends them. A login that gives up must not answer with a
// session that was never written.
func TestLoginThatCannotEndSessionsFails(t *testing.T) {
	s := started(t, newSQLite(t))
	b := user.Binding{AppID: "wx1", OpenID: "former", UserID: "u", PhoneAt: now}
	if _, err := commit(t, s, loginCommit(b, user.Replace, newSession("u", "wx1", "former", now))); err != nil {
		t.Fatal(err)
	}
	if err := s.sql.Write(t.Context(), "filling", func(t *sqldb.Tx) error {
		for range endBatch + 1 {
			if err := addSession(t, s, newSession("u", "wx1", "former", now)); err != nil {
				return err
			}
		}
		_, err := t.Exec(`CREATE TRIGGER stay BEFORE UPDATE OF ended_at ON {sessions} BEGIN SELECT RAISE(IGNORE); END`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	b.OpenID = "new"
	opened := newSession("u", "wx1", "new", now)
	if _, err := commit(t, s, loginCommit(b, user.Replace, opened)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if _, err := s.Session(t.Context(), opened.ID); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("the session: %v", err)
	}
}

// addSession opens a session within a transaction.
func addSession(t *sqldb.Tx, s *Store, one session.Session) error {
	opened, err := insertSession(s.db, one)
	if err != nil {
		return err
	}
	return t.Send(false, opened)
}

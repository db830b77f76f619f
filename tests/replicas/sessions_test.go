package replicas

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// A user, or a script with one user's phone, logs in two thousand times at once. Every
// one of these sessions would have to be ended when the user is disabled.
func TestCrowdOfLoginsLeavesFewSessions(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		const most = 20
		replicas := rig.NewReplicas(t, db, 2, "login_rate 1000/s")
		first := replicas[0].MustLogin(t, number)
		tries := rig.Rounds(150, 2000)
		pairs := make([]rig.Pair, tries)
		var at sync.WaitGroup
		turn := make(chan int)
		for range 50 {
			at.Go(func() {
				for i := range turn {
					r := replicas[i%2]
					codes, err := r.WeChat.MintLogin(rig.AppID, "+86"+number)
					if err != nil {
						t.Error(err)
						continue
					}
					a := r.Silent(codes.Code)
					if a.Status == http.StatusOK {
						pairs[i] = a.Pair(t)
					}
				}
			})
		}
		for i := range tries {
			turn <- i
		}
		close(turn)
		at.Wait()
		last := replicas[1].Silent(replicas[1].WeChat.Open(t, number).Code).Pair(t)
		if live := db.Live(t, first.UserInfo.ID); live != most {
			t.Errorf("%d sessions are live, want %d", live, most)
		}
		replicas[1].WantAlive(t, last)
		// An ended session has ended on both replicas, and its reason is known.
		a := replicas[0].Refresh(first.RefreshToken)
		a.WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
		var p struct{ Reason string }
		if a.Decode(t, "application/problem+json", &p); p.Reason != "max" {
			t.Errorf("reason %q", p.Reason)
		}
		for _, r := range replicas {
			rig.Await(t, patience, "the first token is refused", func() bool { return r.Get("/", first.Token).Status == http.StatusUnauthorized })
		}
		alive := 0
		for _, p := range pairs {
			if p.RefreshToken != "" && replicas[0].Refresh(p.RefreshToken).Status == http.StatusOK {
				alive++
			}
		}
		if alive != most-1 {
			t.Errorf("%d of the crowd are live, want %d", alive, most-1)
		}
	})
}

// An earlier version had no bound and left many sessions behind. The next login ends all but
// the sessions refreshed last, and none of another app or issuer.
func TestLoginCutsDownOldSessions(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		const most = 3
		replicas := rig.NewReplicas(t, db, 2, fmt.Sprintf("session {\nmax %d\n}", most))
		a, b := replicas[0], replicas[1]
		first := a.MustLogin(t, number)
		user := first.UserInfo.ID
		db.FillSessions(t, user, "o", rig.Rounds(2000, 20_000))
		db.Run(t, "UPDATE wx_auth_sessions SET issuer = 'another' WHERE id = '0-"+user+"-1'")
		db.Run(t, "UPDATE wx_auth_sessions SET appid = 'wxanother' WHERE id = '0-"+user+"-2'")
		db.Run(t, "UPDATE wx_auth_sessions SET expires_at = 1 WHERE id IN ('0-"+user+"-3', '0-"+user+"-4', '0-"+user+"-5', '0-"+user+"-6')") // expired, so not counted
		codes := b.WeChat.Open(t, number)
		second := b.Silent(codes.Code).Pair(t)
		var left []string
		rows, err := db.Query("SELECT id FROM wx_auth_sessions WHERE ended_at = 0 AND expires_at > 1 ORDER BY refreshed_at DESC")
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				t.Fatal(err)
			}
			left = append(left, id)
		}
		rows.Close()
		newest := fmt.Sprint("0-", user, "-", rig.Rounds(2000, 20_000))
		if want := []string{rig.SessionOf(t, second.Token), rig.SessionOf(t, first.Token), newest, "0-" + user + "-2", "0-" + user + "-1"}; !slices.Equal(left, want) {
			t.Errorf("left are %v, want %v", left, want)
		}
		b.WantAlive(t, second)
		a.WantAlive(t, first)
		// Sending the same codes again ends nothing.
		if again := a.Silent(codes.Code).Pair(t); rig.SessionOf(t, again.Token) != rig.SessionOf(t, second.Token) {
			t.Error("another session")
		}
		// The housekeeping may have removed those that had expired.
		if live := db.Count(t, "SELECT COUNT(*) FROM wx_auth_sessions WHERE ended_at = 0 AND expires_at > 1"); live != most+2 {
			t.Errorf("%d sessions are live", live)
		}
	})
}

// Twenty thousand sessions of one user are in a database in another zone. Ending them must
// succeed at once. With one statement for each session it took minutes, failed, and left all
// of them open.
func TestManySessionsEndInTime(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		behind, wire := db.Behind(t, 2*time.Millisecond)
		replicas := rig.NewReplicas(t, behind, 2, "service_key "+serviceKey, "session {\nmax 1000\n}")
		a, b := replicas[0], replicas[1]
		serve := func(method, path string, body any) rig.Answer {
			return a.Do(method, "/auth/wx/service/"+path, body, rig.Bearer(serviceKey)...)
		}
		many := rig.Rounds(5000, 20_000)
		for i, c := range []struct {
			name string
			end  func(user string, p rig.Pair) rig.Answer
		}{
			{"revoke", func(user string, _ rig.Pair) rig.Answer {
				return serve(http.MethodPost, "revoke", map[string]string{"userId": user})
			}},
			{"disable", func(user string, _ rig.Pair) rig.Answer {
				return serve(http.MethodPatch, "users/"+user, map[string]bool{"disabled": true})
			}},
			{"logout all", func(_ string, p rig.Pair) rig.Answer { return a.Logout(p.Token, "", true) }},
			{"erase", func(user string, _ rig.Pair) rig.Answer { return serve(http.MethodDelete, "users/"+user, nil) }},
		} {
			number := fmt.Sprint("1380013801", i)
			pairs := []rig.Pair{a.MustLogin(t, number), b.MustLogin(t, number), a.MustLogin(t, number)}
			user := pairs[0].UserInfo.ID
			db.FillSessions(t, user, "o", many)
			asked, begun := wire.Turnarounds(), time.Now()
			answer := c.end(user, pairs[1])
			// On a busy machine a call may run out of time. The next one continues where it was. A
			// logout may have ended its own session by then, so it needs a new one.
			for tries := 0; answer.Status == http.StatusServiceUnavailable && tries < 3; tries++ {
				p := pairs[1]
				if c.name == "logout all" {
					p = a.MustLogin(t, number)
				}
				answer = c.end(user, p)
			}
			answer.Want(t, http.StatusNoContent)
			took, turns := time.Since(begun), wire.Turnarounds()-asked
			answered := time.Now()
			for _, p := range pairs {
				a.Get("/", p.Token).WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
			}
			for _, p := range pairs {
				rig.Await(t, patience, "the token is refused on B", func() bool { return b.Get("/", p.Token).Status == http.StatusUnauthorized })
			}
			t.Logf("%s, %s: %d sessions in %d ms, with %d turnarounds (of both replicas); refused on B %d ms later",
				db.Kind, c.name, many, took.Milliseconds(), turns, time.Since(answered).Milliseconds())
			if live := db.Live(t, user); live != 0 {
				t.Errorf("%s: %d sessions are live", c.name, live)
			}
			if n := db.Count(t, "SELECT COUNT(*) FROM wx_auth_revocations WHERE session_id IN (SELECT id FROM wx_auth_sessions WHERE user_id = '"+user+"')"); n < int64(many) {
				t.Errorf("%s: %d revocations", c.name, n)
			}
			// With five statements for each session this would be a hundred times as many.
			if limit := int64(many/500*8 + 200); turns > limit {
				t.Errorf("%s: %d turnarounds, more than %d", c.name, turns, limit)
			}
			if c.name == "erase" {
				if n := db.Count(t, "SELECT COUNT(*) FROM wx_auth_sessions WHERE user_id = '"+user+"' AND (openid <> '' OR user_agent <> '' OR address <> '')"); n != 0 {
					t.Errorf("%d sessions still name the person", n)
				}
			}
			// The log lines and events about these sessions have a bounded size.
			for _, line := range a.Caddy.Log.Lines(user) {
				if len(line) > 16<<10 {
					t.Errorf("%s: a log line of %d bytes: %.200s", c.name, len(line), line)
				}
			}
		}
		a.Caddy.Log.Wait(t, patience, `"name":"wx_auth_revoked"`, fmt.Sprint(`"count":`, many+3))
	})
}

// While one user's sessions end, other users' logins go on, even in a database with a
// single writer.
func TestLoginsGoOnWhileManySessionsEnd(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		r := rig.NewReplicas(t, db, 1)[0]
		p := r.MustLogin(t, number)
		db.FillSessions(t, p.UserInfo.ID, "o", rig.Rounds(20_000, 200_000))
		ended := rig.InBackground(func() error {
			for {
				a := r.Logout(p.Token, "", true)
				if a.Status == http.StatusNoContent || a.Status == http.StatusUnauthorized {
					return nil
				}
				if a.Status != http.StatusServiceUnavailable {
					return fmt.Errorf("%d %s %w", a.Status, a.Body, a.Err)
				}
			}
		})
		var logins distribution
		for i := 0; ; i++ {
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
				if len(logins.times) > 0 {
					t.Logf("%s: logins meanwhile: %s", db.Kind, &logins)
				}
				rig.Await(t, patience, "all sessions have ended", func() bool { return db.Live(t, p.UserInfo.ID) == 0 })
				return
			default:
			}
			begun := time.Now()
			r.MustLogin(t, fmt.Sprintf("139%08d", i))
			logins.add(time.Since(begun))
		}
	})
}

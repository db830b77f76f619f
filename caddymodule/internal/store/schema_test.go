package store

import (
	"cmp"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/importer"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// runClient runs SQL in the server's own client, as an administrator does.
func runClient(t *testing.T, kind, address, text string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	var cmd *exec.Cmd
	switch kind {
	case "postgres":
		query := u.Query()
		schema := query.Get("search_path")
		query.Del("search_path")
		u.RawQuery = query.Encode()
		cmd = exec.Command("psql", "-q", "-v", "ON_ERROR_STOP=1", u.String())
		cmd.Env = append(os.Environ(), "PGOPTIONS=-c search_path="+schema)
	case "mysql":
		password, _ := u.User.Password()
		cmd = exec.Command("mysql", "--host="+u.Hostname(), "--port="+cmp.Or(u.Port(), "3306"), "--user="+u.User.Username(), "--password="+password, strings.Trim(u.Path, "/"))
	}
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd.Path, err, out)
	}
}

// limited creates a user without any rights, and returns the address with this user.
func limited(t *testing.T, kind, address string) (theirs, name string) {
	t.Helper()
	name = dbtest.Name()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	switch kind {
	case "postgres":
		dbtest.Do(t, kind, "CREATE ROLE %s LOGIN PASSWORD 'limited'", name)
		dbtest.Do(t, kind, "GRANT USAGE ON SCHEMA %s TO %s", u.Query().Get("search_path"), name)
		t.Cleanup(func() { dbtest.Do(t, kind, "DROP OWNED BY %s", name); dbtest.Do(t, kind, "DROP ROLE %s", name) })
	case "mysql":
		dbtest.Do(t, kind, "CREATE USER '%s'@'%%' IDENTIFIED BY 'limited'", name)
		t.Cleanup(func() { dbtest.Do(t, kind, "DROP USER '%s'@'%%'", name) })
	}
	u.User = url.UserPassword(name, "limited")
	return u.String(), name
}

// An administrator runs the printed SQL and nothing else. It creates the tables, and grants enough
// rights for a user that may not change tables.
func TestPrintedSchemaServesALimitedUser(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		text, err := Schema(kind, "own_", 0)
		if err != nil {
			t.Fatal(err)
		}
		runClient(t, kind, address, text)
		theirs, name := limited(t, kind, address)
		_, comment, _ := strings.Cut(text, "it needs these rights:\n")
		runClient(t, kind, address, strings.NewReplacer("-- ", "", "TO wx;", "TO "+name+";").Replace(comment))

		db := handles(t, theirs)(Options{Prefix: "own_", Now: defaults.Now})
		s := db.WithTables(testKeys(t, 1))
		if err := s.Open(patient(t)); err != nil {
			t.Fatal(err)
		}
		users := furnish(t, s, 2)
		wantFurnished(t, s, users)
		opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "mine", UserID: users[0].ID, PhoneAt: now}, user.Replace, now)
		if ended, err := s.End(t.Context(), opened.ID, ending(now, now.Add(time.Hour))); err != nil || !ended {
			t.Errorf("ending: %v, %v", ended, err)
		}
		if err := s.Users(true, settings).Erase(t.Context(), users[1].ID); err != nil {
			t.Errorf("erasing: %v", err)
		}
		imported(t, s, user.Replace, importer.Row{AppID: "wx9", OpenID: "o9", Phone: phone(t, "13700137000")})
		rekeyed(t, db.WithTables(testKeys(t, 2, 1)), Rekey{Sessions: halfAYear})
		wantFurnished(t, db.WithTables(testKeys(t, 2)), users[:1])
		if _, ours, err := s.Housekeep(t.Context(), "a", 10); err != nil || !ours {
			t.Errorf("housekeeping: %v, %v", ours, err)
		}

		// Without the printed rights nothing works, so nothing else grants them.
		others, _ := limited(t, kind, address)
		if err := handles(t, others)(Options{Prefix: "own_"}).WithTables(testKeys(t, 2)).Open(t.Context()); err == nil {
			t.Error("a user without any rights opens it")
		}
	})
}

// An administrator migrates the tables of an older version with the printed SQL.
func TestPrintedUpdateOfAnOlderSchema(t *testing.T) {
	// This must come before the parallel tests, which all read the list.
	all := migrations
	migrations = all[:2]
	old := make(map[string]string)
	for _, kind := range []string{"postgres", "mysql"} {
		var err error
		if old[kind], err = Schema(kind, "", 0); err != nil {
			t.Fatal(err)
		}
	}
	migrations = all
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		runClient(t, kind, address, old[kind])
		s := handles(t, address)(defaults).WithTables(testKeys(t, 1))
		if err := s.Open(t.Context()); !isPermanent(err, ErrSchema) || !strings.Contains(err.Error(), "--from 2") {
			t.Fatalf("an older schema: %v", err)
		}
		update, err := Schema(kind, "", 2)
		if err != nil {
			t.Fatal(err)
		}
		runClient(t, kind, address, update)
		users := furnish(t, s, 1)
		wantFurnished(t, s, users)
		if text, err := Schema(kind, "", len(all)); err == nil {
			t.Errorf("from the newest on: %s", text)
		}
	})
}

// A revocation gets its number when it is written, but becomes visible only when its transaction
// commits. So numbers become visible out of order, and none may be missed. It must not matter that
// the replicas' clocks differ by a minute.
func TestRevocationThatCommitsLateIsRead(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		open := handles(t, address)
		s := started(t, open)
		real := time.Now()
		late, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Keep, real)
		early, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o2", UserID: "u2"}, user.Keep, real)
		feeds := make(map[time.Duration]*session.Feed)
		poll := func() {
			t.Helper()
			for skew, f := range feeds {
				if err := f.Poll(t.Context(), s, time.Now().Add(skew)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, skew := range []time.Duration{-time.Minute, 0, time.Minute} {
			feeds[skew] = session.NewFeed(session.NewRevoked())
		}
		poll()

		held, err := s.db.sql.Pools().Write.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Rollback()
		until := real.Add(time.Hour)
		if _, err := s.db.endSessions(s.db.sql.Asking(t.Context(), held), ending(real, until), `id = ?`, late.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.End(t.Context(), early.ID, ending(real, until)); err != nil {
			t.Fatal(err)
		}
		poll()
		for skew, f := range feeds {
			if !f.Revoked.Contains(early.ID) || f.Revoked.Contains(late.ID) {
				t.Fatalf("%v: before the late commit: %v, %v", skew, f.Revoked.Contains(early.ID), f.Revoked.Contains(late.ID))
			}
		}
		if err := held.Commit(); err != nil {
			t.Fatal(err)
		}
		poll()
		for skew, f := range feeds {
			if !f.Revoked.Contains(late.ID) {
				t.Errorf("%v: the late commit was lost", skew)
			}
		}
	})
}

package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// sever ends all connections to a database except the one that the tests use themselves, like a
// restart of the server.
func sever(t *testing.T, kind, address string) (severed int) {
	t.Helper()
	pool := dbtest.Admin(kind)
	query := `SELECT pid FROM pg_stat_activity WHERE application_name = 'caddy-wx-auth' AND pid <> pg_backend_pid() AND query LIKE '%wx_auth%' AND datname = current_database()`
	if kind == "mysql" {
		query = `SELECT id FROM information_schema.processlist WHERE db = '` + address[strings.LastIndexByte(address, '/')+1:] + `'`
	} else {
		_, path, _ := strings.Cut(address, "search_path=")
		query = `SELECT pid FROM pg_stat_activity WHERE application_name = '` + path + `'`
	}
	rows, err := pool.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		if kind == "mysql" {
			_, err = pool.Exec(fmt.Sprintf(`KILL %d`, id))
		} else {
			_, err = pool.Exec(fmt.Sprintf(`SELECT pg_terminate_backend(%d)`, id))
		}
		if err != nil && sqldb.MySQLNumber(err) != 1094 { // the connection is gone already
			t.Fatal(err)
		}
		severed++
	}
	return severed
}

// severable returns an address whose connections sever can find.
func severable(kind, address string) string {
	if kind == "mysql" {
		return address
	}
	_, path, _ := strings.Cut(address, "search_path=")
	return dbtest.WithParameter(address, "application_name", path)
}

// The server drops an idle connection. The next query must not fail because of it.
func TestDroppedConnectionIsReplaced(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		s := started(t, handles(t, severable(kind, address)))
		opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Keep, now)
		for i := range 5 {
			// Several connections are open, all of them idle.
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() { ping(context.Background(), s) })
			}
			wg.Wait()
			if n := sever(t, kind, address); n == 0 {
				t.Fatal("there was no connection to sever")
			}
			if _, err := s.Session(t.Context(), opened.ID); err != nil {
				t.Errorf("reading: %v", err)
			}
			sever(t, kind, address)
			if ok, err := s.Advance(t.Context(), opened.ID, advance(uint64(i), uint64(i+1), now, now)); !ok || err != nil {
				t.Errorf("advancing: %v, %v", ok, err)
			}
			sever(t, kind, address)
			if err := s.Keep(t.Context(), [32]byte{byte(i)}, []byte("x"), now.Add(time.Hour)); err != nil {
				t.Errorf("keeping: %v", err)
			}
		}
	})
}

// Connections are cut every few milliseconds. A write that was acknowledged must have been made,
// and one that failed must report a temporary error.
func TestCutWritesAreDoneOrReported(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		open := handles(t, severable(kind, address))
		s := started(t, open)
		const sessions = 8
		var ids []string
		for i := range sessions {
			opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: fmt.Sprint("o", i), UserID: fmt.Sprint("u", i)}, user.Keep, now)
			ids = append(ids, opened.ID)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		var answered, reported atomic.Int32
		var wg sync.WaitGroup
		for _, id := range ids {
			wg.Go(func() {
				var counter uint64
				for ctx.Err() == nil {
					ok, err := s.Advance(context.Background(), id, advance(counter, counter+1, now, now))
					if err != nil {
						if !errors.Is(err, ErrUnavailable) {
							t.Errorf("advancing: %v", err)
						}
						reported.Add(1)
					}
					var got uint64
					for {
						found, err := s.Session(context.Background(), id)
						if err == nil {
							got = found.Counter
							break
						}
						if !errors.Is(err, ErrUnavailable) {
							t.Errorf("reading: %v", err)
						}
					}
					switch {
					case err == nil && (!ok || got != counter+1):
						t.Errorf("answered %v, and the counter is %d after %d", ok, got, counter)
					case got != counter && got != counter+1:
						t.Errorf("the counter is %d after %d", got, counter)
					}
					answered.Add(1)
					counter = got
				}
			})
		}
		cuts := 0
		for ctx.Err() == nil {
			cuts += sever(t, kind, address)
			time.Sleep(5 * time.Millisecond)
		}
		wg.Wait()
		t.Logf("%d connections cut, %d advances, %d of them reported as unknown", cuts, answered.Load(), reported.Load())
		if cuts == 0 || answered.Load() == 0 {
			t.Error("nothing was tried")
		}
	})
}

// A server accepts connections but answers nothing. Callers get an error in bounded
// time.
func TestServerThatDoesNotAnswerIsUnavailable(t *testing.T) {
	for _, address := range []string{"postgres://u:hunter2@127.0.0.1:1/wx", "mysql://u:hunter2@127.0.0.1:1/wx", "postgres://u:hunter2@no-such-host.invalid/wx"} {
		db, err := New(address, defaults)
		if err != nil {
			t.Fatal(err)
		}
		err = db.With(testKeys(t, 1)).Open(t.Context())
		if !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
}

package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// moves calls test with an old and a new database, for each pair of kinds between which operators
// move.
func moves(t *testing.T, test func(t *testing.T, from, to database)) {
	t.Helper()
	kinds := map[string]func(*testing.T) database{"sqlite": newSQLite, "postgres": kinds["postgres"], "mysql": newMySQL}
	for _, pair := range [][2]string{{"sqlite", "postgres"}, {"sqlite", "mysql"}, {"postgres", "sqlite"}, {"mysql", "postgres"}, {"sqlite", "sqlite"}} {
		if dbtest.Without(pair[0]) || dbtest.Without(pair[1]) {
			continue
		}
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) { test(t, kinds[pair[0]](t), kinds[pair[1]](t)) })
	}
}

// contents returns the rows of a table as text, without sealed values and serial numbers.
func contents(t *testing.T, s *Store, table movedTable) (rows []string) {
	t.Helper()
	names := columnsOf(table.name)
	err := s.sql.Read(t.Context(), "dumping", func(tx *sqldb.Tx) error {
		rows = nil
		return tx.Each(func(r sqldb.Row) error {
			c := newCells(names)
			err := r.Scan(c...)
			var b strings.Builder
			for i, name := range names {
				if name != table.left && !(slices.Contains(byteColumns, name) && name != "step") {
					fmt.Fprintf(&b, "%s=%q ", name, c.text(i))
				}
			}
			rows = append(rows, b.String())
			return err
		}, `SELECT `+strings.Join(names, ", ")+` FROM {`+table.name+`}`)
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(rows)
	return rows
}

// populate puts rows into every table.
func populate(t *testing.T, s *Store, n int) []user.User {
	t.Helper()
	users := furnish(t, s, n)
	for i := range n {
		one := newSession(users[i].ID, "wx1", fmt.Sprintf("o%d", i), now)
		execute(t, s, `INSERT INTO {sessions} (id, user_id, issuer, appid, openid, unionid, created_at, refreshed_at, counter, advanced_at, expires_at, ended_at, user_agent, address)
			VALUES (?, ?, 'wx-auth', 'wx1', ?, '', ?, ?, ?, ?, ?, 0, '漢 é', '127.0.0.1')`,
			one.ID, one.UserID, one.OpenID, now.UnixMilli(), now.UnixMilli(), i, now.UnixMilli(), now.Add(time.Hour).UnixMilli())
		if i%3 == 0 {
			if _, err := s.End(t.Context(), one.ID, session.Ending{Reason: session.ReasonLogout, Now: now, Until: now.Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Users(true, settings).Erase(t.Context(), users[n-1].ID); err != nil {
		t.Fatal(err)
	}
	execute(t, s, `INSERT INTO {former_openids} (user_id, appid, openid, unionid, left_at) VALUES ('u', 'wx1', 'o', '', 1), ('u', 'wx2', 'o', 'un', 2)`)
	if _, err := s.Lease(t.Context(), "me", now, time.Millisecond, [32]byte{3}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RecordNames(t.Context(), Names{Directory: OwnUsers, WeChat: map[string]string{"wx1": "weixin.qq.com"}}, ""); err != nil {
		t.Fatal(err)
	}
	return users[:n-1]
}

// A site moves from a file to a server, or back. Afterwards everything is in the new store, sealed
// with another key, and the old store accepts no more writes.
func TestMoveTakesEverything(t *testing.T) {
	moves(t, func(t *testing.T, from, to database) {
		old := started(t, from)
		users := populate(t, old, 7)
		next := to(defaults).Filler(testKeys(t, 9))
		moved, err := Move{From: old, To: next, Sessions: halfAYear}.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(moved, func(m MovedTable) bool { return m.Name == "phone numbers" }); i < 0 || moved[i].Rows != 6 {
			t.Errorf("counted: %+v", moved)
		}
		serving := to(defaults).With(testKeys(t, 9))
		for _, table := range movedTables {
			if a, b := contents(t, old, table), contents(t, serving, table); !slices.Equal(a, b) || len(a) == 0 {
				t.Errorf("%s:\n%s\n%s", table.name, strings.Join(a, "\n"), strings.Join(b, "\n"))
			}
		}
		wantFurnished(t, serving, users)
		if err := serving.CheckNames(t.Context(), Names{Directory: "another", WeChat: nil}); err == nil {
			t.Error("the name of the directory was not moved")
		}
		before, after := secrets(t, old), secrets(t, serving)
		if !slices.ContainsFunc(after.RefreshMAC(), func(k []byte) bool { return string(k) == string(before.RefreshMAC()[0]) }) {
			t.Error("refresh tokens from before are not accepted")
		}
		if !slices.ContainsFunc(after.ClaimSeal(), func(k []byte) bool { return string(k) == string(before.ClaimSeal()[0]) }) {
			t.Error("sealed claims from before do not open")
		}
		// The old store is closed, and its error names the new store.
		wantClosed(t, old, next.db.String())
		if err := from(defaults).With(testKeys(t, 1)).Open(patient(t)); err != nil {
			t.Errorf("a replica cannot start with it: %v", err)
		}
		if _, err := (Move{From: old, To: to(defaults).Filler(testKeys(t, 9))}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "was moved to") {
			t.Errorf("a second time: %v", err)
		}
		if m, err := old.OpenAgain(t.Context()); err != nil || m == nil || !m.Done {
			t.Errorf("opening it again: %+v %v", m, err)
		}
		if err := old.Probe(t.Context()); err != nil {
			t.Errorf("it is not open again: %v", err)
		}
		if _, err := (Move{From: old, To: to(defaults).Filler(testKeys(t, 9))}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "is not empty") {
			t.Errorf("into a store with users: %v", err)
		}
	})
}

func secrets(t *testing.T, s *Store) *Keys {
	t.Helper()
	keys, err := s.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func wantClosed(t *testing.T, s *Store, successor string) {
	t.Helper()
	var id string
	var counter int64
	err := s.sql.Read(t.Context(), "finding a session", func(t *sqldb.Tx) error {
		return t.Row(`SELECT id, counter FROM {sessions} WHERE ended_at = 0 LIMIT 1`).Scan(&id, &counter)
	})
	if err != nil {
		t.Fatal(err)
	}
	from := uint64(counter)
	for name, write := range map[string]func() error{
		"probe": func() error { return s.Probe(t.Context()) },
		"advance": func() error {
			_, err := s.Advance(t.Context(), id, session.Advance{From: from, To: from + 1, Now: now, Expires: now})
			return err
		},
		"end": func() error {
			_, err := s.End(t.Context(), newID(now), session.Ending{Reason: session.ReasonLogout, Now: now, Until: now})
			return err
		},
		"lease": func() error { _, err := s.Lease(t.Context(), "me", now, time.Minute, [32]byte{1}); return err },
		"purge": func() error { _, err := s.Purge(t.Context(), 10); return err },
	} {
		err := write()
		var r interface{ Remedy() string }
		if !errors.Is(err, ErrMoved) || !errors.Is(err, ErrUnavailable) || !errors.As(err, &r) || !strings.Contains(err.Error(), successor) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := ping(t.Context(), s); err != nil {
		t.Errorf("reading: %v", err)
	}
	if err := s.Keep(t.Context(), [32]byte{2}, []byte("paid for"), now.Add(time.Minute)); err != nil {
		t.Errorf("what WeChat has answered to a login under way: %v", err)
	}
}

// The operator presses Ctrl-C, or the machine goes down. The next run continues, even if the answer
// to the last commit was lost, and no row is copied twice.
func TestInterruptedMoveGoesOn(t *testing.T) {
	moves(t, func(t *testing.T, from, to database) {
		old := started(t, from)
		users := populate(t, old, 5)
		for round := 0; ; round++ {
			if round == 100 {
				t.Fatal("the move does not end")
			}
			ctx, cancel := context.WithCancel(t.Context())
			steps := 0
			_, err := Move{From: old, To: to(defaults).Filler(testKeys(t, 1)), Sessions: halfAYear, Progress: func(string, int64, int64) {
				if steps++; steps > 2 {
					cancel()
				}
			}}.Run(ctx)
			cancel()
			if err == nil {
				break
			}
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if err := to(defaults).With(testKeys(t, 1)).Open(t.Context()); !errors.Is(err, ErrUnavailable) {
				t.Fatalf("a replica uses the half-filled store: %v", err)
			}
			wantClosed(t, old, "")
		}
		serving := to(defaults).With(testKeys(t, 1))
		wantFurnished(t, serving, users)
		for _, table := range movedTables {
			if a, b := contents(t, old, table), contents(t, serving, table); !slices.Equal(a, b) {
				t.Errorf("%s:\n%s\n%s", table.name, strings.Join(a, "\n"), strings.Join(b, "\n"))
			}
		}
	})
}

// A move is undone, and the old store is used again. The next move copies everything from the
// beginning.
func TestUndoneMoveBeginsAgain(t *testing.T) {
	moves(t, func(t *testing.T, from, to database) {
		old := started(t, from)
		users := populate(t, old, 5)
		ctx, cancel := context.WithCancel(t.Context())
		steps := 0
		_, err := Move{From: old, To: to(defaults).Filler(testKeys(t, 1)), Progress: func(string, int64, int64) {
			if steps++; steps > 5 {
				cancel()
			}
		}}.Run(ctx)
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if _, err := old.OpenAgain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := old.Users(true, settings).Erase(t.Context(), users[0].ID); err != nil {
			t.Fatal(err)
		}
		if _, err := (Move{From: old, To: to(defaults).Filler(testKeys(t, 1))}).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := to(defaults).With(testKeys(t, 1)).FindPhone(t.Context(), users[0].Phone); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("an erased user came back: %v", err)
		}
	})
}

// Eight replicas write as fast as they can while the store is closed. When closing returns, each
// write is either complete or refused. So the copy never misses a logout that was acknowledged.
func TestNoWriteIsLostBehindTheClosing(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		ids := make([]string, 8)
		for i := range ids {
			ids[i] = newID(now)
			execute(t, s, `INSERT INTO {sessions} (id, user_id, issuer, appid, openid, unionid, created_at, refreshed_at, counter, advanced_at, expires_at, ended_at, user_agent, address)
				VALUES (?, 'u', 'i', 'wx1', 'o', '', 1, 1, 0, 1, 9000000000000, 0, '', '')`, ids[i])
		}
		var wg sync.WaitGroup
		var written atomic.Int64
		for i, id := range ids {
			other := open(defaults).With(testKeys(t, 1))
			wg.Go(func() {
				for n := uint64(0); ; n++ {
					advanced, err := other.Advance(t.Context(), id, session.Advance{From: n, To: n + 1, Now: now, Expires: now.Add(time.Hour)})
					if err == nil && i%2 == 0 {
						err = other.StoreToken(t.Context(), fmt.Sprintf("wx%d", i), "token", now, now.Add(time.Duration(n)*time.Second))
					}
					if err != nil {
						if !errors.Is(err, ErrMoved) {
							t.Error(err)
						}
						return
					}
					if !advanced {
						t.Error("a session did not advance")
						return
					}
					written.Add(1)
				}
			})
		}
		for deadline := time.Now().Add(20 * time.Second); written.Load() < 40 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if err := s.closeFor(t.Context(), Moved{To: "elsewhere", ID: "1"}); err != nil {
			t.Fatal(err)
		}
		tables := []movedTable{{name: "sessions"}, {name: "access_tokens"}}
		var before [][]string
		for _, table := range tables {
			before = append(before, contents(t, s, table))
		}
		wg.Wait()
		for i, table := range tables {
			if after := contents(t, s, table); !slices.Equal(before[i], after) {
				t.Errorf("%s changed after it was closed:\n%s\n%s", table.name, strings.Join(before[i], "\n"), strings.Join(after, "\n"))
			}
		}
		if written.Load() < 40 {
			t.Errorf("only %d writes before the closing", written.Load())
		}
	})
}

// A move must not begin if it would lose data. Replicas of an earlier version would write to the
// closed store, and replicas that already use the new store would mix its users with the old ones.
func TestMoveRefusesToBegin(t *testing.T) {
	from, to := newSQLite(t), newSQLite(t)
	old := started(t, from)
	execute(t, old, `INSERT INTO {meta} (name, value) SELECT 'replica old', CAST(CAST({now} AS TEXT) || ' 01020304' AS BLOB)`)
	move := Move{From: old, To: to(defaults).Filler(testKeys(t, 1))}
	if _, err := move.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "upgrade all replicas") {
		t.Errorf("a replica of an earlier version: %v", err)
	}
	execute(t, old, `DELETE FROM {meta} WHERE name = 'replica old'`)
	if err := old.Announce(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if err := move.To.Announce(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	if _, err := move.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "use the new store") {
		t.Errorf("a replica of the new store: %v", err)
	}
	if _, err := (Move{From: old, To: from(defaults).Filler(testKeys(t, 1))}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "same database") {
		t.Errorf("into itself: %v", err)
	}
	if m, err := old.MovedTo(t.Context()); err != nil || m != nil {
		t.Errorf("it is closed: %+v %v", m, err)
	}
	move.Force = true
	if _, err := move.Run(t.Context()); err != nil {
		t.Errorf("by force: %v", err)
	}
	another := Move{From: old, To: handles(t, "sqlite:"+filepath.Join(t.TempDir(), "other.db"))(defaults).Filler(testKeys(t, 1))}
	if _, err := another.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "--undo") {
		t.Errorf("to a second one: %v", err)
	}
}

// The new store cannot be read. The operator must not be sent to look for another move.
func TestMoveToAnUnreadableStore(t *testing.T) {
	old := started(t, newSQLite(t))
	next := newSQLite(t)(defaults).Filler(testKeys(t, 1))
	if err := next.Open(patient(t)); err != nil {
		t.Fatal(err)
	}
	execute(t, next, `DROP TABLE {meta}`)
	_, err := Move{From: old, To: next}.begin(t.Context())
	if err == nil || strings.Contains(err.Error(), "itself moved") || !strings.Contains(err.Error(), "moved_to") {
		t.Error(err)
	}
}

// There are many users, and one has more openids than a batch has rows. No row is lost between two
// batches.
func TestMoveReadsAllRowsOfAKey(t *testing.T) {
	from, to := newSQLite(t), newSQLite(t)
	old := started(t, from)
	for i := range moveBatch + 3 {
		execute(t, old, `INSERT INTO {bindings} (appid, openid, unionid, user_id, phone_at, bound_at) VALUES ('wx1', ?, '', 'many', 1, 1), ('wx1', ?, '', ?, 1, 1)`,
			fmt.Sprintf("m%d", i), fmt.Sprintf("o%d", i), fmt.Sprintf("user%d", i/2))
	}
	moved, err := Move{From: old, To: to(defaults).Filler(testKeys(t, 1))}.Run(t.Context())
	if err != nil || moved[1].Rows != 2*(moveBatch+3) {
		t.Errorf("%+v %v", moved, err)
	}
}

// A login has sent a phone code to WeChat, which charges for it, when the store is closed. The
// result reaches the new store, so the client can try again there with the same code.
func TestMoveWaitsForLoginsUnderWay(t *testing.T) {
	moves(t, func(t *testing.T, from, to database) {
		old := started(t, from)
		step := [32]byte{9}
		if _, err := old.Lease(t.Context(), "replica", now, time.Minute, step); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		next := to(defaults).Filler(testKeys(t, 9))
		go func() {
			_, err := Move{From: old, To: next}.Run(t.Context())
			done <- err
		}()
		for {
			m, err := old.MovedTo(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if m != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if err := old.Keep(t.Context(), step, []byte("paid for"), now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if value, ok, err := to(defaults).With(testKeys(t, 9)).Kept(t.Context(), step, now); err != nil || !ok || string(value) != "paid for" {
			t.Errorf("%q %v %v", value, ok, err)
		}
	})
}

// Somebody adds a table or a column to the schema. A move must copy it, and must know its type.
func TestMoveKnowsEachColumn(t *testing.T) {
	s := started(t, newSQLite(t))
	others := []string{"meta", "user_phones", "user_locks"} // these are copied in part, filled from the phone numbers, and created when needed
	for _, table := range tableNames {
		moved := slices.ContainsFunc(movedTables, func(m movedTable) bool { return m.name == table })
		if moved == slices.Contains(others, table) {
			t.Errorf("%s is in movedTables: %v", table, moved)
		}
		if !moved {
			continue
		}
		listed := columnsOf(table)
		err := s.sql.Read(t.Context(), "looking at a table", func(tx *sqldb.Tx) error {
			return tx.Each(func(r sqldb.Row) error {
				var name, kind string
				err := r.Scan(&name, &kind)
				if !slices.Contains(listed, name) {
					t.Errorf("%s.%s is not in columns", table, name)
				}
				if slices.Contains(numberColumns, name) != (kind == "INTEGER") || slices.Contains(byteColumns, name) != (kind == "BLOB") {
					t.Errorf("%s.%s is %s: add it to numberColumns or byteColumns", table, name, kind)
				}
				return err
			}, `SELECT name, type FROM pragma_table_info('wx_auth_`+table+`')`)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// server is a database server that the tests may use.
type server struct {
	variable string // of the environment, with its address
	address  string
	admin    *DB   // a handle for making and dropping what the tests need
	missing  error // why it cannot be used
}

// servers are those that the tests found, by the kind of database.
var servers = map[string]*server{
	"postgres": {variable: "WX_AUTH_TEST_POSTGRES", address: "postgres://root@127.0.0.1:5432/test"},
	"mysql":    {variable: "WX_AUTH_TEST_MYSQL", address: "mysql://root@127.0.0.1:3306/test"},
}

// requireServers makes a missing server a failure.
const requireServers = "WX_AUTH_TEST_REQUIRE_DATABASES"

func TestMain(m *testing.M) {
	for _, s := range servers {
		s.address = cmp.Or(os.Getenv(s.variable), s.address)
		s.admin, s.missing = New(s.address, Options{})
		if s.missing == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			s.missing = s.admin.opened(ctx, true, func(context.Context, *pools) error { return nil })
			cancel()
		}
	}
	code := m.Run()
	for _, s := range servers {
		if s.missing == nil {
			s.admin.Close()
		}
	}
	os.Exit(code)
}

// TestServersLeftOut says which databases the tests did not meet.
func TestServersLeftOut(t *testing.T) {
	for kind, s := range servers {
		switch {
		case s.missing == nil:
		case os.Getenv(requireServers) != "":
			t.Errorf("%s is missing (set %s to its address): %v", kind, s.variable, s.missing)
		default:
			t.Logf("LEFT OUT: all tests with %s, as %s does not answer (set %s to its address): %v", kind, s.admin, s.variable, s.missing)
		}
	}
}

// do asks the server directly.
func (s *server) do(t *testing.T, format string, args ...any) {
	t.Helper()
	if _, err := s.admin.pools.Load().write.Exec(fmt.Sprintf(format, args...)); err != nil {
		t.Fatal(err)
	}
}

// without ends the test if the server is missing; TestServersLeftOut names it.
func without(t *testing.T, kind string) bool { return servers[kind].missing != nil }

// newPostgres makes a schema of its own in the test database.
func newPostgres(t *testing.T) database {
	return handles(t, postgresSchema(t))
}

func postgresSchema(t *testing.T) (address string) {
	t.Helper()
	s, name := servers["postgres"], testName()
	s.do(t, "CREATE SCHEMA %s", name)
	t.Cleanup(func() { s.do(t, "DROP SCHEMA %s CASCADE", name) })
	return withParameter(s.address, "search_path", name)
}

// newMySQL makes a database of its own.
func newMySQL(t *testing.T) database {
	return handles(t, mysqlDatabase(t))
}

func mysqlDatabase(t *testing.T) (address string) {
	t.Helper()
	s, name := servers["mysql"], testName()
	// Another default than ours, as a database may have it.
	s.do(t, "CREATE DATABASE %s DEFAULT CHARACTER SET latin1", name)
	t.Cleanup(func() { s.do(t, "DROP DATABASE %s", name) })
	u, err := url.Parse(s.address)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func testName() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return "wx_auth_test_" + hex.EncodeToString(b[:])
}

func withParameter(address, name, value string) string {
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	return address + separator + name + "=" + url.QueryEscape(value)
}

// onServers runs a test over the database servers alone.
func onServers(t *testing.T, test func(t *testing.T, kind, address string)) {
	for kind, fresh := range map[string]func(*testing.T) string{"postgres": postgresSchema, "mysql": mysqlDatabase} {
		if !without(t, kind) {
			t.Run(kind, func(t *testing.T) {
				t.Parallel()
				test(t, kind, fresh(t))
			})
		}
	}
}

func TestTenReplicasOpenedTogetherMakeOneSchemaAndOneKeyCheck(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		const replicas = 10
		var stores []*Store
		for range replicas {
			stores = append(stores, open(defaults).With(testKeys(t, 1)))
		}
		start := make(chan struct{})
		var wg sync.WaitGroup
		for _, s := range stores {
			wg.Go(func() {
				<-start
				if err := s.Open(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		if n := count(t, stores[0], `SELECT COUNT(*) FROM {meta}`); n != 2 {
			t.Errorf("%d rows in meta; want the version and one key check", n)
		}
		for _, s := range stores {
			if err := s.Keep(t.Context(), [32]byte{1}, []byte("x"), now.Add(time.Hour)); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestOfTenReplicasWithTwoKeysThoseOfOneKeyOpen(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		var opened [2]atomic.Int32
		var wg sync.WaitGroup
		for i := range 10 {
			s := open(defaults).With(testKeys(t, byte(1+i%2)))
			wg.Go(func() {
				switch err := s.Open(context.Background()); {
				case err == nil:
					opened[i%2].Add(1)
				case !isPermanent(err, ErrKey):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if a, b := opened[0].Load(), opened[1].Load(); a+b != 5 || a*b != 0 {
			t.Errorf("%d opened with one key, %d with the other", a, b)
		}
	})
}

// sever ends all connections to a database but the tests' own, as a restart of
// the server does.
func sever(t *testing.T, kind, address string) (severed int) {
	t.Helper()
	s := servers[kind]
	pool := s.admin.pools.Load().write
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
		if err != nil && mysqlNumber(err) != 1094 { // gone already
			t.Fatal(err)
		}
		severed++
	}
	return severed
}

// severable is an address whose connections sever finds.
func severable(kind, address string) string {
	if kind == "mysql" {
		return address
	}
	_, path, _ := strings.Cut(address, "search_path=")
	return withParameter(address, "application_name", path)
}

func TestDroppedConnectionIsReplaced(t *testing.T) {
	onServers(t, func(t *testing.T, kind, address string) {
		s := started(t, handles(t, severable(kind, address)))
		opened, _ := settle(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Keep, now)
		for i := range 5 {
			// Several connections, all of them idle.
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() { s.Ping(context.Background()) })
			}
			wg.Wait()
			if n := sever(t, kind, address); n == 0 {
				t.Fatal("no connection was found to be severed")
			}
			if _, err := s.Session(t.Context(), opened.ID); err != nil {
				t.Errorf("reading: %v", err)
			}
			sever(t, kind, address)
			if ok, err := s.Advance(t.Context(), opened.ID, uint64(i), uint64(i+1), now, now); !ok || err != nil {
				t.Errorf("advancing: %v, %v", ok, err)
			}
			sever(t, kind, address)
			if err := s.Keep(t.Context(), [32]byte{byte(i)}, []byte("x"), now.Add(time.Hour)); err != nil {
				t.Errorf("keeping: %v", err)
			}
		}
	})
}

// While connections are cut every few milliseconds, what was answered is so, and
// what was not is an error that may pass.
func TestWritesUnderCutConnectionsAreDoneOrReported(t *testing.T) {
	onServers(t, func(t *testing.T, kind, address string) {
		open := handles(t, severable(kind, address))
		s := started(t, open)
		const sessions = 8
		var ids []string
		for i := range sessions {
			opened, _ := settle(t, s, user.Binding{AppID: "wx1", OpenID: fmt.Sprint("o", i), UserID: fmt.Sprint("u", i)}, user.Keep, now)
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
					ok, err := s.Advance(context.Background(), id, counter, counter+1, now, now)
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

func TestDeadlockIsRunAgain(t *testing.T) {
	onServers(t, func(t *testing.T, kind, address string) {
		open := handles(t, address)
		a, b := started(t, open), started(t, open)
		execute(t, a, `INSERT INTO {user_locks} (stripe) VALUES (1001), (1002)`)
		both := func(s *Store, first, second int, met *sync.WaitGroup) (runs int, err error) {
			err = s.write(t.Context(), "testing", func(tx *tx) error {
				runs++
				var n int
				if err := tx.row(`SELECT stripe FROM {user_locks} WHERE stripe = ? {lock}`, first).Scan(&n); err != nil {
					return err
				}
				if runs == 1 {
					met.Done()
					met.Wait()
				}
				return tx.row(`SELECT stripe FROM {user_locks} WHERE stripe = ? {lock}`, second).Scan(&n)
			})
			return runs, err
		}
		var met, done sync.WaitGroup
		met.Add(2)
		var runs atomic.Int32
		for s, order := range map[*Store][2]int{a: {1001, 1002}, b: {1002, 1001}} {
			done.Go(func() {
				n, err := both(s, order[0], order[1], &met)
				if err != nil {
					t.Error(err)
				}
				runs.Add(int32(n))
			})
		}
		done.Wait()
		if runs.Load() != 3 {
			t.Errorf("two transactions ran %d times", runs.Load())
		}
	})
}

func TestTwoLoginsOfOneUserAtOnceLeaveOneOpenID(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		for round := range 10 {
			who := fmt.Sprint("u", round)
			var wg sync.WaitGroup
			for i, s := range []*Store{a, b, a, b} {
				wg.Go(func() {
					openid := fmt.Sprint("o", i, "-", round)
					opened := newSession(who, "wx1", openid, now)
					if _, err := s.Settle(t.Context(), settlement(user.Binding{AppID: "wx1", OpenID: openid, UserID: who}, user.Replace, opened)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := count(t, a, `SELECT COUNT(*) FROM {bindings} WHERE user_id = ?`, who); n != 1 {
				t.Errorf("%d openids bound", n)
			}
			if n := count(t, a, `SELECT COUNT(*) FROM {sessions} WHERE user_id = ? AND ended_at = 0`, who); n != 1 {
				t.Errorf("%d sessions live", n)
			}
		}
	})
}

func TestWhatTheOperatorMustMendIsToldForGoodAndWithoutThePassword(t *testing.T) {
	const password = "hunter2 $&%/x"
	onServers(t, func(t *testing.T, kind, address string) {
		s, role := servers[kind], testName()
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if kind == "mysql" {
			s.do(t, "CREATE USER '%s'@'%%' IDENTIFIED BY 'right'", role)
			t.Cleanup(func() { s.do(t, "DROP USER '%s'@'%%'", role) })
			s.do(t, "CREATE USER '%s'@'localhost' IDENTIFIED BY 'right'", role)
			t.Cleanup(func() { s.do(t, "DROP USER '%s'@'localhost'", role) })
		} else {
			s.do(t, "CREATE ROLE %s LOGIN PASSWORD 'right'", role)
			t.Cleanup(func() { s.do(t, "DROP ROLE %s", role) })
			s.do(t, "GRANT USAGE ON SCHEMA %s TO %s", u.Query().Get("search_path"), role)
			t.Cleanup(func() { s.do(t, "DROP OWNED BY %s", role) })
		}
		cases := map[string]struct {
			change func(u *url.URL)
			want   string
		}{
			"no such database": {func(u *url.URL) { u.Path = "/none_such" }, "none_such"},
			"no permission":    {func(u *url.URL) { u.User = url.UserPassword(role, "right") }, "denied"},
		}
		if kind == "mysql" {
			cases["wrong password"] = struct {
				change func(u *url.URL)
				want   string
			}{func(u *url.URL) { u.User = url.UserPassword(role, password) }, "denied"}
		}
		for name, c := range cases {
			changed := *u
			c.change(&changed)
			db, err := New(changed.String(), defaults)
			if err != nil {
				t.Fatal(name, err)
			}
			defer db.Close()
			err = db.With(testKeys(t, 1)).Open(t.Context())
			if err == nil || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(fmt.Sprintf("%+v %s", err, db), "hunter2") {
				t.Errorf("%s tells the password: %v", name, err)
			}
		}
	})
}

// The tests' own PostgreSQL asks for no password; this one does, and does not
// like it.
func TestPostgresWrongPasswordIsToldForGoodAndWithoutIt(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var shown atomic.Value
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			server := pgproto3.NewBackend(conn, conn)
			if _, err := server.ReceiveStartupMessage(); err == nil {
				server.Send(&pgproto3.AuthenticationCleartextPassword{})
				server.Flush()
				server.SetAuthType(pgproto3.AuthTypeCleartextPassword)
				if m, err := server.Receive(); err == nil {
					p := m.(*pgproto3.PasswordMessage).Password
					shown.Store(p)
					// A server that repeats what it was shown.
					server.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "password authentication failed for user \"wx\" with " + p})
					server.Flush()
				}
			}
			conn.Close()
		}
	}()
	db, err := New("postgres://wx:hunter2%20%24%2Fx@"+listener.Addr().String()+"/wx?sslmode=disable", defaults)
	if err != nil {
		t.Fatal(err)
	}
	err = db.With(testKeys(t, 1)).Open(t.Context())
	if err == nil || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "password authentication failed") {
		t.Error(err)
	}
	if shown.Load() != "hunter2 $/x" {
		t.Errorf("the server was shown %q", shown.Load())
	}
	if text := fmt.Sprintf("%v %+v %s", err, err, db); strings.Contains(text, "hunter2") {
		t.Errorf("the password is told: %s", text)
	}
}

// As a server without TLS answers while it starts, and when TLS is required.
func TestPostgresThatRefusesTLSIsToldForGoodOnlyIfThatIsAll(t *testing.T) {
	refused := errors.New("tls error: server refused TLS connection")
	if !postgresRefused(refused) {
		t.Error("TLS is required and refused")
	}
	for _, second := range []error{io.ErrUnexpectedEOF, &net.OpError{Op: "read", Err: syscall.ECONNRESET}, &pgconn.PgError{Code: "57P03"}} {
		if err := errors.Join(refused, second); postgresRefused(err) || !postgresTemporary(err) {
			t.Errorf("%v is taken for good", err)
		}
	}
}

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

func TestServersNeedAnEncryptionKey(t *testing.T) {
	onServers(t, func(t *testing.T, _, address string) {
		s := handles(t, address)(defaults).With(nil)
		if err := s.Open(t.Context()); err == nil || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "encryption_key") {
			t.Error(err)
		}
		var n int
		if err := s.db.pools.Load().read.QueryRow(s.db.sql(s.db.dialect.hasTable), "wx_auth_meta").Scan(&n); err != nil || n != 0 {
			t.Error("tables were made", n, err)
		}
	})
}

func TestPoolsAreBounded(t *testing.T) {
	onServers(t, func(t *testing.T, _, address string) {
		s := started(t, handles(t, address))
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if err := s.Ping(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if stats := s.db.pools.Load().write.Stats(); stats.MaxOpenConnections != maxConnections || stats.OpenConnections > maxConnections {
			t.Errorf("%+v", stats)
		}
	})
}

// What is large in production is found by an index. The tables are small here, so
// the planner is told to avoid a scan where it can.
func TestServersReadLargeTablesByIndex(t *testing.T) {
	queries := []string{
		`SELECT ` + sessionColumns + ` FROM {sessions} WHERE id = 'x'`,
		`SELECT id FROM {sessions} WHERE ended_at = 0 AND user_id = 'x' {lock}`,
		`UPDATE {sessions} SET counter = 1 WHERE id = 'x' AND counter = 0 AND ended_at = 0`,
		`SELECT seq, session_id, until_at FROM {revocations} WHERE seq > 1990 UNION ALL SELECT seq, session_id, until_at FROM {revocations} WHERE recorded_at >= {now} - 1000`,
		`SELECT ` + bindingColumns + ` FROM {bindings} WHERE appid = 'wx1' AND openid = 'x'`,
		`SELECT ` + bindingColumns + ` FROM {bindings} WHERE unionid = 'x' ORDER BY phone_at DESC, bound_at DESC, appid LIMIT 1`,
		`SELECT ` + bindingColumns + ` FROM {bindings} WHERE user_id = 'x' AND appid = 'wx1'`,
		`SELECT user_id FROM {user_phones} WHERE user_id = 'x'`,
		`SELECT id FROM {sessions} WHERE expires_at < 5 ORDER BY expires_at LIMIT 3`,
	}
	onServers(t, func(t *testing.T, kind, address string) {
		s := started(t, handles(t, address))
		// Numbers from 1 to 2000, from joining digits.
		digits := `(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)`
		numbers := `(SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d AS n FROM ` + digits + ` a, ` + digits + ` b, ` + digits + ` c, (SELECT 0 AS d UNION ALL SELECT 1) e) AS numbers`
		text := `CAST(n AS CHAR(9))`
		execute(t, s, `INSERT INTO {sessions} (`+sessionColumns+`) SELECT `+text+`, `+text+`, 'i', 'wx1', `+text+`, '', n, n, 0, n, n, 0, '', '' FROM `+numbers)
		execute(t, s, `INSERT INTO {bindings} (appid, openid, unionid, user_id, phone_at, bound_at) SELECT 'wx1', `+text+`, `+text+`, `+text+`, n, n FROM `+numbers)
		execute(t, s, `INSERT INTO {revocations} (session_id, until_at, recorded_at) SELECT `+text+`, n, n FROM `+numbers)
		for _, table := range []string{"{sessions}", "{bindings}", "{revocations}"} {
			if kind == "mysql" {
				table = "TABLE " + table
			}
			if err := s.read(t.Context(), "analyzing", func(t *tx) error { return t.each(func(*sql.Rows) error { return nil }, `ANALYZE `+table) }); err != nil {
				t.Fatal(err)
			}
		}
		for _, query := range queries {
			plan := explain(t, s, query)
			if strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "type=ALL") || strings.Contains(plan, "type=index ") {
				t.Errorf("%s\nreads a whole table:\n%s", query, plan)
			}
		}
	})
}

func explain(t *testing.T, s *Store, query string) string {
	t.Helper()
	var b strings.Builder
	err := s.write(t.Context(), "explaining", func(t *tx) error {
		b.Reset()
		if s.db.dialect == postgres {
			if _, err := t.exec(`SET LOCAL enable_seqscan = off`); err != nil {
				return err
			}
		}
		return t.each(func(r *sql.Rows) error {
			names, err := r.Columns()
			if err != nil {
				return err
			}
			values := make([]sql.NullString, len(names))
			into := make([]any, len(names))
			for i := range values {
				into[i] = &values[i]
			}
			err = r.Scan(into...)
			for i, name := range names {
				fmt.Fprintf(&b, "%s=%s ", name, values[i].String)
			}
			b.WriteString("\n")
			return err
		}, `EXPLAIN `+query)
	})
	if err != nil {
		t.Fatal(query, err)
	}
	return b.String()
}

// A statement that waits for a lock ends with its deadline, and leaves the
// database usable.
func TestQueriesEndAtTheirDeadline(t *testing.T) {
	onServers(t, func(t *testing.T, _, address string) {
		open := handles(t, address)
		s := started(t, open)
		opened, _ := settle(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Keep, now)
		holder := started(t, open).db
		lock, err := holder.pools.Load().write.Begin()
		if err != nil {
			t.Fatal(err)
		}
		var id string
		if err := lock.QueryRow(holder.sql(`SELECT id FROM {sessions} WHERE ended_at = 0 {lock}`)).Scan(&id); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		begun := time.Now()
		if ok, err := s.Advance(ctx, opened.ID, 0, 1, now, now); ok || !errors.Is(err, ErrUnavailable) || time.Since(begun) > 2*time.Second {
			t.Errorf("%v, %v after %v", ok, err, time.Since(begun))
		}
		lock.Rollback()
		if ok, err := s.Advance(t.Context(), opened.ID, 0, 1, now, now); !ok || err != nil {
			t.Errorf("afterwards: %v, %v", ok, err)
		}
	})
}

// MySQL commits each change of a table at once. A migration that was broken off
// anywhere is taken up.
func TestMigrationBrokenOffIsTakenUp(t *testing.T) {
	if without(t, "mysql") {
		return
	}
	total := 0
	for _, statements := range migrations {
		total += len(statements)
	}
	for _, broken := range []int{0, 1, 2, 4, 7, total} {
		open := newMySQL(t)
		db := open(defaults)
		if err := db.opened(t.Context(), true, func(ctx context.Context, p *pools) error {
			asking := &tx{ctx: ctx, db: db, q: p.write}
			for i, statement := range flat(migrations)[:broken] {
				if _, err := asking.exec(statement); err != nil {
					return fmt.Errorf("statement %d: %w", i, err)
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		s := db.With(testKeys(t, 1))
		if err := s.Open(t.Context()); err != nil {
			t.Errorf("broken off after %d statements: %v", broken, err)
		}
		settle(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Keep, now)
	}
	// A table that is there but is not ours is not taken for it.
	db := newMySQL(t)(defaults)
	if err := db.opened(t.Context(), true, func(ctx context.Context, p *pools) error {
		_, err := p.write.ExecContext(ctx, db.sql("CREATE TABLE {sessions} (x INT)"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.With(testKeys(t, 1)).Open(t.Context()); err == nil || errors.Is(err, ErrUnavailable) {
		t.Errorf("another table of that name: %v", err)
	}
}

func flat(lists [][]string) (all []string) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

func TestMySQLTablesAreUTF8AndInnoDB(t *testing.T) {
	if without(t, "mysql") {
		return
	}
	s := started(t, newMySQL(t))
	if n := count(t, s, `SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE() AND collation_name IS NOT NULL AND collation_name <> 'utf8mb4_bin'`); n != 0 {
		t.Errorf("%d columns of another collation", n)
	}
	if n := count(t, s, `SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND engine = 'InnoDB'`); n != len(tableNames) {
		t.Errorf("%d tables of InnoDB", n)
	}
	var level string
	if err := s.db.pools.Load().write.QueryRow(`SELECT @@sql_mode`).Scan(&level); err != nil || !strings.Contains(level, "STRICT_ALL_TABLES") {
		t.Error(level, err)
	}
	long := newSession(strings.Repeat("u", 200), "wx1", "o1", now)
	if _, err := s.Settle(t.Context(), settlement(user.Binding{AppID: "wx1", OpenID: "o1", UserID: long.UserID}, user.Keep, long)); err == nil {
		t.Error("a value that does not fit was cut")
	}
}

func TestMySQLStatementsArePreparedOnce(t *testing.T) {
	if without(t, "mysql") {
		return
	}
	s := started(t, newMySQL(t))
	pool := s.db.pools.Load().write
	pool.SetMaxOpenConns(1)
	prepared := func() (n int) {
		var name string
		if err := pool.QueryRow(`SHOW SESSION STATUS LIKE 'Com_stmt_prepare'`).Scan(&name, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := prepared()
	for range 20 {
		if _, err := s.Session(t.Context(), "x"); err == nil {
			t.Fatal("found")
		}
	}
	if n := prepared() - before; n != 1 {
		t.Errorf("prepared %d times", n)
	}
	// A statement that the server has forgotten is no error.
	conn, err := pool.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Raw(func(c any) error {
		for _, stmt := range c.(*mysqlConn).prepared {
			stmt.Close()
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestTransactionsReadWhatIsCommitted(t *testing.T) {
	onServers(t, func(t *testing.T, kind, address string) {
		s := started(t, handles(t, address))
		other := started(t, handles(t, address))
		err := s.write(t.Context(), "testing", func(tx *tx) error {
			var before, after int
			if err := tx.row(`SELECT COUNT(*) FROM {kept_steps}`).Scan(&before); err != nil {
				return err
			}
			if err := other.Keep(context.Background(), [32]byte{1}, nil, now); err != nil {
				return err
			}
			if err := tx.row(`SELECT COUNT(*) FROM {kept_steps}`).Scan(&after); err != nil {
				return err
			}
			if after != before+1 {
				t.Errorf("%s reads a snapshot", kind)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// The feed's clock is the database's, in UTC, whatever the session's time zone.
func TestDatabaseClockIsUTC(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		var ms int64
		ask := func(t *tx) error { return t.row(`SELECT {now}`).Scan(&ms) }
		if err := s.read(t.Context(), "asking the clock", ask); err != nil {
			t.Fatal(err)
		}
		if off := time.Since(time.UnixMilli(ms)).Abs(); off > 5*time.Second {
			t.Errorf("off by %v", off)
		}
	})
}

func TestPostgresModeSuitsThePooler(t *testing.T) {
	if without(t, "postgres") {
		return
	}
	address := postgresSchema(t)
	for _, mode := range []string{"", "exec", "cache_describe", "describe_exec"} {
		if mode != "" {
			address = withParameter(strings.SplitN(address, "&default", 2)[0], "default_query_exec_mode", mode)
		}
		s := started(t, handles(t, address))
		opened, _ := settle(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Keep, now)
		if got, err := s.Session(t.Context(), opened.ID); err != nil || got != opened {
			t.Errorf("%s: %v", mode, err)
		}
		if _, err := s.End(t.Context(), opened.ID, now, now); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		if _, err := s.Revocations(t.Context(), 0, time.Minute); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		if _, err := s.Purge(t.Context(), now, 10); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		s.db.Close()
	}
}

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// isPermanent reports whether err is of this kind and is not temporary.
func isPermanent(err, kind error) bool {
	return errors.Is(err, kind) && !errors.Is(err, ErrUnavailable)
}

// dump returns the content of a database, table by table.
func dump(t *testing.T, s *Store) string {
	t.Helper()
	var b strings.Builder
	for _, name := range tableNames {
		fmt.Fprintf(&b, "%s: %d\n", name, count(t, s, `SELECT COUNT(*) FROM {`+name+`}`))
	}
	// The catalogue is limited to this test's own database, since other tests use the same server.
	catalogue := map[string]string{
		"sqlite":   `sqlite_schema`,
		"postgres": `information_schema.columns WHERE table_schema = current_schema()`,
		"mysql":    `information_schema.columns WHERE table_schema = DATABASE()`,
	}[s.db.sql.Dialect.Name]
	fmt.Fprintln(&b, count(t, s, `SELECT COUNT(*) FROM `+catalogue))
	var check []byte
	if err := s.sql.Read(t.Context(), "dumping", func(t *sqldb.Tx) error {
		return t.Row(`SELECT value FROM {meta} WHERE name = ?`, keyCheckName).Scan(&check)
	}); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "%x", check)
	return b.String()
}

func openAt(t *testing.T, path string, keys *Keys) *Store {
	t.Helper()
	db, err := New("sqlite:"+path, defaults)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db.With(keys)
}

// `caddy validate` beside a running instance creates no file.
func TestConstructorsTouchNoFile(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, filepath.Join(dir, "sub", "wx.db"), nil)
	s.Users(true, settings)
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("%v was created", files)
	}
}

// Another user of the machine could read personal data, or the key, in any of the files.
func TestOnlyTheOwnerReadsTheFiles(t *testing.T) {
	for _, name := range []string{"wx.db", "a b#c%20d.db", "数据.db"} {
		dir := filepath.Join(t.TempDir(), "data", "wx")
		path := filepath.Join(dir, name)
		if strings.ContainsAny(name, "#") {
			if _, err := New("sqlite:"+path, defaults); err == nil {
				t.Error("a path that looks like parameters was accepted")
			}
			path = strings.ReplaceAll(path, "#", "")
		}
		s := openAt(t, path, nil)
		if err := s.Keep(t.Context(), [32]byte{1}, []byte("x"), now); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{path, path + "-wal", path + "-shm", path + ".key"} {
			info, err := os.Stat(file)
			if err != nil {
				t.Error(err)
			} else if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %o", file, info.Mode().Perm())
			}
		}
		for _, d := range []string{dir, filepath.Dir(dir)} {
			if info, _ := os.Stat(d); info.Mode().Perm() != 0o700 {
				t.Errorf("%s has mode %o", d, info.Mode().Perm())
			}
		}
		if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 4 {
			t.Errorf("files left over: %v", files)
		}
		if err := s.db.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path + "-wal"); err == nil {
			t.Error("the log stays behind after closing")
		}
	}
}

// Five processes that create one database at once agree on one key.
func TestKeyIsGeneratedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wx.db")
	const processes = 5
	macs := make(chan string, processes)
	for range processes {
		s := openAt(t, path, nil)
		go func() {
			k, err := s.Secrets(t.Context())
			if err != nil {
				t.Error(err)
				macs <- ""
				return
			}
			macs <- string(k.RefreshMAC()[0])
		}()
	}
	first := <-macs
	for range processes - 1 {
		if again := <-macs; again != first {
			t.Fatal("two processes use two keys")
		}
	}
	text, err := os.ReadFile(path + ".key")
	if err != nil {
		t.Fatal(err)
	}
	// The file's content is an encryption_key, so the operator can move it there.
	keys, err := ParseKeys(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := openAt(t, path, keys).Open(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A restored backup lacks its key file. With a newly generated key none of the data could be read,
// and the mistake would stay hidden.
func TestMissingKeyFileIsNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wx.db")
	s := openAt(t, path, nil)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.db.Close()
	saved, err := os.ReadFile(path + ".key")
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path + ".key")

	err = openAt(t, path, nil).Open(t.Context())
	if !isPermanent(err, ErrKey) || !strings.Contains(err.Error(), path+".key is missing") {
		t.Fatalf("missing key file: %v", err)
	}
	if _, err := os.Stat(path + ".key"); err == nil {
		t.Fatal("a new key was generated")
	}

	for content, want := range map[string]error{testKey(9): ErrKey, "": nil, "not a key": nil} {
		if err := os.WriteFile(path+".key", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := openAt(t, path, nil).Open(t.Context())
		if err == nil || errors.Is(err, ErrUnavailable) || want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), path+".key") {
			t.Errorf("key file %q: %v", content, err)
		}
		if kept, _ := os.ReadFile(path + ".key"); string(kept) != content {
			t.Errorf("the key file was changed to %q", kept)
		}
	}

	if err := os.WriteFile(path+".key", saved, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openAt(t, path, nil).Open(t.Context()); err != nil {
		t.Errorf("the key file was restored: %v", err)
	}
}

// A key file without its database shows that the database was lost. This holds even with a
// configured encryption_key, since the key file may belong to a former key.
func TestKeyFileWithoutDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wx.db")
	if err := os.WriteFile(path+".key", []byte(testKey(7)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, keys := range []*Keys{nil, testKeys(t, 7)} {
		if err := openAt(t, path, keys).Open(t.Context()); !isPermanent(err, ErrLost) || !strings.Contains(err.Error(), "remove "+path+".key too") {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a database was created")
	}
	os.Remove(path + ".key")
	if err := openAt(t, path, nil).Open(t.Context()); err != nil {
		t.Error(err)
	}
}

// A site with its own table_prefix joins a file that is already in use. The key file beside it does
// not mean that a database was lost.
func TestSecondPrefixInOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wx.db")
	if err := openAt(t, path, nil).Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	opts := defaults
	opts.Prefix = "crew_"
	for range 2 {
		db, err := New("sqlite:"+path, opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.With(nil).Open(t.Context()); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The process is killed before SQLite has ever moved its log into the file. Nearly all data is in
// the log then, but the file is not empty, and nothing is lost.
func TestKilledBeforeTheFirstCheckpoint(t *testing.T) {
	for _, keys := range []*Keys{nil, testKeys(t, 7)} {
		path, left := filepath.Join(t.TempDir(), "wx.db"), filepath.Join(t.TempDir(), "wx.db")
		s := openAt(t, path, keys)
		if err := s.Keep(t.Context(), [32]byte{1}, []byte("x"), now); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(path + "*")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if file == path && len(content) == 0 {
				t.Error("the file is empty beside its log")
			}
			if err := os.WriteFile(left+strings.TrimPrefix(file, path), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if value, ok, err := openAt(t, left, keys).Kept(t.Context(), [32]byte{1}, now.Add(-time.Second)); err != nil || !ok || string(value) != "x" {
			t.Errorf("got %q, %v, %v", value, ok, err)
		}
	}
}

// A restore has put an empty file beside an intact log. SQLite would delete the log, which is the
// only copy of the users. So the file is not opened, with any key.
func TestEmptyFileKeepsItsLog(t *testing.T) {
	for _, keys := range []*Keys{nil, testKeys(t, 7)} {
		path := filepath.Join(t.TempDir(), "wx.db")
		s := openAt(t, path, keys)
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		log, err := os.ReadFile(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		s.db.Close()
		if err := errors.Join(os.Truncate(path, 0), os.WriteFile(path+"-wal", log, 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := openAt(t, path, keys).Open(t.Context()); !isPermanent(err, ErrLost) {
			t.Error(err)
		}
		if kept, _ := os.ReadFile(path + "-wal"); len(kept) != len(log) {
			t.Errorf("%d of the log's %d bytes are left", len(kept), len(log))
		}
	}
}

// The process was killed after it had created the tables and the key, and before it had recorded
// the key in the database. Nothing was lost.
func TestKeyThatWasNotRecordedYetIsUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wx.db")
	s := openAt(t, path, nil)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.sql.Write(t.Context(), "testing", func(t *sqldb.Tx) error {
		_, err := t.Exec(`DELETE FROM {meta} WHERE name = ?`, keyCheckName)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s.db.Close()
	if err := openAt(t, path, nil).Open(t.Context()); err != nil {
		t.Error(err)
	}
}

// A path at which no database can exist makes the configuration fail. The store does not try again.
func TestUnusablePathIsPermanent(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	readOnly := filepath.Join(dir, "readonly")
	if err := os.Mkdir(readOnly, 0o500); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		// The tests may run as root, who may write anywhere but below /proc.
		readOnly = "/proc/self"
	}
	for path, want := range map[string]string{
		dir:                             "is a directory",
		filepath.Join(file, "x.db"):     "not a directory",
		file:                            "not a database",
		filepath.Join(readOnly, "x.db"): filepath.Join(readOnly, "x.db"),
	} {
		err := openAt(t, path, nil).Open(t.Context())
		if err == nil || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want %q", path, err, want)
		}
	}
	if left, _ := os.ReadFile(file); !strings.HasPrefix(string(left), "no database no") {
		t.Error("a file that is no database was overwritten")
	}
}

// Another program locks the file for a while. Requests get a temporary error.
func TestLockedDatabaseRecovers(t *testing.T) {
	open := newSQLite(t)
	s := started(t, open)
	other := started(t, open)
	lock, err := other.db.sql.Pools().Write.Begin()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Open(ctx); err != nil {
		t.Errorf("an open store needs no lock: %v", err)
	}
	if err := open(defaults).With(testKeys(t, 1)).Open(ctx); !errors.Is(err, ErrUnavailable) {
		t.Errorf("opening a locked database: %v", err)
	}
	if _, _, err := s.Binding(t.Context(), "a", "b"); err != nil {
		t.Errorf("reading while another program writes: %v", err)
	}
	done := make(chan error)
	go func() { done <- s.Keep(t.Context(), [32]byte{1}, nil, now) }()
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the lock is gone: %v", err)
	}
}

// SQLite chooses a plan by the existing indexes, not by the number of rows. So the statements of
// logins, refreshes and logouts can be checked without a large table.
func TestLargeTablesAreReadByIndex(t *testing.T) {
	s := started(t, newSQLite(t))
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	people := s.Users(true, settings)
	found, err := people.Login(ctx, user.Login{AppID: "wx1", OpenID: "o1", Phone: phone(t, "13800138000")})
	must(err)
	_, err = people.Login(ctx, user.Login{AppID: "wx1", OpenID: "o1", Phone: phone(t, "13800138000")})
	must(err)
	b := user.Binding{AppID: "wx1", OpenID: "o1", UnionID: "n1", UserID: found.ID}
	first, _ := logIn(t, s, b, user.Replace, now)
	b.OpenID = "o2"
	opened, _ := logIn(t, s, b, user.Replace, now)
	_, _, err = s.Binding(ctx, "wx1", "o2")
	must(err)
	_, err = s.Known(ctx, login.Account{AppID: "wx3", OpenID: "o3", UnionID: "n1"})
	must(err)
	silent := loginCommit(user.Binding{AppID: "wx3", OpenID: "o3", UnionID: "n1", UserID: found.ID}, user.Replace, newSession(found.ID, "wx3", "o3", now))
	silent.Phone = user.Phone{}
	_, err = commit(t, s, silent)
	must(err)
	b.UserID = "another"
	logIn(t, s, b, user.Replace, now)
	_, err = s.Session(ctx, opened.ID)
	must(err)
	_, err = s.Advance(ctx, opened.ID, advance(opened.Counter, opened.Counter+1, now, now.Add(time.Hour)))
	must(err)
	_, err = s.UserSessions(ctx, found.ID, now)
	must(err)
	_, err = s.End(ctx, first.ID, ending(now, now))
	must(err)
	_, err = endUser(ctx, s, found.ID, ending(now, now))
	must(err)
	_, err = s.Revocations(ctx, 1, time.Minute)
	must(err)
	must(s.Keep(ctx, [32]byte{1}, []byte("x"), now.Add(time.Hour)))
	_, _, err = s.Kept(ctx, [32]byte{1}, now)
	must(err)
	_, err = s.Purge(ctx, 100)
	must(err)
	must(s.SetDisabled(ctx, found.ID, true))
	must(people.Erase(ctx, found.ID))

	migration := make(map[string]bool) // the statements of migrations, which may take long
	for _, statement := range flat(migrations) {
		migration[strings.TrimSpace(s.db.sql.SQL(statement))] = true
	}
	large := regexp.MustCompile(`SCAN wx_auth_(users|user_phones|bindings|sessions|revocations|kept_steps|claimed_steps)\b`)
	explained := 0
	s.db.sql.Rewritten(func(_, statement string) {
		query := strings.TrimSpace(statement)
		if verb, _, _ := strings.Cut(query, " "); verb != "SELECT" && verb != "INSERT" && verb != "UPDATE" && verb != "DELETE" {
			return // part of a migration
		}
		if strings.Contains(query, "WHERE 1 = 0") {
			return // a check of the columns
		}
		args := make([]any, strings.Count(query, "?"))
		rows, err := s.db.sql.Pools().Read.Query("EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatal(query, err)
		}
		defer rows.Close()
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			if large.MatchString(detail) && !migration[query] {
				t.Errorf("%s\nreads a whole table: %s", query, detail)
			}
		}
		explained++
	})
	if explained < 20 {
		t.Errorf("%d statements were seen", explained)
	}
}

// The request that opens the store runs out of its own time. That is no failure of the store, and
// the next request opens it.
func TestOneLateOpenIsForgotten(t *testing.T) {
	clock := now
	db, err := New("sqlite:"+filepath.Join(t.TempDir(), "wx.db"), Options{Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s := db.With(nil)
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := s.Session(late, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("late: %v", err)
	}
	if _, err := s.Session(t.Context(), "x"); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("then: %v", err)
	}
}

// While the database cannot be opened, a thousand requests must not each try to open it.
func TestFailedOpenIsRemembered(t *testing.T) {
	dir := t.TempDir()
	clock := now
	db, err := New("sqlite:"+dir, Options{Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	s := db.With(nil)
	_, first := s.Session(t.Context(), "x")
	_, second := s.Session(t.Context(), "x")
	if first == nil || first != second {
		t.Errorf("opened twice within a moment: %v, %v", first, second)
	}
	clock = clock.Add(openPause)
	if _, third := s.Users(true, settings).Check(t.Context(), "x"); third == nil || third == first || errors.Is(third, user.ErrUnknown) {
		t.Errorf("not tried again: %v", third)
	}
}

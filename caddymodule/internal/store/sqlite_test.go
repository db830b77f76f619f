package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// isPermanent reports whether err is of the kind and will not pass by itself.
func isPermanent(err, kind error) bool {
	return errors.Is(err, kind) && !errors.Is(err, ErrUnavailable)
}

// dump is what a database says, table by table.
func dump(t *testing.T, s *Store) string {
	t.Helper()
	var b strings.Builder
	for _, name := range tableNames {
		fmt.Fprintf(&b, "%s: %d\n", name, count(t, s, `SELECT COUNT(*) FROM {`+name+`}`))
	}
	catalogue := `information_schema.columns WHERE table_schema NOT IN ('information_schema', 'pg_catalog', 'mysql', 'sys', 'performance_schema')`
	if s.db.dialect == sqlite {
		catalogue = `sqlite_schema`
	}
	fmt.Fprintln(&b, count(t, s, `SELECT COUNT(*) FROM `+catalogue))
	var check []byte
	if err := s.read(t.Context(), "dumping", func(t *tx) error {
		return t.row(`SELECT value FROM {meta} WHERE name = ?`, keyCheckName).Scan(&check)
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

func TestConstructorsTouchNoFile(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, filepath.Join(dir, "sub", "wx.db"), nil)
	s.Users(true, settings)
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("made %v", files)
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	for _, name := range []string{"wx.db", "a b#c%20d.db", "数据.db"} {
		dir := filepath.Join(t.TempDir(), "data", "wx")
		path := filepath.Join(dir, name)
		if strings.ContainsAny(name, "#") {
			if _, err := New("sqlite:"+path, defaults); err == nil {
				t.Error("a path that looks like parameters was taken")
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

func TestWriterIsDurableAndReadersDoNotWrite(t *testing.T) {
	s := started(t, newSQLite(t))
	p := s.db.pools.Load()
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "busy_timeout": fmt.Sprint(busyTimeout.Milliseconds())} {
		var got string
		if err := p.write.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", pragma, got, err, want)
		}
	}
	if _, err := p.read.Exec(s.db.sql(`DELETE FROM {meta}`)); err == nil {
		t.Error("a reader wrote")
	}
}

func TestGeneratedKeyIsMadeOnceAndFoundAgain(t *testing.T) {
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

func TestMissingKeyFileIsToldAndNothingIsMade(t *testing.T) {
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
		t.Fatal("a new key was made")
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

// A key file whose database was lost, or was not made because the process was
// killed, is the new database's key.
func TestKeyFileWithoutDatabaseIsUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wx.db")
	if err := os.WriteFile(path+".key", []byte(testKey(7)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openAt(t, path, nil).Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := openAt(t, path, testKeys(t, 7)).Open(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPlacesThatCannotHoldAFileAreToldForGood(t *testing.T) {
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
		// Root may write anywhere, but not into the kernel's tables.
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

func TestLockedDatabaseIsUnavailableAndRecovers(t *testing.T) {
	open := newSQLite(t)
	s := started(t, open)
	other := started(t, open)
	lock, err := other.db.pools.Load().write.Begin()
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
		t.Errorf("reading beside a writer: %v", err)
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

func TestLargeTablesAreReadByIndex(t *testing.T) {
	s := started(t, newSQLite(t))
	for _, query := range []string{
		`SELECT ` + sessionColumns + ` FROM {sessions} WHERE id = 'x'`,
		`SELECT id FROM {sessions} WHERE ended_at = 0 AND user_id = 'x'`,
		`SELECT id FROM {sessions} WHERE ended_at = 0 AND user_id = 'x' AND appid = 'x' AND openid = 'x'`,
		`SELECT id FROM {sessions} WHERE expires_at < 1 ORDER BY expires_at LIMIT 1`,
		`SELECT seq FROM {revocations} WHERE seq > 1 UNION ALL SELECT seq FROM {revocations} WHERE recorded_at >= {now} - 1`,
		`SELECT u.id FROM {user_phones} p JOIN {users} u ON u.id = p.user_id WHERE p.phone_hash = x'00'`,
		`SELECT ` + bindingColumns + ` FROM {bindings} WHERE appid = 'x' AND openid = 'x'`,
		`SELECT ` + bindingColumns + ` FROM {bindings} WHERE unionid = 'x' ORDER BY phone_at DESC, bound_at DESC, appid LIMIT 1`,
		`SELECT ` + bindingColumns + ` FROM {bindings} WHERE user_id = 'x' AND appid = 'x'`,
		`DELETE FROM {user_phones} WHERE user_id = 'x'`,
		`SELECT value FROM {kept_steps} WHERE step = x'00' AND expires_at > 1`,
	} {
		rows, err := s.db.pools.Load().read.Query("EXPLAIN QUERY PLAN " + s.db.sql(query))
		if err != nil {
			t.Fatal(query, err)
		}
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(detail, "SCAN") && !strings.Contains(detail, "USING") {
				t.Errorf("%s\nreads a whole table: %s", query, detail)
			}
		}
		rows.Close()
	}
}

func TestFailedOpenIsRememberedForAMoment(t *testing.T) {
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

package sqldb

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
)

// Only one connection writes, and all writes wait for it in the queue. A connection for reading
// that writes would bypass the queue.
func TestReadersDoNotWrite(t *testing.T) {
	c := newSQLite(t)
	p := c.DB.Pools()
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "1", "busy_timeout": fmt.Sprint(busyTimeout.Milliseconds())} {
		var got string
		if err := p.Write.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", pragma, got, err, want)
		}
	}
	if _, err := p.Read.Exec(c.DB.SQL(`DELETE FROM {rows}`)); err == nil {
		t.Error("a reader wrote")
	}
}

// An operator deletes, moves or overwrites the files of an open database. SQLite's own errors name
// its log or the disk. The operator must read that the file is gone or damaged.
func TestFilesAreLostWhileOpen(t *testing.T) {
	gone := func(paths ...string) error {
		var all []error
		for _, path := range paths {
			all = append(all, os.RemoveAll(path))
		}
		return errors.Join(all...)
	}
	for name, c := range map[string]struct {
		lose   func(path string) error
		is     error
		remedy string
	}{
		"all files":     {func(path string) error { return gone(path, path+"-wal", path+"-shm") }, ErrLost, remedyLost},
		"the directory": {func(path string) error { return gone(filepath.Dir(path)) }, ErrLost, remedyLost},
		"the log":       {func(path string) error { return gone(path + "-wal") }, ErrLost, remedyLogLost},
		"moved away":    {func(path string) error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+".away") }, ErrLost, remedyLost},
	} {
		client := newSQLite(t)
		if err := c.lose(client.DB.path); err != nil {
			t.Fatal(err)
		}
		err := client.insert(t.Context(), Durable, "lost")
		var a advised
		if !errors.Is(err, c.is) || !errors.Is(err, ErrUnavailable) || !errors.As(err, &a) || a.Remedy() != c.remedy || a.Heading() != remedy.StoreLost {
			t.Errorf("%s: %v, with the remedy %q", name, err, a.remedy)
		}
	}
}

// A disk fault, or another program, overwrites pages of an open database.
func TestFileIsDamagedWhileOpen(t *testing.T) {
	c := newSQLite(t)
	for i := range 500 {
		if err := c.insert(t.Context(), Light, strings.Repeat(fmt.Sprint(i%10), 40)+fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	p := c.DB.Pools()
	if _, err := p.Write.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(c.DB.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := int64(4096); ; at += 4096 {
		if info, err := f.Stat(); err != nil || at >= info.Size() {
			break
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, 512), at); err != nil {
			t.Fatal(err)
		}
	}
	err = c.Read(t.Context(), "counting", func(t *Tx) error {
		return t.Each(func(Row) error { return nil }, `SELECT name FROM {rows} ORDER BY name`)
	})
	var a advised
	if !errors.Is(err, ErrDamaged) || errors.Is(err, ErrUnavailable) || !errors.As(err, &a) || a.Remedy() != remedyDamaged || a.Heading() != remedy.StoreLost {
		t.Errorf("%v, with the remedy %q", err, a.remedy)
	}
}

// SQLite has one error for a disk that fails and for a process without a free file descriptor.
func TestSQLiteThatCannotOpenAFile(t *testing.T) {
	c := newSQLite(t)
	_, err := sqliteConnections(filepath.Join(t.TempDir(), "none", "wx.db"), 1).Exec(`CREATE TABLE t (x)`)
	var a advised
	if err = c.DB.Wrap(t.Context(), "asking", err); !errors.As(err, &a) || !strings.Contains(a.Remedy(), "the disk") || !strings.Contains(a.Remedy(), "LimitNOFILE") {
		t.Errorf("%v, with the remedy %q", err, a.remedy)
	}
}

package rig

import (
	"database/sql"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // to lock the store and to read it, as another process would
)

// StoreFile returns the path of the default store's SQLite file.
func (c *Caddy) StoreFile() string { return filepath.Join(c.DataDir(), "wx_auth", "wx_auth.db") }

// OpenStore opens the store as another process would.
func (c *Caddy) OpenStore(t testing.TB) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file://"+c.StoreFile()+"?_busy_timeout=5000&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// Rows returns the number of rows of a table.
func (c *Caddy) Rows(t testing.TB, table string) (n int) {
	t.Helper()
	db := c.OpenStore(t)
	defer db.Close()
	if err := db.QueryRow("SELECT COUNT(*) FROM wx_auth_" + table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Lock makes another process hold a write transaction open.
func (c *Caddy) Lock(t *testing.T) (unlock func()) {
	t.Helper()
	db := c.OpenStore(t)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
		db.Close()
	}
}

package sqldb

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
)

// TestServersLeftOut lists the databases that the tests have skipped.
func TestServersLeftOut(t *testing.T) { dbtest.LeftOut(t) }

// clientOf returns a client of a database. It is closed when the test ends.
func clientOf(t testing.TB, address string, opts Options) *Client {
	t.Helper()
	db, err := New(address, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &Client{
		DB: db,
		Use: func(context.Context) (*Pools, error) {
			if p := db.Pools(); p != nil {
				return p, nil
			}
			return nil, db.ErrClosed()
		},
		Wrote:  func(_ context.Context, err error) error { return err },
		Proves: func(context.Context) bool { return true },
	}
}

// connect opens a database, and does nothing with it.
func (c *Client) connect(ctx context.Context) error {
	return c.DB.Open(ctx, true, func(context.Context, *Pools) error { return nil })
}

// newSQLite returns a client of an open database with the table {rows}.
func newSQLite(t testing.TB) *Client {
	t.Helper()
	return withRows(t, "sqlite:"+filepath.Join(t.TempDir(), "wx.db"))
}

func withRows(t testing.TB, address string) *Client {
	t.Helper()
	c := clientOf(t, address, Options{Tables: []string{"rows"}, Prefix: "test_"})
	if err := c.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Write(t.Context(), "creating a table", func(t *Tx) error {
		_, err := t.Exec(`CREATE TABLE IF NOT EXISTS {rows} (name {id 64} NOT NULL PRIMARY KEY) {options}`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return c
}

// insert writes a row.
func (c *Client) insert(ctx context.Context, how Durability, name string) error {
	return c.Change(ctx, "inserting", Once, how, func(t *Tx) error {
		_, err := t.Exec(`INSERT INTO {rows} (name) VALUES (?)`, name)
		return err
	})
}

// rows counts the rows.
func (c *Client) rows(t *testing.T) (n int) {
	t.Helper()
	if err := c.Read(t.Context(), "counting", func(t *Tx) error { return t.Row(`SELECT COUNT(*) FROM {rows}`).Scan(&n) }); err != nil {
		t.Fatal(err)
	}
	return n
}

// The label of a store is in every scrape, so it names the database and nothing secret.
func TestLabelHasNoSecret(t *testing.T) {
	for address, want := range map[string]string{
		"sqlite:/var/lib/caddy/wx_auth/wx.db":                        "wx.db",
		"postgres://wx:p%40ss@db.internal:5433/shop?sslmode=require": "postgres:db.internal:5433/shop/wx_auth_",
		"mysql://wx:secret@db/shop?socket=/run/mysqld/mysqld.sock":   "mysql:db/shop/wx_auth_",
	} {
		db, err := New(address, Options{Prefix: "wx_auth_"})
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		if got := db.Label(); got != want {
			t.Errorf("the label is %q, want %q", got, want)
		}
	}
}

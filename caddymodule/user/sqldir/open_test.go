package sqldir

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// table is a database with one row. It may be down.
type table struct {
	away   bool
	column Column
}

func (d *table) Do(_ context.Context, do func(Tx) error) error {
	if d.away {
		return ErrUnavailable
	}
	return do(d)
}

func (d *table) Placeholder(int) string { return "?" }

func (d *table) Select(int, string, ...any) ([]string, [][]any, error) {
	return []string{"id", d.column.Name}, [][]any{{"7", "x"}}, nil
}

func (d *table) Describe(string, ...any) ([]Column, error) {
	return []Column{{Name: "id", Kind: Text}, d.column}, nil
}

func (d *table) Exec(string, ...any) (int64, error) { return 0, nil }
func (d *table) Prepare(string) error               { return nil }

// The database was down when the configuration was loaded, so the columns were not checked then.
// They must be checked before the first login.
func TestColumnsAreCheckedOnceTheTableIsBack(t *testing.T) {
	for kind, ok := range map[Kind]bool{Text: true, Odd: false} {
		db := &table{away: true, column: Column{Name: "avatar", Type: "bytea", Kind: kind, Remedy: "encode it"}}
		q, err := ParseQueries("SELECT id, avatar FROM m WHERE p = :phone", "", "SELECT id, avatar FROM m WHERE id = :id", "", false)
		if err != nil {
			t.Fatal(err)
		}
		d := &Directory{DB: db, Queries: q}
		if err := d.Open(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		if _, err := d.Check(t.Context(), "7"); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		db.away = false
		for range 2 {
			u, err := d.Check(t.Context(), "7")
			if ok && (err != nil || u.ID != "7") || !ok && (!errors.Is(err, user.ErrMisconfigured) || !strings.Contains(err.Error(), "encode it")) {
				t.Errorf("%v: %+v, %v", kind, u, err)
			}
		}
	}
}

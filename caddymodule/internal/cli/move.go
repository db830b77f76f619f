package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
)

// Move moves everything to another store.
func (o *Store) Move(ctx context.Context, out Output, to *store.Store, name string, force bool) error {
	bar := newBar(os.Stderr)
	defer bar.clear()
	moved, err := store.Move{
		From: o.Store, To: to, Sessions: o.Sessions.Lifetime, Force: force,
		Progress: func(table string, done, all int64) {
			bar.show("%s %d of %d rows, %s", blocks(done, all), done, all, table)
		},
	}.Run(ctx)
	bar.clear()
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted: the old store stays closed; run the command again, and it continues from there, or open the old store again with --undo")
	case err != nil:
		if m, readErr := o.MovedTo(ctx); readErr == nil && m != nil && !m.Done {
			err = fmt.Errorf("%w\nThe old store is closed: run the command again, or open the old store with --undo", err)
		}
		return err
	case out.JSON:
		rows := make(map[string]int64)
		for _, t := range moved {
			rows[t.Name] = t.Rows
		}
		return out.json(map[string]any{"from": o.Name, "to": name, "rows": rows})
	}
	var rows [][]string
	for _, t := range moved {
		rows = append(rows, []string{t.Name, strconv.FormatInt(t.Rows, 10)})
	}
	if err := out.table("TABLE | ROWS", rows); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nEverything is in %s, counted in both. %s is closed: it accepts no writes.\n", name, o.Name)
	fmt.Fprintln(out, "Now write the new store and its encryption_key into the configuration, and reload. Until then tokens stay valid, and logins answer 503.")
	return nil
}

// UndoMove opens a store again after a move.
func (o *Store) UndoMove(ctx context.Context, out Output) error {
	m, err := o.OpenAgain(ctx)
	switch {
	case err != nil:
		return err
	case m == nil:
		return fmt.Errorf("%s is open: it was not moved", o.Name)
	case out.JSON:
		return out.json(map[string]any{"store": o.Name, "undone": m.To})
	}
	fmt.Fprintf(out, "%s is open again.\n", o.Name)
	if m.Done {
		fmt.Fprintf(out, "Changes that were made in %s since the move are not here. Do not use both stores: a session that ends in one stays open in the other.\n", m.To)
	}
	return nil
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/importer"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Import imports the users in a CSV file.
func (o *Store) Import(ctx context.Context, out Output, file *os.File) error {
	var size int64
	if info, err := file.Stat(); err == nil {
		size = info.Size()
	}
	into := importer.Store(o.Store)
	if o.External {
		into = o.Store.ImportExternal()
	}
	bar := newBar(os.Stderr)
	sum, err := importer.Import{
		Store: into, Apps: o.Apps, Rule: o.NewOpenID,
		Refused: func(line int, phone user.Phone, reason error) {
			bar.clear()
			fmt.Fprintf(out, "line %d: %s%s\n", line, prefixed(phone), reason)
		},
		Progress: func(t importer.Totals) {
			bar.show("%s line %d, %d refused", blocks(t.Bytes, size), t.Line, t.Refused)
		},
	}.Run(ctx, file)
	bar.clear()
	fmt.Fprintf(os.Stderr, "%s: %d users and %d openids are new, %d lines were known, %d refused.\n", o.Name, sum.NewUsers, sum.Bound, sum.Known, sum.Refused)
	if sum.Suspended > 0 {
		fmt.Fprintf(os.Stderr, "%d of the openids need a phone login first, because another WeChat account has used the number here.\n", sum.Suspended)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted after line %d: run the command again, and it skips what is already imported", sum.Line)
	case err != nil:
		return fmt.Errorf("after line %d: %w", sum.Line, err)
	case sum.Refused > 0:
		return fmt.Errorf("%d lines were refused", sum.Refused)
	}
	return nil
}

func prefixed(phone user.Phone) string {
	if phone.IsZero() {
		return ""
	}
	return phone.Masked() + ": "
}

package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/importer"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

func importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import <file.csv>",
		Short: "Imports users and their openids from another system",
		Long: `Imports users and their openids from a CSV file, so that they need not share their
phone number again: from then on they log in silently, as if each had logged in with
the phone number at the time of the import.

The columns are appid, openid, unionid, phone, user id, in this order, or in the
order of a first line with these names. The unionid may be empty. Without a user id
the user is the owner of the phone number, or gets a new id. The phone number may be
left out for a user id that is in the store already.

If "users" names a directory of your own, users stay there: each line needs the
user's id in that directory, and binds the openid to it. The phone number is used
only if your directory returns none.

The store wins over the file, and is never changed by it. A line is refused if the
user has another openid in the app (unless on_new_openid is keep), or if the phone
number, the openid or the unionid belongs to another user in the store. So the same
file can be imported repeatedly; the second time nothing is written, and no binding
is renewed. After an interruption, run the command again. Remove users whom you have
erased from the file.

Refused lines are printed, with the number of the line and the reason, and the phone
number masked. The command then fails, though all other lines were imported.

Start Caddy with the configuration once before: it creates the tables. You can import
while replicas run.`,
		Example: `  caddy wx-auth import users.csv --config /etc/caddy/Caddyfile > refused.txt`,
		Args:    cobra.ExactArgs(1),
	}
	from := addConfigFlags(cmd)
	which := cmd.Flags().String("store", "", "a part of the store's name, if the configuration has several")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := untilInterrupted()
		defer stop()
		list, err := from.stores()
		if err != nil {
			return err
		}
		o, err := chosen(list, *which)
		if err != nil {
			return err
		}
		file, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer file.Close()
		if err := o.open(ctx); err != nil {
			return err
		}
		return errors.Join(importUsers(ctx, cmd.OutOrStdout(), o, file), o.db.Close())
	}
	return cmd
}

// chosen returns the store whose name contains which.
func chosen(list []*commandStore, which string) (*commandStore, error) {
	var names []string
	var found []*commandStore
	for _, o := range list {
		names = append(names, o.name)
		if strings.Contains(o.name, which) {
			found = append(found, o)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d of the configuration's stores fit: choose one with --store <part of its name>:\n  %s", len(found), strings.Join(names, "\n  "))
	}
	return found[0], nil
}

func importUsers(ctx context.Context, out io.Writer, o *commandStore, file *os.File) error {
	var size int64
	if info, err := file.Stat(); err == nil {
		size = info.Size()
	}
	into := importer.Store(o.store)
	if o.directory.external {
		into = o.store.ImportElsewhere()
	}
	bar := newBar(os.Stderr)
	sum, err := importer.Import{
		Store: into, Apps: o.apps, Rule: o.set.Login.NewOpenID,
		Refused: func(line int, phone user.Phone, reason error) {
			bar.clear()
			fmt.Fprintf(out, "line %d: %s%s\n", line, prefixed(phone), reason)
		},
		Progress: func(t importer.Totals) {
			bar.show("%s line %d, %d refused", blocks(t.Bytes, size), t.Line, t.Refused)
		},
	}.Run(ctx, file)
	bar.clear()
	fmt.Fprintf(os.Stderr, "%s: %d users and %d openids are new, %d lines were known, %d refused.\n", o.name, sum.NewUsers, sum.Bound, sum.Known, sum.Refused)
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted after line %d: run it again, it skips what is imported", sum.Line)
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

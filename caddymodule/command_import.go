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
		Long: `Imports users and their openids from a CSV file, so that those who are known need
not show their phone number again: from then on they log in silently, as if each had
logged in with the phone number at the time of the import.

The columns are appid, openid, unionid, phone, user id, in this order, or in the
order that a first line with these names gives. The unionid may be empty. Without a
user id the user is the owner of the phone number, or gets an id of ours. The phone
number may be left out for a user id that is in the store already.

Where "users" names a directory of your own, users stay there: each line needs the
user's id in it, and binds the openid to that. The phone number is of use only if
your directory tells none.

What the store knows counts, and is never changed: of a user who has another openid
in the app (unless on_new_openid is keep), of a phone number, an openid or a unionid
that is somebody else's in the store, the line is refused. So the same file can be
imported again and again; the second time nothing is written, and no binding is
renewed. After a break, start it again. Take users whom you have erased out of it.

Refused lines are printed, with the number of the line and the reason, and the phone
number masked. The command fails then, though all others were imported.

Start Caddy with the configuration once before: it makes the tables. Import beside
running replicas as you like.`,
		Example: `  caddy wx-auth import users.csv --config /etc/caddy/Caddyfile > refused.txt`,
		Args:    cobra.ExactArgs(1),
	}
	from := configFlags(cmd)
	which := cmd.Flags().String("store", "", "a part of the store's name, where the configuration has several")
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

// chosen is the store that a command is for, if there are several.
func chosen(list []*operated, which string) (*operated, error) {
	var names []string
	var found []*operated
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

func importUsers(ctx context.Context, out io.Writer, o *operated, file *os.File) error {
	var size int64
	if info, err := file.Stat(); err == nil {
		size = info.Size()
	}
	into := importer.Store(o.store)
	if o.directory.elsewhere {
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
		return fmt.Errorf("broken off after line %d: run it again, what is done is left alone", sum.Line)
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

package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
)

func rekeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rekey [--compromised]",
		Short: "Seals everything in the store with the newest encryption key",
		Long: `Seals with the newest encryption key whatever an older one has sealed: phone
numbers, signing keys, access tokens, the steps of logins in flight. It works in
small batches beside running replicas, and goes on where it ended if it is broken
off. To change the key without a stop:

  1. Give every replica the new key behind the old one, and reload:
     encryption_key <old> <new>. With one replica, begin at 2.
  2. Change the order, and reload: encryption_key <new> <old>
  3. caddy wx-auth rekey
  4. Take the old key out: encryption_key <new>. Sessions go on: what their refresh
     tokens are checked with is kept, sealed with the new key.
  5. caddy wx-auth rekey, once more: it deletes what the old key has left in the
     index of phone numbers.

With --compromised, as somebody else has the old key, nothing that is derived from
it is kept. From step 4 on, who has not refreshed since step 2 logs in silently.

Instead of the key that was generated for an SQLite file, configure one, and name
the generated one as the old one: encryption_key <new> {file./…/wx_auth.db.key}`,
		Example: `  caddy wx-auth rekey --config /etc/caddy/Caddyfile`,
		Args:    cobra.NoArgs,
	}
	from := configFlags(cmd)
	compromised := cmd.Flags().Bool("compromised", false, "somebody else has the old key: keep nothing of it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := untilInterrupted()
		defer stop()
		out, bar := cmd.OutOrStdout(), newBar(os.Stderr)
		return from.each(ctx, func(ctx context.Context, o *operated) error {
			fmt.Fprintln(out, o.name)
			n, err := o.store.Rekey(ctx, store.Rekey{
				Sessions: o.sessions, Compromised: *compromised,
				Progress: func(seen int) { bar.show("%d values looked at", seen) },
			})
			bar.clear()
			if errors.Is(err, context.Canceled) {
				return fmt.Errorf("broken off, with %d values sealed anew: run it again, it goes on from there", n)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "%d values were sealed anew; everything is sealed with the newest key.\n", n)
			return nil
		})
	}
	return cmd
}

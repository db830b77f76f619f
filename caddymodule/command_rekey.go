package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

func rekeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rekey [--compromised] [--force]",
		Short: "Seals everything in the store with the newest encryption key",
		Long: `Seals with the newest encryption key whatever an older one has sealed: phone
numbers, signing keys, access tokens, the results of login steps. It works in small
batches beside running replicas. If it is interrupted, the next run continues where
it ended. To change the key without downtime:

  1. Give every replica the new key behind the old one, and reload:
     encryption_key <old> <new>. With one replica, begin at 2.
  2. Change the order, and reload: encryption_key <new> <old>
  3. caddy wx-auth rekey
  4. Remove the old key, and reload: encryption_key <new>. Sessions go on: the keys
     that check their refresh tokens are kept, sealed with the new key.
  5. caddy wx-auth rekey, once more: it deletes the old key's entries in the index
     of phone numbers.

It begins only when each replica that was up within the last two minutes has the new
key. Others could not read what is sealed with it, and would answer 503
misconfigured. --force skips this check, for replicas that are gone for good.

With --compromised in step 3, if somebody else has the old key and perhaps a copy of
the database, nothing is kept that they could use:

  * Every session ends; people log in again, most of them silently.
  * Generated signing keys are replaced. The new ones sign at once, and within a
    minute every replica refuses what the former ones signed, and ends WebSockets.
  * The results of login steps and WeChat's access tokens are deleted.

What it cannot do:

  * Only you can change a key in the configuration (token { key … }). The command
    refuses to run until you have: change it, reload, and run the command again.
  * WeChat's access token in the copy is good for up to two hours. Reset the
    AppSecret at WeChat to end it, and restrict its use by the IP whitelist.
  * Backends that verify tokens themselves keep the JWKS for up to five minutes.
  * A person who still has access to the database can read what is written until
    step 4.

To replace the key that was generated for an SQLite file, configure a key, and name
the generated one as the old one: encryption_key <new> {file./…/wx_auth.db.key}`,
		Example: `  caddy wx-auth rekey --config /etc/caddy/Caddyfile`,
		Args:    cobra.NoArgs,
	}
	from := addConfigFlags(cmd)
	compromised := cmd.Flags().Bool("compromised", false, "somebody else has the old key: keep nothing of it, and end every session")
	force := cmd.Flags().Bool("force", false, "begin though replicas do not have the new key, or a configured signing key may be the old one")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := untilInterrupted()
		defer stop()
		return from.each(ctx, func(ctx context.Context, o *commandStore) error {
			fmt.Fprintln(cmd.OutOrStdout(), o.name)
			return o.rekey(ctx, cmd.OutOrStdout(), *compromised, *force)
		})
	}
	return cmd
}

func (o *commandStore) rekey(ctx context.Context, out io.Writer, compromised, force bool) error {
	if !force {
		if err := o.everyReplicaIsReady(ctx); err != nil {
			return err
		}
	}
	bar := newBar(os.Stderr)
	defer bar.clear()
	if compromised {
		if err := o.abandon(ctx, out, bar, force); err != nil {
			return interrupted(err, "some sessions may have ended already")
		}
	}
	n, err := o.store.Rekey(ctx, store.Rekey{
		Sessions: o.sessions, Compromised: compromised,
		Progress: func(seen int) { bar.show("%d values looked at", seen) },
	})
	bar.clear()
	if err != nil {
		return interrupted(err, fmt.Sprintf("%d values are sealed", n))
	}
	fmt.Fprintf(out, "%d values were sealed again; everything is sealed with the newest key.\n", n)
	if !compromised {
		return nil
	}
	fmt.Fprintln(out, "Now take the old key out of the configuration everywhere, reload, and run `caddy wx-auth rekey` once more.")
	return o.store.Trust(ctx)
}

// interrupted adds what is done so far to the error of an interrupted command.
func interrupted(err error, done string) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted; %s: run it again, it goes on from there", done)
	}
	return err
}

// everyReplicaIsReady refuses to seal with a key that a running replica does not have.
func (o *commandStore) everyReplicaIsReady(ctx context.Context) error {
	keys, err := o.store.Secrets(ctx)
	if err != nil {
		return err
	}
	replicas, err := o.store.Replicas(ctx)
	if err != nil {
		return err
	}
	newest := keys.IDs()[0]
	var lack []string
	for _, r := range replicas {
		if !r.Has(newest) {
			lack = append(lack, fmt.Sprintf("%s, seen %s ago, has %s", r.Name, r.Seen.Round(time.Second), strings.Join(r.Keys, " and ")))
		}
	}
	if len(lack) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d replicas do not have the newest encryption key (%s) of this configuration; nothing was changed:\n  %s\n"+
		"Give every replica both keys, encryption_key <new> <old>, and reload it; then run this again. "+
		"A replica that has stopped counts for two minutes. --force begins all the same: those that lack the key then answer 503",
		len(lack), len(replicas), newest, strings.Join(lack, "\n  "))
}

// abandon ends and deletes what a person with the old key and a copy of the database could
// use, and replaces the generated signing keys. Sessions end first: a token of an ended
// session is then signed with a former key.
func (o *commandStore) abandon(ctx context.Context, out io.Writer, bar *bar, force bool) error {
	if len(o.static) > 0 && !force {
		unchanged, err := o.store.Distrust(ctx, slices.Compact(slices.Sorted(slices.Values(o.static))))
		if err != nil {
			return err
		}
		if len(unchanged) > 0 {
			return fmt.Errorf("the key that signs stands in the configuration (token { key … }, kid %s), where this cannot replace it, "+
				"and tokens that it signs would outlive their sessions; nothing was changed. Change it, reload every replica, and run this again. "+
				"If it is a new one already, --force", strings.Join(unchanged, " and "))
		}
	}
	n, err := o.store.Abandon(ctx, func(seen int) { bar.show("%d rows looked at", seen) })
	bar.clear()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d sessions were ended; results of login steps and access tokens are deleted.\n", n)
	made, dropped, err := token.DropAll(ctx, o.store, o.rings, time.Now())
	if err != nil {
		return err
	}
	for _, k := range made {
		fmt.Fprintf(out, "%s key %s signs from now on.\n", k.Algorithm, k.ID)
	}
	fmt.Fprintf(out, "%d signing keys are deleted; within a minute every replica refuses what they signed.\n", dropped)
	fmt.Fprintln(out, "WeChat's access token in the copy is good for up to two hours (reset the AppSecret to end it); backends that verify tokens themselves keep the JWKS for up to five minutes.")
	return nil
}

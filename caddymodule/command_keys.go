package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

func keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Lists or rotates the keys that sign tokens",
		Long: `The gateway generates the keys that sign tokens, keeps them in the store and rotates
them. These commands list them, and rotate them early.`,
	}
	cmd.AddCommand(keysListCommand(), keysRotateCommand())
	return cmd
}

func keysListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Lists the keys that sign tokens, and the use of each",
		Example: `  caddy wx-auth keys list --config /etc/caddy/Caddyfile`,
		Args:    cobra.NoArgs,
	}
	from := addConfigFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := untilInterrupted()
		defer stop()
		return from.each(ctx, func(ctx context.Context, o *commandStore) error {
			return listKeys(ctx, cmd.OutOrStdout(), o, time.Now())
		})
	}
	return cmd
}

func listKeys(ctx context.Context, out io.Writer, o *commandStore, now time.Time) error {
	fmt.Fprintln(out, o.name)
	if len(o.rings) == 0 {
		fmt.Fprintln(out, "The key that signs is in the configuration (token { key … }); none is generated.")
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KID\tALGORITHM\tGENERATION\tUSE\tSIGNS FROM\tUNTIL")
	for i, ring := range o.rings {
		keys, err := token.Survey(ctx, o.store, ring, now)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if k.Algorithm != ring.Algorithm && (i > 0 || o.hasRing(k.Algorithm)) {
				continue // listed with its own ring, or with the first one
			}
			fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\n", k.ID, k.Algorithm, k.Generation, k.Use, moment(k.SignsFrom), moment(k.Retired))
		}
	}
	return table.Flush()
}

func (o *commandStore) hasRing(alg token.Algorithm) bool {
	for _, r := range o.rings {
		if r.Algorithm == alg {
			return true
		}
	}
	return false
}

func keysRotateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate [--compromised <kid>]",
		Short: "Generates the next key now, or drops a compromised one",
		Long: `Generates and stores the next key now. It is published at once, and signs ten
minutes later: by then every replica knows it, and every backend that caches the JWKS
as its Cache-Control says, so that no token has an unknown key. Tokens that the
former key signed are accepted until they expire. Nobody is logged out.

With --compromised the key of this kid is dropped at once. If it was the one that
signs, a new one signs from now on. This breaks something, on purpose:

  * Each replica refuses the tokens that it signed, within a minute. Clients then
    refresh, as they do when a token expires. Sessions go on.
  * Backends that verify tokens themselves accept them as long as they cache the
    JWKS, up to five minutes, and may refuse tokens of the new key that long.`,
		Example: `  caddy wx-auth keys rotate --config /etc/caddy/Caddyfile
  caddy wx-auth keys rotate --compromised 3xkmZTIpMhMpVWPSaqX8zQ9hpHhqR6m3iU0Qk0dVLnI`,
		Args: cobra.NoArgs,
	}
	from := addConfigFlags(cmd)
	compromised := cmd.Flags().String("compromised", "", "the kid of the key to drop at once")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := untilInterrupted()
		defer stop()
		out := cmd.OutOrStdout()
		if cmd.Flags().Changed("compromised") {
			return dropKey(ctx, out, from, *compromised)
		}
		rotated := 0
		err := from.each(ctx, func(ctx context.Context, o *commandStore) error {
			fmt.Fprintln(out, o.name)
			for _, ring := range o.rings {
				rotated++
				next, stored, err := token.Rotate(ctx, o.store, ring, time.Now())
				if err != nil {
					return err
				}
				fmt.Fprintln(out, rotation(next, stored))
			}
			return nil
		})
		if err == nil && rotated == 0 {
			err = errors.New("the key that signs is in the configuration (token { key … }): change it there")
		}
		return err
	}
	return cmd
}

func rotation(next token.KeyInfo, stored bool) string {
	name := fmt.Sprintf("%s key %s", next.Algorithm, next.ID)
	switch {
	case next.Use == token.Signs:
		return name + ": the first one. It signs from now on."
	case stored:
		return fmt.Sprintf("%s: published, signs from %s.", name, moment(next.SignsFrom))
	}
	return fmt.Sprintf("%s: published already, signs from %s. There is nothing to do.", name, moment(next.SignsFrom))
}

func dropKey(ctx context.Context, out io.Writer, from *configFlags, kid string) error {
	found := false
	err := from.each(ctx, func(ctx context.Context, o *commandStore) error {
		if len(o.rings) == 0 {
			return nil
		}
		dropped, replacements, err := token.Drop(ctx, o.store, o.rings, kid, time.Now())
		if errors.Is(err, token.ErrUnknownKey) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		fmt.Fprintf(out, "%s\n%s key %s is deleted.", o.name, dropped.Algorithm, dropped.ID)
		for _, k := range replacements {
			fmt.Fprintf(out, " %s key %s signs from now on.", k.Algorithm, k.ID)
		}
		fmt.Fprintln(out)
		if dropped.Use != token.Next && dropped.Use != token.Over {
			fmt.Fprintln(out, "Tokens that it signed are refused by each replica within a minute; clients refresh then, and sessions go on.")
			fmt.Fprintln(out, "Backends that verify tokens themselves accept them until they read the JWKS again, within five minutes.")
		}
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("there is no key %q: `caddy wx-auth keys list` shows those that are", kid)
	}
	return err
}

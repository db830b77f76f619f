package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// Rekey seals everything in the store with the newest encryption key.
func (o *Store) Rekey(ctx context.Context, out Output, compromised, force bool) error {
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
	n, err := o.Store.Rekey(ctx, store.Rekey{
		Sessions: o.Sessions.Lifetime, Compromised: compromised,
		Progress: func(seen int) { bar.show("%d values checked", seen) },
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
	return o.Store.Trust(ctx)
}

// everyReplicaIsReady returns an error if a running replica does not have the newest key.
func (o *Store) everyReplicaIsReady(ctx context.Context) error {
	keys, err := o.Store.Secrets(ctx)
	if err != nil {
		return err
	}
	replicas, err := o.Store.Replicas(ctx)
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
		"A replica that has stopped counts for two minutes. With --force the command begins nevertheless; replicas without the key then answer 503",
		len(lack), len(replicas), newest, strings.Join(lack, "\n  "))
}

// abandon ends and deletes everything that a thief with the old key and a copy of the database
// could use. Then it replaces the generated signing keys. The sessions end first, so that the
// tokens of ended sessions are signed with a former key.
func (o *Store) abandon(ctx context.Context, out Output, bar *bar, force bool) error {
	if len(o.Static) > 0 && !force {
		unchanged, err := o.Store.Distrust(ctx, slices.Compact(slices.Sorted(slices.Values(o.staticIDs()))))
		if err != nil {
			return err
		}
		if len(unchanged) > 0 {
			return fmt.Errorf("the signing key is in the configuration (token { key … }, kid %s), where this command cannot replace it, "+
				"so tokens that it has signed would outlive their sessions; nothing was changed. Change the key, reload every replica, and run this again. "+
				"If it is a new key already, use --force", strings.Join(unchanged, " and "))
		}
	}
	n, err := o.Store.Abandon(ctx, func(seen int) { bar.show("%d rows checked", seen) })
	bar.clear()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d sessions were ended; results of login steps and access tokens are deleted.\n", n)
	made, dropped, err := token.DropAll(ctx, o.Store, o.Rings, time.Now())
	if err != nil {
		return err
	}
	for _, k := range made {
		fmt.Fprintf(out, "%s key %s signs from now on.\n", k.Algorithm, k.ID)
	}
	fmt.Fprintf(out, "%d signing keys are deleted; within a minute every replica refuses tokens that they signed.\n", dropped)
	fmt.Fprintln(out, "WeChat's access token in the copy is valid for up to two hours (reset the AppSecret to end it); backends that verify tokens themselves keep the JWKS for up to five minutes.")
	return nil
}

// staticIDs returns the ids of the keys in the configuration.
func (o *Store) staticIDs() (ids []string) {
	for _, ks := range o.Static {
		ids = append(ids, ks.IDs()...)
	}
	return ids
}

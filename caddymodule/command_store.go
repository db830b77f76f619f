package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/cli"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
)

func schemaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema postgres|mysql|sqlite",
		Short: "Prints the SQL that creates the tables, for `migrate off`",
		Long: `Prints the SQL that creates all tables and indexes, for databases whose schema no
program may change: run it as the tables' owner, and write "migrate off" in the
block of store. The grants that the gateway's user needs are at its end.

With --from it prints what brings the tables of an earlier version up to date;
the error at start names that version.`,
		Example: `  caddy wx-auth schema postgres | psql -v ON_ERROR_STOP=1 app
  caddy wx-auth schema mysql --table-prefix login_ | mysql app
  caddy wx-auth schema mysql --from 1`,
		Args:      cobra.ExactArgs(1),
		ValidArgs: sqldb.Kinds(), // for the shell's completion
	}
	prefix := cmd.Flags().String("table-prefix", defaultTablePrefix, "what the name of each table starts with, as in table_prefix")
	from := cmd.Flags().Int("from", 0, "the version that the tables have")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		text, err := store.Schema(args[0], *prefix, *from)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(cmd.OutOrStdout(), text)
		return err
	}
	return cmd
}

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
	from := addConfigFlags(cmd).addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := untilInterrupted()
		defer stop()
		out, list := from.output(cmd), cli.Keys{}
		err := from.each(ctx, func(ctx context.Context, o *commandStore) error {
			return list.Add(ctx, out, &o.Store, time.Now())
		})
		return errors.Join(err, list.Write(out))
	}
	return cmd
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
		if cmd.Flags().Changed("compromised") && *compromised == "" {
			return errors.New("--compromised needs the kid of a key: `caddy wx-auth keys list` shows them")
		}
		ctx, stop := untilInterrupted()
		defer stop()
		out, rings, found := from.output(cmd), 0, false
		err := from.each(ctx, func(ctx context.Context, o *commandStore) error {
			if *compromised != "" {
				dropped, err := o.DropKey(ctx, out, *compromised, time.Now())
				found = found || dropped
				return err
			}
			n, err := o.RotateKeys(ctx, out, time.Now())
			rings += n
			return err
		})
		switch {
		case err != nil:
			return err
		case *compromised != "" && !found:
			return fmt.Errorf("there is no key %q: `caddy wx-auth keys list` shows the existing ones", *compromised)
		case *compromised == "" && rings == 0:
			return errors.New("the key that signs is in the configuration (token { key … }): change it there")
		}
		return nil
	}
	return cmd
}

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
	compromised := cmd.Flags().Bool("compromised", false, "somebody else has the old key: replace everything made with it, and end every session")
	force := cmd.Flags().Bool("force", false, "begin even if replicas lack the new key, or a configured signing key may be the old one")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := untilInterrupted()
		defer stop()
		return from.each(ctx, func(ctx context.Context, o *commandStore) error {
			fmt.Fprintln(cmd.OutOrStdout(), o.Name)
			return o.Rekey(ctx, from.output(cmd), *compromised, *force)
		})
	}
	return cmd
}

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
	from.addStore(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		file, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer file.Close()
		return from.one(func(ctx context.Context, o *commandStore) error {
			return o.Import(ctx, from.output(cmd), file)
		})
	}
	return cmd
}

func moveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "move <store>",
		Short: "Moves everything to another store, such as from SQLite to PostgreSQL",
		Long: `Moves everything from the store of the configuration to another one: users, phone
numbers, openids, sessions, signing keys, tombstones. Nobody has to log in again.

  1. caddy wx-auth move '{env.NEW_STORE}' --encryption-key '{env.NEW_KEY}'
  2. Write into the configuration: store {env.NEW_STORE}, encryption_key {env.NEW_KEY}
  3. Reload every replica.

It closes the old store first, or a logout that comes after its row was copied would
be undone. From then on logins, refreshes and logouts are 503 store_unavailable, and
clients send the same again; tokens go on. So do the steps one right after the other.
Plan for a few minutes for a million users.

If it is interrupted, run it again: it goes on where it was. At its end it counts the
rows in both stores. The old store stays closed and names its successor. --undo opens
it again; what has happened in the new one since is not in it.

The address is written as in the configuration, and may hold placeholders. It must
hold no password: name it, '{env.NEW_STORE}' or postgres://user:{env.PASSWORD}@host/db.
The database must exist, and have none of the tables or empty ones. Without
--encryption-key the new store gets the keys of the configuration.`,
		Example: `  caddy wx-auth move '{env.NEW_STORE}' --encryption-key '{env.NEW_KEY}' --config /etc/caddy/Caddyfile --envfile /etc/caddy/wx.env
  caddy wx-auth move sqlite:/var/lib/caddy/wx_auth.db
  caddy wx-auth move --undo`,
		Args: cobra.MaximumNArgs(1),
	}
	from := addConfigFlags(cmd).addJSON(cmd).addStore(cmd)
	var keys []string
	cmd.Flags().StringSliceVar(&keys, "encryption-key", nil, "placeholder of the new store's encryption key, such as '{env.NEW_KEY}'")
	prefix := cmd.Flags().String("table-prefix", defaultTablePrefix, "what the name of each new table starts with")
	undo := cmd.Flags().Bool("undo", false, "open the old store again")
	force := cmd.Flags().Bool("force", false, "begin even if replicas of an earlier version, or of the new store, seem to run")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *undo == (len(args) == 1) {
			return errors.New("name the new store, or write --undo")
		}
		return from.one(func(ctx context.Context, o *commandStore) error {
			if *undo {
				return o.UndoMove(ctx, from.output(cmd))
			}
			to, err := o.successor(args[0], *prefix, keys)
			if err != nil {
				return err
			}
			err = o.Move(ctx, from.output(cmd), to.db.Filler(to.set.EncryptionKeys), to.Name, *force)
			return errors.Join(err, to.db.Close())
		})
	}
	return cmd
}

// howToCreate returns the remedy for a store without tables.
func (o *commandStore) howToCreate() string {
	_, file := strings.CutPrefix(o.key.url, "sqlite:")
	switch {
	case !o.set.Store.Migrate:
		return "create them with the SQL that `caddy wx-auth schema` prints, as migrate is off"
	case !file:
		return "start Caddy with this configuration first: it creates the tables, or reports why it cannot"
	}
	return "run this as the user that runs Caddy, as the default path depends on the user; if Caddy has run with this configuration before, the file is lost: " +
		"restore it from a backup; else start Caddy with this configuration first: it creates the file"
}

// successor returns the store that an address and keys name, as a configuration would.
func (o *commandStore) successor(address, prefix string, keys []string) (*commandStore, error) {
	for _, written := range append([]string{passwordOf(address)}, keys...) {
		if isLiteral(written) {
			return nil, errors.New("a password or a key in an argument is in the list of processes and in your shell's history: name it, such as '{env.NEW_STORE}'")
		}
	}
	h := Handler{Store: &Store{URL: address, TablePrefix: prefix}, EncryptionKeys: keys}
	if len(keys) == 0 {
		h.EncryptionKeys = o.handler.EncryptionKeys
	}
	to := new(commandStore)
	if err := to.set.resolveStore(&h, atProvision); err != nil {
		return nil, err
	}
	db, err := store.New(to.set.Store.URL, store.Options{Prefix: prefix, Clock: clock.New()})
	if err != nil {
		return nil, err
	}
	to.db, to.Name = db, db.String()
	if prefix != defaultTablePrefix {
		to.Name += ", tables " + prefix + "…"
	}
	return to, nil
}

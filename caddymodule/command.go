package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "wx-auth",
		Usage: "schema|keys|rekey|import",
		Short: "Manages the store of wx_auth: its tables, keys and users",
		Long: `Manages the store of wx_auth. The commands read the configuration that Caddy is
started with, and find the store and its encryption key there; no secret is an
argument. They work with or without running replicas.

Run them as the user that runs Caddy and with its environment variables. With
systemd, for example:

  sudo -u caddy sh -c 'set -a; . /etc/caddy/wx.env;
    caddy wx-auth keys list --config /etc/caddy/Caddyfile'`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(schemaCommand(), keysCommand(), rekeyCommand(), importCommand())
		},
	})
}

// configFlags name the configuration that a command works on.
type configFlags struct{ file, adapter string }

// addConfigFlags adds the flags that Caddy's own commands have.
func addConfigFlags(cmd *cobra.Command) *configFlags {
	c := new(configFlags)
	cmd.Flags().StringVarP(&c.file, "config", "c", "", "the configuration that Caddy is started with (default: the Caddyfile in this directory)")
	cmd.Flags().StringVarP(&c.adapter, "adapter", "a", "", "the config adapter, if it is neither a Caddyfile nor JSON")
	return c
}

// commandStore is a store of the configuration, as the commands see it.
type commandStore struct {
	name  string
	key   storeKey
	set   settings // of the first directive with this store
	rings []token.RingSettings
	// static are the ids of the keys in the configuration (token { key }).
	static []string
	apps   []string
	// directory and names say whose ids the configuration has.
	directory directoryName
	names     store.Names
	// sessions is the longest lifetime of a session.
	sessions time.Duration
	store    *store.Store
	db       *store.DB
}

// stores returns the stores that the configuration names.
func (c *configFlags) stores() ([]*commandStore, error) {
	config, file, _, err := caddycmd.LoadConfig(c.file, c.adapter)
	if err != nil {
		return nil, err
	}
	if len(config) == 0 {
		return nil, errors.New("there is no Caddyfile here: name the configuration that Caddy is started with: --config /etc/caddy/Caddyfile")
	}
	handlers, err := directives(config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var list []*commandStore
	for _, h := range handlers {
		if list, err = addStore(list, h); err != nil {
			return nil, fmt.Errorf("%s: wx_auth: %w", file, err)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: there is no wx_auth in it", file)
	}
	return list, nil
}

// directives finds every wx_auth of a configuration, at any depth.
func directives(config []byte) (found []*Handler, err error) {
	var node any
	if err := json.Unmarshal(config, &node); err != nil {
		return nil, err
	}
	var walk func(any) error
	walk = func(node any) error {
		switch node := node.(type) {
		case []any:
			for _, child := range node {
				if err := walk(child); err != nil {
					return err
				}
			}
		case map[string]any:
			if node["handler"] == "wx_auth" {
				raw, err := json.Marshal(node)
				if err != nil {
					return err
				}
				h := new(Handler)
				if err := json.Unmarshal(raw, h); err != nil {
					return fmt.Errorf("wx_auth: %w", err)
				}
				found = append(found, h)
				return nil
			}
			for _, child := range node {
				if err := walk(child); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return found, walk(node)
}

// addStore adds the store of a directive to the list, or the directive to its store. It
// resolves only the settings that concern a store: a command needs no AppSecret.
func addStore(list []*commandStore, h *Handler) ([]*commandStore, error) {
	var s settings
	for _, part := range []func(*Handler, lookup) error{s.resolveStore, s.resolveLogin, s.resolveToken, s.resolveSession, s.resolveHosts} {
		if err := part(h, atProvision); err != nil {
			return nil, err
		}
	}
	directory, err := directoryOf(h)
	if err != nil {
		return nil, err
	}
	names := s.storeNames(directory)
	key := storeKey{s.Store.URL, s.Store.TablePrefix}
	var at *commandStore
	for _, known := range list {
		if known.key == key {
			at = known
		}
	}
	if at == nil {
		db, err := store.New(key.url, store.Options{Prefix: key.prefix, Clock: clock.New()})
		if err != nil {
			return nil, err
		}
		at = &commandStore{name: db.String(), key: key, set: s, db: db, store: db.WithTables(s.EncryptionKeys), directory: directory, names: names}
		if key.prefix != defaultTablePrefix {
			at.name += ", tables " + key.prefix + "…"
		}
		list = append(list, at)
	} else if err := errors.Join(sameStore(at.set, s), sameNames("the store "+at.name, at.directory, directory, at.names, names)); err != nil {
		return nil, err
	}
	maps.Copy(at.names.WeChat, names.WeChat)
	at.sessions = max(at.sessions, s.Session.Lifetime)
	for _, a := range s.Apps {
		at.apps = append(at.apps, a.ID)
	}
	if s.Token.Static == nil {
		at.addRing(s.Token.ring())
	} else {
		at.static = append(at.static, s.Token.Static.IDs()...)
	}
	return list, nil
}

func (o *commandStore) addRing(own token.RingSettings) {
	for i := range o.rings {
		if o.rings[i].Algorithm == own.Algorithm {
			shareRing(&o.rings[i], own)
			return
		}
	}
	o.rings = append(o.rings, own)
}

// open opens the store. A command creates no tables: run as the wrong user, or in the wrong
// place, it must not report success on an empty database.
func (o *commandStore) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	err := o.store.Open(ctx)
	if errors.Is(err, store.ErrSchema) {
		err = fmt.Errorf("%w\nStart Caddy with this configuration first: it creates the tables. "+
			"The path of an SQLite file depends on the user: run this as the user that runs Caddy", err)
	}
	if err == nil {
		// Nothing is recorded: only a running configuration decides whose ids these are.
		err = o.store.CheckNames(ctx, o.names)
	}
	return withRemedy(err, o.directory)
}

// each opens the stores one after the other, and calls do with each.
func (c *configFlags) each(ctx context.Context, do func(context.Context, *commandStore) error) error {
	list, err := c.stores()
	if err != nil {
		return err
	}
	for _, o := range list {
		err := o.open(ctx)
		if err == nil {
			err = do(ctx, o)
		}
		if err = errors.Join(err, o.db.Close()); err != nil {
			return err
		}
	}
	return nil
}

// untilInterrupted returns a context that ends when the user interrupts the command.
func untilInterrupted() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// moment formats a time for output.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

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
		ValidArgs: store.Kinds(), // for the shell's completion
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

// bar is a progress line on a terminal, rewritten in place. Without a terminal it prints
// nothing.
type bar struct {
	out   *os.File // nil: none
	shown time.Time
}

func newBar(out *os.File) *bar {
	if !term.IsTerminal(int(out.Fd())) {
		out = nil
	}
	return &bar{out: out}
}

const eraseLine = "\r\x1b[2K"

// show writes the line, at most ten times a second.
func (b *bar) show(format string, args ...any) {
	if b.out == nil || time.Since(b.shown) < 100*time.Millisecond {
		return
	}
	b.shown = time.Now()
	fmt.Fprintf(b.out, eraseLine+format, args...)
}

// clear erases the line.
func (b *bar) clear() {
	if b.out != nil {
		fmt.Fprint(b.out, eraseLine)
	}
}

// blocks draws the share that part has of whole.
func blocks(part, whole int64) string {
	const width = 30
	full := width
	if whole > 0 {
		full = int(min(part, whole) * width / whole)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}

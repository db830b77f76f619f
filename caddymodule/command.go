package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "wx-auth",
		Usage: "schema|keys|rekey|import",
		Short: "Looks after the store of wx_auth: its tables, keys and users",
		Long: `Looks after the store of wx_auth. The commands read the configuration that Caddy
is started with, and find the store and its encryption key there; no secret is
an argument. They work beside running replicas, and without any.

Run them as the user that runs Caddy and with its environment variables. With
systemd, for one:

  sudo -u caddy sh -c 'set -a; . /etc/caddy/wx.env;
    caddy wx-auth keys list --config /etc/caddy/Caddyfile'`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(schemaCommand(), keysCommand(), rekeyCommand(), importCommand())
		},
	})
}

// configured is the configuration that a command is about.
type configured struct{ file, adapter string }

// configFlags are the same as those of Caddy's own commands.
func configFlags(cmd *cobra.Command) *configured {
	c := new(configured)
	cmd.Flags().StringVarP(&c.file, "config", "c", "", "the configuration that Caddy is started with (default: the Caddyfile in this directory)")
	cmd.Flags().StringVarP(&c.adapter, "adapter", "a", "", "the config adapter, if it is neither a Caddyfile nor JSON")
	return c
}

// operated is a store as the commands see it.
type operated struct {
	name  string
	key   sharedKey
	set   settings // those of the first directive with this store
	rings []token.RingSettings
	// static are the ids of the keys that stand in the configuration (token { key }).
	static []string
	apps   []string
	// directory and names say whose ids the configuration has.
	directory directoryName
	names     store.Names
	// sessions is the longest lifetime of theirs.
	sessions time.Duration
	store    *store.Store
	db       *store.DB
}

// stores are those that the configuration names.
func (c *configured) stores() ([]*operated, error) {
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
	var list []*operated
	for _, h := range handlers {
		if list, err = operate(list, h); err != nil {
			return nil, fmt.Errorf("%s: wx_auth: %w", file, err)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: there is no wx_auth in it", file)
	}
	return list, nil
}

// directives finds every wx_auth of a configuration, wherever it is nested.
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

// operate adds a directive to the stores that are known. It looks at no more
// settings than concern a store: a command needs no AppSecret.
func operate(list []*operated, h *Handler) ([]*operated, error) {
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
	key := sharedKey{s.Store.URL, s.Store.TablePrefix}
	var at *operated
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
		at = &operated{name: db.String(), key: key, set: s, db: db, store: db.WithTables(s.EncryptionKeys), directory: directory, names: names}
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

func (o *operated) addRing(own token.RingSettings) {
	for i := range o.rings {
		if o.rings[i].Algorithm == own.Algorithm {
			shareRing(&o.rings[i], own)
			return
		}
	}
	o.rings = append(o.rings, own)
}

// open opens the store. A command creates no tables: who runs it as the wrong
// user, or in the wrong place, must not be told that all is well with an empty
// database.
func (o *operated) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	err := o.store.Open(ctx)
	if errors.Is(err, store.ErrSchema) {
		err = fmt.Errorf("%w\nStart Caddy with this configuration first: it makes the tables. "+
			"Where an SQLite file lies depends on the user: run this as the one that runs Caddy", err)
	}
	if err == nil {
		// It records nothing: whose ids these are is for the configuration that runs.
		err = o.store.CheckNames(ctx, o.names)
	}
	return withRemedy(err, o.directory)
}

// each opens the stores one after the other and does something with each.
func (c *configured) each(ctx context.Context, do func(context.Context, *operated) error) error {
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

// untilInterrupted ends when the user asks for it.
func untilInterrupted() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// moment is a time as the commands print it.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"syscall"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/cli"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "wx-auth",
		Usage: "doctor|users|sessions|token|keys|rekey|import|move|schema",
		Short: "Manages the users, sessions and keys of wx_auth, and its store",
		Long: `Manages the users, sessions and keys of wx_auth, and its store. The commands read
the configuration that Caddy is started with, and find the store and its encryption
key there; no secret is an argument. They work with or without running replicas,
which notice within a second and a half what was ended or disabled.

Run them as the user that runs Caddy and with its environment variables. With
systemd, for example:

  sudo -u caddy caddy wx-auth users find +8613800138000 \
    --config /etc/caddy/Caddyfile --envfile /etc/caddy/wx.env`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(doctorCommand(), usersCommand(), sessionsCommand(), tokenCommand(), keysCommand(), rekeyCommand(), importCommand(), moveCommand(), schemaCommand())
		},
	})
}

// configFlags are the flags that name a command's configuration and the form of its output.
type configFlags struct {
	file, adapter   string
	envfiles        []string
	store           string // a part of the store's name
	json, fullPhone bool
}

// addConfigFlags adds the flags that Caddy's own commands have.
func addConfigFlags(cmd *cobra.Command) *configFlags {
	c := new(configFlags)
	cmd.Flags().StringVarP(&c.file, "config", "c", "", "the configuration that Caddy is started with (default: the Caddyfile in this directory)")
	cmd.Flags().StringVarP(&c.adapter, "adapter", "a", "", "the config adapter, if it is neither a Caddyfile nor JSON")
	cmd.Flags().StringSliceVar(&c.envfiles, "envfile", nil, "file with the environment variables of Caddy; may be repeated")
	return c
}

func (c *configFlags) addJSON(cmd *cobra.Command) *configFlags {
	cmd.Flags().BoolVar(&c.json, "json", false, "write JSON, for scripts")
	return c
}

func (c *configFlags) addStore(cmd *cobra.Command) *configFlags {
	cmd.Flags().StringVar(&c.store, "store", "", "a part of the store's name, if the configuration has several")
	return c
}

// addPhone adds the flag that shows phone numbers in full.
func (c *configFlags) addPhone(cmd *cobra.Command) *configFlags {
	cmd.Flags().BoolVar(&c.fullPhone, "full-phone", false, "write phone numbers in full, not masked")
	return c
}

func (c *configFlags) output(cmd *cobra.Command) cli.Output {
	return cli.Output{Writer: cmd.OutOrStdout(), JSON: c.json, FullPhone: c.fullPhone}
}

// commandStore is a store of the configuration, as the commands use it.
type commandStore struct {
	cli.Store
	key storeKey
	set settings // of the first directive with this store
	// directory and names say which users and which WeChat the ids in this configuration
	// belong to.
	directory directoryName
	names     store.Names
	db        *store.DB
	clock     *clock.Clock
	handler   *Handler // has the settings of an external directory
	users     func()   // closes the external directory
}

// handlers returns the directives of the configuration, the file it was read from, and its
// JSON.
func (c *configFlags) handlers() (found []*Handler, file string, config []byte, err error) {
	for _, path := range c.envfiles {
		if err := cli.LoadEnvFile(path); err != nil {
			return nil, "", nil, err
		}
	}
	if c.file != "" && c.file != "-" { // the standard input
		if _, err := os.Stat(c.file); err != nil { // Caddy's own error hides its cause
			return nil, c.file, nil, fmt.Errorf("reading the configuration: %w", err)
		}
	}
	config, file, _, err = caddycmd.LoadConfig(c.file, c.adapter)
	if err != nil {
		return nil, file, nil, err
	}
	if len(config) == 0 {
		return nil, file, nil, errors.New("there is no Caddyfile here: name the configuration that Caddy is started with: --config /etc/caddy/Caddyfile")
	}
	if found, err = directives(config); err != nil {
		return nil, file, config, fmt.Errorf("%s: %w", file, err)
	}
	if len(found) == 0 {
		return nil, file, config, fmt.Errorf("%s: there is no wx_auth in it", file)
	}
	return found, file, config, nil
}

// stores returns the stores that the configuration names.
func (c *configFlags) stores() (list []*commandStore, err error) {
	handlers, file, _, err := c.handlers()
	if err != nil {
		return nil, err
	}
	for _, h := range handlers {
		if list, err = addStore(list, h); err != nil {
			return nil, fmt.Errorf("%s: wx_auth: %w", file, err)
		}
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
			for _, name := range slices.Sorted(maps.Keys(node)) {
				if err := walk(node[name]); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return found, walk(node)
}

// addStore adds the directive to the entry of its store, or adds an entry for the store. It
// resolves only the settings that concern a store: a command needs no AppSecret.
func addStore(list []*commandStore, h *Handler) ([]*commandStore, error) {
	s := settings{Register: h.Register == nil || *h.Register}
	for _, part := range []func(*Handler, lookup) error{s.resolveStore, s.resolveLogin, s.resolveHosts, s.resolveToken, s.resolveSession} {
		if err := part(h, atProvision); err != nil {
			return nil, err
		}
	}
	_ = s.resolveTestLogin(h, atProvision) // an error is ignored: a command does not need the test login's secret
	again := *h                            // loading a module removes its settings
	again.UsersRaw = slices.Clone(h.UsersRaw)
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
		watch := clock.New()
		db, err := store.New(key.url, store.Options{Prefix: key.prefix, Clock: watch})
		if err != nil {
			return nil, err
		}
		at = &commandStore{key: key, set: s, db: db, clock: watch, directory: directory, names: names, handler: &again, users: func() {}}
		at.Name, at.Store.Store, at.NewOpenID, at.External = db.String(), db.ForCommand(s.EncryptionKeys, s.Store.Migrate), s.Login.NewOpenID, directory.external
		if key.prefix != defaultTablePrefix {
			at.Name += ", tables " + key.prefix + "…"
		}
		list = append(list, at)
	} else if err := errors.Join(sameStore(at.set, s), sameNames("the store "+at.Name, at.directory, directory, at.names, names)); err != nil {
		return nil, err
	}
	maps.Copy(at.names.WeChat, names.WeChat)
	at.addSite(s)
	return list, nil
}

// addSite adds a site to its store.
func (o *commandStore) addSite(s settings) {
	l := &o.Sessions
	*l = session.Settings{Idle: max(l.Idle, s.Session.Idle), Lifetime: max(l.Lifetime, s.Session.Lifetime), Grace: max(l.Grace, s.Session.Grace),
		TokenLife: max(l.TokenLife, s.Session.TokenLife), Max: max(l.Max, s.Session.Max)}
	for _, a := range s.Apps {
		if !slices.Contains(o.Apps, a.ID) {
			o.Apps = append(o.Apps, a.ID)
		}
	}
	site := cli.Site{Policy: s.Token.Policy, Static: s.Token.Static, Algorithm: s.Token.Algorithm}
	if t := s.TestLogin; t != nil {
		site.TestLogin, site.TestUntil = string(t.whose()), t.Until
	}
	if !slices.ContainsFunc(o.Sites, func(other cli.Site) bool {
		return reflect.DeepEqual(other.Policy, site.Policy) && other.Static == site.Static && other.Algorithm == site.Algorithm &&
			other.TestLogin == site.TestLogin && other.TestUntil.Equal(site.TestUntil)
	}) {
		o.Sites = append(o.Sites, site)
	}
	if s.Token.Static == nil {
		o.addRing(s.Token.ring())
	} else {
		o.Static = append(o.Static, s.Token.Static)
	}
}

func (o *commandStore) addRing(own token.RingSettings) {
	for i := range o.Rings {
		if o.Rings[i].Algorithm == own.Algorithm {
			shareRing(&o.Rings[i], own)
			return
		}
	}
	o.Rings = append(o.Rings, own)
}

// open opens the store. A command creates no tables: run as the wrong user, or in the wrong
// place, it would otherwise report success on an empty database.
func (o *commandStore) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	err := o.Store.Open(ctx)
	if errors.Is(err, store.ErrNone) {
		err = remedied{err, o.howToCreate(), remedy.StoreUnusable}
	}
	if err == nil {
		// A command records no names: only a running configuration decides whose ids the store
		// holds.
		err = o.CheckNames(ctx, o.names)
	}
	o.Directory = o.Store.Users(true, o.Sessions)
	if o.External {
		o.Directory = o.ExternalUsers(user.Checked(&lateUsers{o, nil}), o.Sessions)
	}
	return withRemedy(err, o.directory)
}

func (o *commandStore) close() error {
	o.users()
	return o.db.Close()
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
		if err = errors.Join(err, o.close()); err != nil {
			return err
		}
	}
	return nil
}

// one opens the store that --store names, or the only one, and calls do with it.
func (c *configFlags) one(do func(context.Context, *commandStore) error) error {
	ctx, stop := untilInterrupted()
	defer stop()
	list, err := c.stores()
	if err != nil {
		return err
	}
	o, err := chosen(list, c.store)
	if err != nil {
		return err
	}
	if err = o.open(ctx); err == nil {
		err = do(ctx, o)
	}
	return errors.Join(err, o.close())
}

// chosen returns the store whose name contains which.
func chosen(list []*commandStore, which string) (*commandStore, error) {
	var names []string
	var found []*commandStore
	for _, o := range list {
		names = append(names, o.Name)
		if strings.Contains(o.Name, which) {
			found = append(found, o)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d of the configuration's stores match: choose one with --store <part of its name>:\n  %s", len(found), strings.Join(names, "\n  "))
	}
	return found[0], nil
}

// untilInterrupted returns a context that ends when the user interrupts the command.
func untilInterrupted() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

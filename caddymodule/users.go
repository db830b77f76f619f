package caddymodule

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// usersNamespace is the namespace of guest modules that are directories of users. Such a
// module implements user.Directory, and also caddyfile.Unmarshaler if it is to be used as
// `users <name> …`. [user.Checked] checks its answers. It may also implement [UsersOpener],
// [UsersHolder] and [UsersNamer].
const usersNamespace = "wx_auth.users"

// UsersOpener is a directory of users that checks at start whether it will work. An error that
// wraps user.ErrMisconfigured fails the configuration, and the former one stays. Any other
// error is only logged.
type UsersOpener interface {
	Open(ctx context.Context) error
}

// UsersHolder is a directory of users whose Cleanup closes something that a login in progress
// still needs: a login outlives the configuration in which it began. Hold keeps the directory
// open until release is called.
type UsersHolder interface {
	Hold() (release func())
}

// parseUsers reads the subdirective users, whose name is d's current token.
func (h *Handler) parseUsers(d *caddyfile.Dispenser) error {
	if !d.NextArg() || d.Val() == "" {
		return d.Errf("users: wrong number of arguments: write users %s …", strings.Join(knownUsers(), "|"))
	}
	source := d.Val()
	if !slices.Contains(knownUsers(), source) {
		return d.Errf("users: unknown directory %q: there are %s", source, strings.Join(knownUsers(), ", "))
	}
	module, err := caddyfile.UnmarshalModule(d, usersNamespace+"."+source)
	if err != nil {
		return err
	}
	h.UsersRaw = caddyconfig.JSONModuleObject(module, "source", source, nil)
	return nil
}

func knownUsers() (names []string) {
	for _, m := range caddy.GetModules(usersNamespace) {
		names = append(names, m.ID.Name())
	}
	slices.Sort(names)
	return names
}

// loadUsers loads the external directory. It returns nil if the users are in the store.
func (h *Handler) loadUsers(ctx caddy.Context) (user.Directory, error) {
	if h.UsersRaw == nil {
		return nil, nil
	}
	module, err := ctx.LoadModule(h, "UsersRaw")
	if err != nil {
		return nil, fmt.Errorf("loading the directory of users: %w", err)
	}
	d, ok := module.(user.Directory)
	if !ok {
		return nil, fmt.Errorf("users: the module %T is not a directory of users: it does not implement user.Directory", module)
	}
	return d, nil
}

// moduleUnmarshal reads the Caddyfile line and block of one of our guest modules, by the
// syntax s. resolve checks the settings.
func moduleUnmarshal(d *caddyfile.Dispenser, s subdirective, resolve func(lookup) error) error {
	p := newParser()
	if err := p.begin(d); err != nil {
		return err
	}
	if err := p.segment(d, s.name, 0, s); err != nil {
		return err
	}
	return p.locate(resolve(inCaddyfile))
}

// openUsers runs the external directory's own check, if it has one.
func (s *site) openUsers(ctx context.Context, limit time.Duration) error {
	o, ok := s.users.(UsersOpener)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return o.Open(ctx)
}

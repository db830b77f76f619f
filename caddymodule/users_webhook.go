package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/network"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/webhook"
)

// WebhookUsers is a directory of users behind your own backend, which gets a POST at each
// login and each refresh, signed as Standard Webhooks specifies.
type WebhookUsers struct {
	// The URL of the backend. https, unless the host is in your own network. May contain
	// placeholders.
	URL string `json:"url,omitempty"`

	// The secrets that sign, each "whsec_" and 24 to 64 bytes in base64. Write them as
	// placeholders. With several, each request has a signature by each, so that they can be
	// changed on one side at a time.
	Secrets []string `json:"secrets,omitempty"`

	// The name of this directory. A store belongs to one directory, and records its name: set
	// a name if the backend moves to another URL, or if two directories know the same people
	// by the same ids. May contain placeholders. Default: webhook and the URL without its
	// query
	Realm string `json:"realm,omitempty"`

	userDirectory
}

// userDirectory embeds a directory in a module. The name is not exported, so that the embedded
// field stays out of the configuration that Caddy shows.
type userDirectory = user.Directory

// CaddyModule returns the Caddy module information.
func (*WebhookUsers) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: usersNamespace + ".webhook", New: func() caddy.Module { return new(WebhookUsers) }}
}

// UnmarshalCaddyfile sets up the module. Syntax:
//
//	users webhook <url> {
//	    secret <whsec_...> [<old>...]
//	    realm  <name>
//	}
func (w *WebhookUsers) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return moduleUnmarshal(d, subdirective{
		name: "users webhook", usage: "<url> { secret <whsec_...> }", least: 1, most: 1, set: text(&w.URL),
		block: []subdirective{
			{name: "secret", usage: "<whsec_...> [<old>...]", least: 1, most: -1, set: list(&w.Secrets)},
			{name: "realm", usage: "<name>", least: 1, most: 1, set: text(&w.Realm)},
		},
	}, func(look lookup) error {
		_, err := w.resolve(look)
		if err == nil {
			_, err = w.directory(look)
		}
		return err
	})
}

// Provision sets up the directory. It only reads.
func (w *WebhookUsers) Provision(caddy.Context) error {
	d, err := w.resolve(atProvision)
	if err != nil {
		return err
	}
	d.Transport = acquireWebhooks()
	w.userDirectory = d
	return nil
}

// Cleanup releases the connections.
func (w *WebhookUsers) Cleanup() error {
	if w.userDirectory != nil {
		_, err := webhookPool.Delete(webhookKey)
		return err
	}
	return nil
}

// Hold implements [UsersHolder].
func (w *WebhookUsers) Hold() (release func()) {
	acquireWebhooks()
	return func() { _, _ = webhookPool.Delete(webhookKey) }
}

// ChangePhone implements [user.PhoneChanger].
func (w *WebhookUsers) ChangePhone(ctx context.Context, id string, to user.Phone) error {
	return user.ChangePhone(ctx, w.userDirectory, id, to)
}

// resolve returns the resolved settings, as far as look knows their values.
func (w *WebhookUsers) resolve(look lookup) (*webhook.Directory, error) {
	d := new(webhook.Directory)
	if w.URL == "" {
		return nil, misset("users webhook", errors.New("the URL of your backend is missing: write users webhook <url>"))
	}
	raw, known, err := look(w.URL, syntax{})
	if err == nil && known {
		d.URL, err = raw, checkWebhook(raw)
	}
	if err != nil {
		return nil, misset("users webhook", err)
	}
	if len(w.Secrets) == 0 {
		return nil, misset("users webhook", errors.New("the secret is missing, by which your backend knows who asks: "+
			"write secret {env.WX_USERS_SECRET} in its block, with whsec_ and what `openssl rand -base64 32` prints"))
	}
	for _, raw := range w.Secrets {
		text, known, err := look(raw, syntax{})
		if err == nil && known {
			var s webhook.Secret
			s, err = webhook.ParseSecret(text)
			if err == nil && slices.ContainsFunc(d.Secrets, s.Equal) {
				err = errors.New("a secret is given twice: keep one of them")
			}
			d.Secrets = append(d.Secrets, s)
		}
		if err != nil {
			return nil, misset("users webhook secret", err)
		}
	}
	return d, nil
}

// directory implements [namedDirectory]. The default name is the module and the URL without
// user, password and query.
func (w *WebhookUsers) directory(look lookup) (directoryName, error) {
	d, err := nameByURL("webhook", w.URL, w.Realm, look)
	d.find = d.detail
	return d, err
}

func checkWebhook(raw string) error {
	u, err := parseURL(raw)
	if err != nil {
		return err
	}
	if u.Scheme == "http" && !network.InternalHost(u.Hostname()) {
		return errors.New("over http phone numbers would travel in clear, and anybody on the way could answer: use https for a host that is not in your own network")
	}
	return nil
}

// webhookPool holds the connections to all backends, as one *webhookConnections.
var webhookPool = caddy.NewUsagePool()

const webhookKey = "webhook"

type webhookConnections struct{ *http.Transport }

// Destruct closes idle connections.
func (c webhookConnections) Destruct() error {
	c.CloseIdleConnections()
	return nil
}

func acquireWebhooks() http.RoundTripper {
	v, _, _ := webhookPool.LoadOrNew(webhookKey, func() (caddy.Destructor, error) { // the constructor returns no error
		return webhookConnections{webhook.NewTransport()}, nil
	})
	return v.(webhookConnections).Transport
}

// Interface guards
var (
	_ caddy.Provisioner     = (*WebhookUsers)(nil)
	_ caddy.CleanerUpper    = (*WebhookUsers)(nil)
	_ caddyfile.Unmarshaler = (*WebhookUsers)(nil)
	_ user.Directory        = (*WebhookUsers)(nil)
	_ user.PhoneChanger     = (*WebhookUsers)(nil)
	_ UsersHolder           = (*WebhookUsers)(nil)
)

package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/cli"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

func doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Checks an installation: configuration, store, clocks, WeChat, proxies, files, secrets",
		Long: `Checks an installation and writes one line for each check: what is wrong, and what to
do. The exit code is 0 if nothing is wrong, else 1. Lines that begin with "note" are
about what only you can judge.

  configuration  each wx_auth of the configuration, with its placeholders
  store          a write to the database
  clock          ours against the database's and WeChat's
  wechat         one call of stable_token for each app: whether WeChat can be reached,
                 and accepts the secret and this machine's address (IP whitelist). It
                 changes no access token
  users          whether an external directory is usable
  proxies        trusted_proxies of the servers
  file           the modes of files that hold secrets
  secret         secrets that stand in the configuration itself

Run it where Caddy runs, as its user and with its environment. No secret is written.`,
		Example: `  sudo -u caddy caddy wx-auth doctor --config /etc/caddy/Caddyfile --envfile /etc/caddy/wx.env`,
		Args:    cobra.NoArgs,
	}
	from := addConfigFlags(cmd).addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cmd.SilenceUsage = true
		ctx, stop := untilInterrupted()
		defer stop()
		var d cli.Doctor
		from.examine(ctx, &d)
		return d.Write(from.output(cmd))
	}
	return cmd
}

// examine makes all checks, also after one has failed.
func (c *configFlags) examine(ctx context.Context, d *cli.Doctor) {
	for _, path := range c.envfiles {
		d.SecretFile("the environment", path)
	}
	handlers, file, config, err := c.handlers()
	if err != nil {
		d.Configuration(file, err)
		return
	}
	var stores []*commandStore
	asked := make(map[string]bool)
	literals := 0
	for i, h := range handlers {
		subject := file
		if len(handlers) > 1 {
			subject = fmt.Sprintf("%s, wx_auth %d of %d", file, i+1, len(handlers))
		}
		literals += examineSecrets(d, h)
		whole, next := *h, stores
		set, err := whole.settings()
		if err == nil {
			next, err = addStore(stores, h)
		}
		d.Configuration(subject, err)
		if err != nil {
			continue
		}
		stores = next
		for _, app := range set.Apps {
			// Sites with the same app, secret and hosts share one check.
			key := fmt.Sprintf("%q", []string{app.ID, app.Secret, set.WeChat.AccessToken, set.WeChat.External, set.WeChat.nameOf(app.ID)})
			if asked[key] {
				continue
			}
			asked[key] = true
			examineWeChat(ctx, d, set.WeChat, app)
		}
	}
	if literals == 0 {
		d.NoLiterals()
	}
	for _, o := range stores {
		o.examine(ctx, d)
	}
	examineProxies(d, config)
}

func examineWeChat(ctx context.Context, d *cli.Doctor, set wechatSettings, app wechat.App) {
	client := set.client()
	if set.AccessToken == accessExternal {
		client.Tokens = set.tokens()
		d.ExternalToken(ctx, client, app)
		return
	}
	d.WeChat(ctx, client, app, time.Now)
}

func (o *commandStore) examine(ctx context.Context, d *cli.Doctor) {
	err := o.open(ctx)
	now := time.Now()
	d.Store(ctx, &o.Store, err, o.clock.Database(now).Sub(now))
	if err == nil && o.External {
		d.Users(o.directory.name, o.checkUsers(ctx))
	}
	if path, ok := strings.CutPrefix(o.key.url, "sqlite:"); ok {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			d.SecretFile("the database", path+suffix)
		}
		d.SecretFile("the encryption key", o.db.KeyFile())
	}
	if err := o.close(); err != nil {
		d.Store(ctx, &o.Store, err, 0)
	}
}

// checkUsers runs the external directory's own check, Open.
func (o *commandStore) checkUsers(ctx context.Context) error {
	late := &lateUsers{o, nil}
	if err := late.load(); err != nil {
		return err
	}
	opener, ok := late.Directory.(UsersOpener)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	return opener.Open(ctx)
}

// secretNames are the members of a directive's JSON that hold secrets.
var secretNames = []string{"secret", "secrets", "encryption_keys", "encoding_aes_key", "key", "service_key"}

// examineSecrets reports secrets that are written in the configuration itself, and checks the
// files that hold the others. It returns the number of secrets found.
func examineSecrets(d *cli.Doctor, h *Handler) (found int) {
	var node any
	text, err := json.Marshal(h)
	if err != nil || json.Unmarshal(text, &node) != nil {
		return 0
	}
	files := make(map[string]bool)
	var walk func(path string, secret bool, node any)
	walk = func(path string, secret bool, node any) {
		switch node := node.(type) {
		case []any:
			for _, child := range node {
				walk(path, secret, child)
			}
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(node)) {
				inPush := strings.HasSuffix(path, " push") && name == "token"
				walk(path+" "+name, slices.Contains(secretNames, name) || inPush, node[name])
			}
		case string:
			for _, at := range placeholder.FindAllString(node, -1) {
				if file, ok := strings.CutPrefix(strings.Trim(at, "{}"), "file."); ok && !files[file] {
					files[file] = true
					d.SecretFile("the file in"+path, file)
				}
			}
			if secret && isLiteral(node) || strings.Contains(node, "://") && isLiteral(passwordOf(node)) {
				found++
				d.Literal(strings.TrimSpace(path))
			}
		}
	}
	walk("", false, node)
	return found
}

// passwordOf returns the password in a URL.
func passwordOf(raw string) string {
	u, err := url.Parse(placeholder.ReplaceAllString(raw, ""))
	if err != nil || u.User == nil {
		return ""
	}
	password, _ := u.User.Password()
	return password
}

// isLiteral reports whether a secret is written out in the configuration. Caddy replaces
// {$NAME} while it reads a Caddyfile, so a value (or a URL's password) that equals an
// environment variable is taken to come from there.
func isLiteral(value string) bool {
	if value == "" || placeholder.MatchString(value) {
		return false
	}
	return !slices.ContainsFunc(os.Environ(), func(variable string) bool {
		_, set, _ := strings.Cut(variable, "=")
		return set == value || strings.Contains(set, "://") && strings.Contains(set, value)
	})
}

// examineProxies checks the servers that have a wx_auth.
func examineProxies(d *cli.Doctor, config []byte) {
	var c struct {
		Apps struct {
			HTTP struct {
				Servers map[string]json.RawMessage `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	_ = json.Unmarshal(config, &c) // no error is possible: this JSON was parsed before
	for _, name := range slices.Sorted(maps.Keys(c.Apps.HTTP.Servers)) {
		var server struct {
			Proxies *struct {
				Ranges []string `json:"ranges"`
			} `json:"trusted_proxies"`
			Strict int  `json:"trusted_proxies_strict"`
			Unix   bool `json:"trusted_proxies_unix"`
		}
		raw := c.Apps.HTTP.Servers[name]
		if found, err := directives(raw); err != nil || len(found) == 0 || json.Unmarshal(raw, &server) != nil {
			continue
		}
		p := cli.Proxies{Server: name, Trusted: server.Proxies != nil || server.Unix, Strict: server.Strict > 0}
		if server.Proxies != nil {
			p.Ranges = server.Proxies.Ranges
		}
		d.Proxies(p)
	}
}

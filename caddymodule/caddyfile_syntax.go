package caddymodule

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// directive reads the whole directive, whose name is d's next token.
func (p *parser) directive(d *caddyfile.Dispenser) error {
	if !d.Next() {
		return d.EOFErr()
	}
	start := *d
	p.start = &start
	switch args := d.RemainingArgs(); len(args) {
	case 0:
	case 2:
		p.h.Apps = append(p.h.Apps, App{ID: args[0], Secret: args[1]})
	default:
		return d.Errf("wx_auth takes an appid and its secret, or neither: write wx_auth [<matcher>] [<appid> <secret>]; " +
			"if one of them was written {$NAME}, that variable may have been empty when the Caddyfile was read")
	}
	return p.block(d, "wx_auth", 0, p.subdirectives())
}

// subdirectives is the syntax of the directive's block.
func (p *parser) subdirectives() []subdirective {
	h := p.h
	return []subdirective{
		p.appBlock(),
		{name: "endpoints", usage: "<path>", least: 1, most: 1, set: text(&h.Endpoints)},
		{
			name: "public", usage: "[<METHOD>...] <path>...", least: 1, most: -1,
			count: func() int { return len(h.Public) },
			set: func(args []string) error {
				h.Public = append(h.Public, rule(args))
				return nil
			},
		},
		{
			name: "optional", usage: "<path>...", least: 1, most: -1,
			count: func() int { return len(h.Optional) },
			set: func(args []string) error {
				h.Optional = append(h.Optional, args...)
				return nil
			},
		},
		{
			name: "store", usage: "<url>", least: 1, most: 1,
			set: func(args []string) error {
				h.Store = new(Store)
				return text(&h.Store.URL)(args)
			},
			block: []subdirective{
				{name: "migrate", usage: "on|off", least: 1, most: 1, set: func(args []string) error { return onOff(&h.Store.Migrate)(args) }},
				{name: "table_prefix", usage: "<prefix>", least: 1, most: 1, set: func(args []string) error { return text(&h.Store.TablePrefix)(args) }},
			},
		},
		{name: "encryption_key", usage: "<new> [<old>...]", least: 1, most: -1, set: list(&h.EncryptionKeys)},
		{name: "users", usage: "webhook|sql <url>", parse: p.parseUsers},
		{name: "register", usage: "on|off", least: 1, most: 1, set: onOff(&h.Register)},
		{name: "countries", usage: "<calling code>...", least: 1, most: -1, set: list(&h.Countries)},
		{name: "silent_login", usage: "off|<max age>", least: 1, most: 1, set: h.setSilentLogin},
		{name: "on_new_openid", usage: "replace|keep|deny", least: 1, most: 1, set: text(&h.OnNewOpenID)},
		p.tokenBlock(),
		p.sessionBlock(),
		{
			name: "identity", usage: "<header> <field>", least: 2, most: 2,
			count: func() int { return len(h.Identity) },
			set: func(args []string) error {
				h.Identity = append(h.Identity, Identity{Header: args[0], Field: args[1]})
				return nil
			},
		},
		{
			name: "credential", usage: "cookie|query|websocket_protocol [<name>]", least: 1, most: 2,
			count: func() int { return len(h.Credentials) },
			set: func(args []string) error {
				c := Credential{Source: args[0]}
				if len(args) == 2 {
					if c.Name = args[1]; c.Name == "" {
						return errEmpty
					}
				}
				h.Credentials = append(h.Credentials, c)
				return nil
			},
		},
		{name: "forward_token", set: func([]string) error {
			h.ForwardToken = true
			return nil
		}},
		{name: "login_rate", usage: "<number>/s|m|h|d", least: 1, most: 1, set: func(args []string) (err error) {
			h.LoginRate, err = parseRate(args[0])
			return err
		}},
		{name: "service_key", usage: "<secret>", least: 1, most: 1, set: text(&h.ServiceKey)},
		p.wechatBlock(),
	}
}

// appBlock may be given again: what is in it belongs to the last app.
func (p *parser) appBlock() subdirective {
	h := p.h
	last := func() *App { return &h.Apps[len(h.Apps)-1] }
	return subdirective{
		name: "app", usage: "<appid> <secret>", least: 2, most: 2,
		count: func() int { return len(h.Apps) },
		set: func(args []string) error {
			h.Apps = append(h.Apps, App{ID: args[0], Secret: args[1]})
			return nil
		},
		block: []subdirective{
			{name: "api", usage: "<url>...", least: 1, most: -1, set: func(args []string) error { return list(&last().API)(args) }},
			{name: "push", usage: "<token> <EncodingAESKey>", least: 2, most: 2, set: func(args []string) error {
				if args[0] == "" || args[1] == "" {
					return errEmpty
				}
				last().Push = &Push{Token: args[0], EncodingAESKey: args[1]}
				return nil
			}},
		},
	}
}

func (p *parser) tokenBlock() subdirective {
	t := new(Token)
	return subdirective{
		name: "token", usage: "{ … }, with its settings in the block",
		set: func([]string) error {
			p.h.Token = t
			return nil
		},
		block: []subdirective{
			{name: "issuer", usage: "<name>", least: 1, most: 1, set: text(&t.Issuer)},
			{name: "audience", usage: "<name>...", least: 1, most: -1, set: list(&t.Audience)},
			{name: "algorithm", usage: "ES256|EdDSA|RS256|HS256", least: 1, most: 1, set: text(&t.Algorithm)},
			{name: "key", usage: "<PEM, JWK or HS256 secret>", least: 1, most: 1, set: text(&t.Key)},
			{name: "rotate", usage: "<duration>", least: 1, most: 1, set: duration(&t.Rotate)},
			{name: "lifetime", usage: "<duration>", least: 1, most: 1, set: duration(&t.Lifetime)},
			{name: "leeway", usage: "<duration>", least: 1, most: 1, set: durationOrZero(&t.Leeway)},
			{name: "type", usage: "at+jwt|JWT", least: 1, most: 1, set: text(&t.Type)},
			{name: "claims", usage: "<name>...", least: 1, most: -1, set: list(&t.Claims)},
		},
	}
}

func (p *parser) sessionBlock() subdirective {
	s := new(Session)
	return subdirective{
		name: "session", usage: "{ … }, with its settings in the block",
		set: func([]string) error {
			p.h.Session = s
			return nil
		},
		block: []subdirective{
			{name: "idle", usage: "<duration>", least: 1, most: 1, set: duration(&s.Idle)},
			{name: "lifetime", usage: "<duration>", least: 1, most: 1, set: duration(&s.Lifetime)},
			{name: "grace", usage: "<duration>", least: 1, most: 1, set: duration(&s.Grace)},
			{name: "max", usage: "<number>", least: 1, most: 1, set: sessions(&s.Max)},
		},
	}
}

func (p *parser) wechatBlock() subdirective {
	w := new(WeChat)
	return subdirective{
		name: "wechat", usage: "{ … }, with its settings in the block",
		set: func([]string) error {
			p.h.WeChat = w
			return nil
		},
		block: []subdirective{
			{name: "api", usage: "<url>...", least: 1, most: -1, set: list(&w.API)},
			{name: "realm", usage: "<name>", least: 1, most: 1, set: text(&w.Realm)},
			{name: "access_token", usage: "stable|classic|external <url>", least: 1, most: 2, set: func(args []string) error {
				w.AccessToken = args[0]
				if len(args) == 2 {
					w.AccessTokenURL = args[1]
				}
				if args[0] == "" || (len(args) == 2 && args[1] == "") {
					return errEmpty
				}
				return nil
			}},
			{name: "send_openid", usage: "on|off", least: 1, most: 1, set: onOff(&w.SendOpenID)},
			{name: "timeout", usage: "<duration>", least: 1, most: 1, set: duration(&w.Timeout)},
		},
	}
}

var errEmpty = errors.New("the value is empty: write one, or leave the line out for the default")

// rule tells methods from the paths that follow them.
func rule(args []string) Rule {
	for i, a := range args {
		if a == "" || a[0] == '/' || a[0] == '*' {
			return Rule{Methods: args[:i:i], Paths: args[i:]}
		}
	}
	return Rule{Methods: args}
}

func (h *Handler) setSilentLogin(args []string) error {
	if args[0] == "off" {
		h.SilentLogin = &SilentLogin{Off: true}
		return nil
	}
	age, err := parseDuration(args[0])
	if err != nil {
		return fmt.Errorf("%w (or: silent_login off)", err)
	}
	h.SilentLogin = &SilentLogin{MaxAge: caddy.Duration(age)}
	return nil
}

package caddymodule

import (
	"reflect"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// parseCaddyfile sets up the handler from the directive. The syntax, whose table is
// [Handler.syntax]:
//
//	wx_auth [<matcher>] [<appid> <secret>] {
//	    app            <appid> <secret> {
//	        api  <url>...
//	        push <token> <EncodingAESKey> {
//	            on_phone_revoked detach|erase
//	        }
//	    }
//	    endpoints      <path>
//	    public         [<method>...] <path>...
//	    optional       <path>...
//	    require        <path>... <field> <value>...
//	    store          <url> {
//	        migrate      on|off
//	        table_prefix <prefix>
//	    }
//	    encryption_key <new> [<old>...]
//	    users          webhook <url> {
//	        secret       <whsec_...> [<old>...]
//	        realm        <name>
//	    }
//	    users          sql <url> {
//	        find         <query>
//	        create       <query>
//	        check        <query>
//	        erase        <query>
//	        phone        <query>
//	        realm        <name>
//	    }
//	    register       on|off
//	    countries      <calling code>...
//	    silent_login   off|<max age>
//	    on_new_openid  replace|keep|deny
//	    test_login     <secret> <phone> until <date>
//	    token {
//	        issuer    <name>
//	        audience  <name>...
//	        algorithm ES256|EdDSA|RS256|HS256
//	        key       <PEM, JWK or HS256 secret>
//	        rotate    <duration>
//	        lifetime  <duration>
//	        leeway    <duration>
//	        type      at+jwt|JWT
//	        claims    <name>...
//	    }
//	    session {
//	        idle     <duration>
//	        lifetime <duration>
//	        grace    <duration>
//	        max      <number>
//	    }
//	    identity       <header> <field>
//	    credential     cookie|query [<name>]
//	    credential     websocket_protocol
//	    forward_token
//	    pass_header    <name>...
//	    login_rate     <number>/s|m|h|d
//	    service_key    <secret>
//	    wechat {
//	        api          <url>...
//	        realm        <name>
//	        access_token stable|classic|external <url>
//	        send_openid  on|off
//	        timeout      <duration>
//	    }
//	}
//
// app, public, optional, require, identity and credential may be repeated.
func parseCaddyfile(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	if err := oneOnEachRoute(h); err != nil {
		return nil, err
	}
	// The matcher says what to protect. The route itself gets no matcher, because endpoints
	// are served and identity headers removed on every request.
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, h.WrapErr(err)
	}
	handler := &Handler{MatcherRaw: matcher}
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return h.NewRoute(nil, handler), nil
}

// UnmarshalCaddyfile sets up the handler from the tokens of the directive,
// without a matcher. See [parseCaddyfile] for the syntax.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	p := newParser()
	if err := h.directive(p, d); err != nil {
		return err
	}
	_, err := resolve(h, inCaddyfile)
	return p.locate(err)
}

// directive reads the whole directive, whose name is d's next token.
func (h *Handler) directive(p *parser, d *caddyfile.Dispenser) error {
	if err := p.begin(d); err != nil {
		return err
	}
	switch args := d.RemainingArgs(); len(args) {
	case 0:
	case 2:
		h.Apps = append(h.Apps, App{ID: args[0], Secret: args[1]})
	default:
		return d.Errf("wx_auth takes an appid and its secret, or neither: write wx_auth [<matcher>] [<appid> <secret>]; " +
			"if one of them was written {$NAME}, that variable may have been empty when the Caddyfile was read")
	}
	return p.block(d, "wx_auth", 0, h.syntax())
}

// syntax is the table of the directive's subdirectives.
func (h *Handler) syntax() []subdirective {
	return []subdirective{
		h.appSyntax(),
		one("endpoints", "<path>", text(&h.Endpoints)),
		many("public", "[<METHOD>...] <path>...", func(args []string) error {
			h.Public = append(h.Public, rule(args))
			return nil
		}).repeated(func() int { return len(h.Public) }),
		many("optional", "<path>...", func(args []string) error {
			h.Optional = append(h.Optional, args...)
			return nil
		}).repeated(func() int { return len(h.Optional) }),
		many("require", "<path>... claims.<name>|appid|phone_within <value>...", func(args []string) error {
			h.Require = append(h.Require, requirement(args))
			return nil
		}).repeated(func() int { return len(h.Require) }),
		h.storeSyntax(),
		many("encryption_key", "<new> [<old>...]", list(&h.EncryptionKeys)),
		{name: "users", usage: "webhook|sql <url>", parse: h.parseUsers},
		one("register", "on|off", onOff(&h.Register)),
		many("countries", "<calling code>...", list(&h.Countries)),
		one("silent_login", "off|<max age>", silentLogin(&h.SilentLogin)),
		one("on_new_openid", "replace|keep|deny", text(&h.OnNewOpenID)),
		{name: "test_login", usage: "<secret> <phone> until <date>", least: 4, most: 4, set: testLogin(&h.TestLogin)},
		h.tokenSyntax(),
		h.sessionSyntax(),
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
			set:   h.addCredential,
		},
		{name: "forward_token", set: func([]string) error {
			h.ForwardToken = true
			return nil
		}},
		many("pass_header", "<name>...", list(&h.PassHeaders)),
		one("login_rate", "<number>/s|m|h|d", rate(&h.LoginRate)),
		one("service_key", "<secret>", text(&h.ServiceKey)),
		h.wechatSyntax(),
	}
}

func (h *Handler) addCredential(args []string) error {
	c := Credential{Source: args[0]}
	if len(args) == 2 {
		if c.Name = args[1]; c.Name == "" {
			return errEmpty
		}
	}
	h.Credentials = append(h.Credentials, c)
	return nil
}

// appSyntax is the subdirective app. It may be repeated: a block belongs to the app before it.
func (h *Handler) appSyntax() subdirective {
	last := func() *App { return &h.Apps[len(h.Apps)-1] }
	return subdirective{
		name: "app", usage: "<appid> <secret>", least: 2, most: 2,
		count: func() int { return len(h.Apps) },
		set: func(args []string) error {
			h.Apps = append(h.Apps, App{ID: args[0], Secret: args[1]})
			return nil
		},
		block: []subdirective{
			many("api", "<url>...", func(args []string) error { return list(&last().API)(args) }),
			{name: "push", usage: "<token> <EncodingAESKey>", least: 2, most: 2, set: func(args []string) error {
				if args[0] == "" || args[1] == "" {
					return errEmpty
				}
				last().Push = &Push{Token: args[0], EncodingAESKey: args[1]}
				return nil
			}, block: []subdirective{
				one("on_phone_revoked", "detach|erase", func(args []string) error { return text(&last().Push.OnPhoneRevoked)(args) }),
			}},
		},
	}
}

func (h *Handler) storeSyntax() subdirective {
	s := new(Store)
	syntax := one("store", "<url>", func(args []string) error {
		h.Store = s
		return text(&s.URL)(args)
	})
	syntax.block = []subdirective{
		one("migrate", "on|off", onOff(&s.Migrate)),
		one("table_prefix", "<prefix>", text(&s.TablePrefix)),
	}
	return syntax
}

func (h *Handler) tokenSyntax() subdirective {
	t := new(Token)
	return block("token", &h.Token, t,
		one("issuer", "<name>", text(&t.Issuer)),
		many("audience", "<name>...", list(&t.Audience)),
		one("algorithm", "ES256|EdDSA|RS256|HS256", text(&t.Algorithm)),
		one("key", "<PEM, JWK or HS256 secret>", text(&t.Key)),
		one("rotate", "<duration>", duration(&t.Rotate)),
		one("lifetime", "<duration>", duration(&t.Lifetime)),
		one("leeway", "<duration>", durationOrZero(&t.Leeway)),
		one("type", "at+jwt|JWT", text(&t.Type)),
		many("claims", "<name>...", list(&t.Claims)),
	)
}

func (h *Handler) sessionSyntax() subdirective {
	s := new(Session)
	return block("session", &h.Session, s,
		one("idle", "<duration>", duration(&s.Idle)),
		one("lifetime", "<duration>", duration(&s.Lifetime)),
		one("grace", "<duration>", duration(&s.Grace)),
		one("max", "<number>", sessions(&s.Max)),
	)
}

func (h *Handler) wechatSyntax() subdirective {
	w := new(WeChat)
	return block("wechat", &h.WeChat, w,
		many("api", "<url>...", list(&w.API)),
		one("realm", "<name>", text(&w.Realm)),
		subdirective{name: "access_token", usage: "stable|classic|external <url>", least: 1, most: 2, set: func(args []string) error {
			w.AccessToken = args[0]
			if len(args) == 2 {
				w.AccessTokenURL = args[1]
			}
			if args[0] == "" || (len(args) == 2 && args[1] == "") {
				return errEmpty
			}
			return nil
		}},
		one("send_openid", "on|off", onOff(&w.SendOpenID)),
		one("timeout", "<duration>", duration(&w.Timeout)),
	)
}

// Under these keys it is recorded where a wx_auth was seen while a Caddyfile is adapted.
const (
	seenKey   = "wx_auth.seen"   // in the block state: a wx_auth in this block or in one around it
	nestedKey = "wx_auth.nested" // in the state: a wx_auth in a block inside the site
)

// oneOnEachRoute refuses a second wx_auth that requests would reach after the first. It does
// not see a second one on another route or in hand-written JSON: ServeHTTP refuses the request
// that reaches it.
func oneOnEachRoute(h httpcaddyfile.Helper) error {
	site := siteOf(h)
	if site == 0 {
		return nil
	}
	nested := reflect.ValueOf(h.BlockState).Pointer() != reflect.ValueOf(h.State).Pointer()
	if h.BlockState[seenKey] == site || (!nested && h.State[nestedKey] == site) {
		return h.Err("wx_auth appears twice on the same route: the second would strip the identity headers set by the first; keep one of them, " +
			"give it every app with `app`, and say what needs a token by its matcher, `public` and `optional`")
	}
	h.BlockState[seenKey] = site
	if nested {
		h.State[nestedKey] = site
	}
	return nil
}

// siteOf returns the address of a Caddyfile site's state, which identifies the site, or zero
// if it cannot be read. Caddy shares the state of a site's outermost block with all other
// sites, each of which may have its own wx_auth, and has no public name for the site.
func siteOf(h httpcaddyfile.Helper) uintptr {
	block := reflect.ValueOf(h).FieldByName("parentBlock")
	if !block.IsValid() {
		return 0
	}
	segments := block.FieldByName("Segments")
	if !segments.IsValid() || segments.Kind() != reflect.Slice {
		return 0
	}
	return segments.Pointer()
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)

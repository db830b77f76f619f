package caddymodule

import (
	"errors"
	"reflect"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// parseCaddyfile sets up the handler from the directive. Syntax:
//
//	wx_auth [<matcher>] [<appid> <secret>] {
//	    app            <appid> <secret> {
//	        api  <url>...
//	        push <token> <EncodingAESKey>
//	    }
//	    endpoints      <path>
//	    public         [<method>...] <path>...
//	    optional       <path>...
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
//	        realm        <name>
//	    }
//	    register       on|off
//	    countries      <calling code>...
//	    silent_login   off|<max age>
//	    on_new_openid  replace|keep|deny
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
// app, public, optional, identity and credential may be given more than once.
func parseCaddyfile(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	if err := oneOnEachWay(h); err != nil {
		return nil, err
	}
	// The matcher says what to protect. The route itself has none, as endpoints
	// are served and headers removed on every request.
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
	p := parser{h: h, marks: make(map[place]*caddyfile.Dispenser)}
	if err := p.directive(d); err != nil {
		return err
	}
	_, err := resolve(h, inCaddyfile)
	var se *settingError
	if errors.As(err, &se) {
		return p.mark(se.place).WrapErr(err)
	}
	return err
}

// Where a wx_auth was seen while a Caddyfile is adapted.
const (
	seenKey   = "wx_auth.seen"   // in the block state: in this block or around it
	nestedKey = "wx_auth.nested" // in the state: in a block inside the site
)

// oneOnEachWay refuses a second wx_auth that requests would reach after the
// first. Others, reached by another way or by hand-written JSON, are found when
// a request comes.
func oneOnEachWay(h httpcaddyfile.Helper) error {
	site := siteOf(h)
	if site == 0 {
		return nil
	}
	nested := reflect.ValueOf(h.BlockState).Pointer() != reflect.ValueOf(h.State).Pointer()
	if h.BlockState[seenKey] == site || (!nested && h.State[nestedKey] == site) {
		return h.Err("a second wx_auth on one way: each would remove what the other has set; keep one of them, " +
			"give it every app with `app`, and say what needs a token by its matcher, `public` and `optional`")
	}
	h.BlockState[seenKey] = site
	if nested {
		h.State[nestedKey] = site
	}
	return nil
}

// siteOf tells one site of a Caddyfile from another; zero if it cannot. Caddy
// shares the state of a site's outermost block with all other sites, in each of
// which a wx_auth is right, and has no public name for the site.
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

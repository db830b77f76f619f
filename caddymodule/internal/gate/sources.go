package gate

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Sources are the places besides Authorization that may hold a token. Each is off
// unless it is named. They are for clients that cannot set a header: pages that a
// browser navigates to, and WebSockets that it opens.
type Sources struct {
	Cookie            string // the name of a cookie
	Query             string // the name of a query parameter; only for upgrade requests
	WebSocketProtocol bool   // "Sec-WebSocket-Protocol: bearer, <token>"; only for upgrade requests
}

// The names that are used if none is configured.
const (
	DefaultCookie = "__Host-wx-auth"
	DefaultQuery  = "access_token" // RFC 6750, section 2.3
)

// hostPrefix makes browsers refuse the cookie if another host sets it, or if it is not
// Secure, or limited to a part of the paths (RFC 6265bis, section 4.1.3.2). Without it,
// a sibling domain could log a visitor in as somebody else.
const hostPrefix = "__Host-"

// ParseSource adds the source that the arguments of credential name. Its error shows
// the correct form.
func (s *Sources) ParseSource(kind, name string) error {
	switch kind {
	case "cookie":
		if s.Cookie != "" {
			return errors.New("cookie is given twice: keep one of them")
		}
		if name == "" {
			name = DefaultCookie
		}
		if err := checkCookieName(name); err != nil {
			return err
		}
		s.Cookie = name
	case "query":
		if s.Query != "" {
			return errors.New("query is given twice: keep one of them")
		}
		if name == "" {
			name = DefaultQuery
		}
		if !isPlain(name) {
			return fmt.Errorf("query %q can be written in more than one way: use letters, digits, - and _, such as %s", name, DefaultQuery)
		}
		s.Query = name
	case "websocket_protocol":
		if s.WebSocketProtocol {
			return errors.New("websocket_protocol is given twice: keep one of them")
		}
		if name != "" {
			return errors.New("websocket_protocol takes no name: clients send \"Sec-WebSocket-Protocol: bearer, <token>\"")
		}
		s.WebSocketProtocol = true
	default:
		return fmt.Errorf("unknown source %q: use cookie [<name>], query [<name>] or websocket_protocol; Authorization is always one", kind)
	}
	return nil
}

func checkCookieName(name string) error {
	rest, ok := strings.CutPrefix(name, hostPrefix)
	if !ok {
		return fmt.Errorf("cookie %q could be set by sibling domains and sent without TLS: begin its name with %s, such as %s",
			name, hostPrefix, DefaultCookie)
	}
	if !isPlain(rest) {
		return fmt.Errorf("cookie %q: after %s use letters, digits, - and _", name, hostPrefix)
	}
	return nil
}

// isPlain reports whether s has only characters that no program escapes, cuts or
// renames.
func isPlain(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return s != ""
}

// source is a place that may hold a token.
type source byte

const (
	fromHeader source = iota // Authorization
	fromCookie
	fromQuery
	fromProtocol
)

// presented is a credential of a request, with its source.
type presented struct {
	Credential
	from source
}

// presented appends the credentials in Authorization, and in the sources that are on.
// Sources for upgrade requests are read only if upgrade is set.
func (g *Gate) presented(list []presented, r *http.Request, upgrade bool) []presented {
	if cred := ParseCredential(r.Header); cred.Kind != None {
		list = append(list, presented{cred, fromHeader})
	}
	if g.sources == (Sources{}) {
		return list
	}
	if g.sources.Cookie != "" {
		list = cookieTokens(list, r.Header["Cookie"], g.sources.Cookie)
	}
	if upgrade && IsWebSocket(r) {
		if g.sources.Query != "" {
			list = queryTokens(list, r.URL.RawQuery, g.sources.Query)
		}
		if g.sources.WebSocketProtocol {
			list = protocolTokens(list, r.Header["Sec-Websocket-Protocol"])
		}
	}
	return list
}

// IsWebSocket reports whether a request opens a WebSocket: over HTTP/1.1 (RFC
// 6455, section 4.1), or by the extended CONNECT of HTTP/2 and HTTP/3 (RFC 8441,
// RFC 9220).
func IsWebSocket(r *http.Request) bool {
	if r.Method == http.MethodConnect {
		protocol := r.Header[":protocol"] // net/http stores it there; HTTP/3 stores it in Proto
		return (len(protocol) == 1 && protocol[0] == "websocket") || (r.ProtoMajor == 3 && r.Proto == "websocket")
	}
	if r.ProtoMajor != 1 || r.Method != http.MethodGet {
		return false
	}
	upgrade := r.Header["Upgrade"]
	return len(upgrade) == 1 && strings.EqualFold(upgrade[0], "websocket") && hasElement(r.Header["Connection"], "upgrade")
}

func hasElement(lines []string, want string) bool {
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.Trim(element, " \t"), want) {
				return true
			}
		}
	}
	return false
}

func cookieTokens(list []presented, lines []string, name string) []presented {
	for _, line := range lines {
		for pair := range strings.SplitSeq(line, ";") {
			if value, ok := ownCookie(pair, name); ok && value != "" {
				list = append(list, presented{Credential{Kind: Bearer, Token: value}, fromCookie})
			}
		}
	}
	return list
}

// ownCookie returns the value of a cookie pair, and whether the pair has that name.
// Servers trim blanks around both.
func ownCookie(pair, name string) (string, bool) {
	key, value, _ := strings.Cut(pair, "=")
	return strings.Trim(value, " \t"), strings.Trim(key, " \t") == name
}

// dropCookie removes the cookies of that name and keeps every other byte.
func dropCookie(h http.Header, name string) {
	var lines []string
	for _, line := range h["Cookie"] {
		var kept []string
		pairs := strings.Split(line, ";")
		for _, pair := range pairs {
			if _, ours := ownCookie(pair, name); !ours {
				kept = append(kept, pair)
			}
		}
		switch {
		case len(kept) == len(pairs):
			lines = append(lines, line)
		case len(kept) > 0:
			lines = append(lines, strings.TrimLeft(strings.Join(kept, ";"), " \t"))
		}
	}
	if len(lines) == 0 {
		delete(h, "Cookie")
		return
	}
	h["Cookie"] = lines
}

func queryTokens(list []presented, query, name string) []presented {
	for pair := range strings.SplitSeq(query, "&") {
		value, ok := ownParameter(pair, name)
		if !ok || value == "" {
			continue
		}
		token, err := url.QueryUnescape(value)
		list = append(list, presented{Credential{Kind: Bearer, Token: token, Malformed: err != nil}, fromQuery})
	}
	return list
}

// ownParameter returns the value of a query parameter as it is written, and whether the
// parameter has that name in any encoding.
func ownParameter(pair, name string) (string, bool) {
	key, value, _ := strings.Cut(pair, "=")
	key, err := url.QueryUnescape(key)
	return value, err == nil && key == name
}

// dropParameter removes the query parameters of that name and keeps every other byte.
// It changes the URL in place, as the headers are changed.
func dropParameter(r *http.Request, name string) {
	var kept []string
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		if _, ours := ownParameter(pair, name); !ours {
			kept = append(kept, pair)
		}
	}
	r.URL.RawQuery = strings.Join(kept, "&")
	r.RequestURI = r.URL.RequestURI()
}

// bearerProtocol is the sub-protocol that announces that the next one is a token.
const bearerProtocol = "bearer"

func protocolTokens(list []presented, lines []string) []presented {
	names := protocols(lines)
	for i := 0; i < len(names); i++ {
		if !strings.EqualFold(names[i], bearerProtocol) {
			continue
		}
		cred := Credential{Kind: Bearer, Malformed: true} // no token follows
		if i+1 < len(names) {
			i++
			cred = Credential{Kind: Bearer, Token: names[i]}
		}
		list = append(list, presented{cred, fromProtocol})
	}
	return list
}

func protocols(lines []string) []string {
	var names []string
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.Trim(name, " \t"); name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// dropProtocol removes "bearer" and the token after it from the sub-protocols.
func dropProtocol(h http.Header) {
	names := protocols(h["Sec-Websocket-Protocol"])
	var kept []string
	for i := 0; i < len(names); i++ {
		if strings.EqualFold(names[i], bearerProtocol) {
			i++
			continue
		}
		kept = append(kept, names[i])
	}
	if len(kept) == 0 {
		delete(h, "Sec-Websocket-Protocol")
		return
	}
	h["Sec-Websocket-Protocol"] = []string{strings.Join(kept, ", ")}
}

// drop removes the credential of a source from a request that proceeds.
func (g *Gate) drop(r *http.Request, from source) {
	switch from {
	case fromHeader:
		delete(r.Header, "Authorization")
	case fromCookie:
		dropCookie(r.Header, g.sources.Cookie)
	case fromQuery:
		dropParameter(r, g.sources.Query)
	case fromProtocol:
		dropProtocol(r.Header)
	}
}

// DropEcho removes from an answer two sub-protocols that are none: the word "bearer" and the
// token, neither of which the upstream was offered. A client takes the sub-protocol in an
// answer for the one to speak.
func (g *Gate) DropEcho(answer http.Header) {
	if !g.sources.WebSocketProtocol {
		return
	}
	for name, lines := range answer { // Caddy's proxy spells the name as RFC 6455 does
		if !strings.EqualFold(name, "Sec-Websocket-Protocol") {
			continue
		}
		var kept []string
		for _, p := range protocols(lines) {
			if !strings.EqualFold(p, bearerProtocol) && !g.tokens.Ours(p) {
				kept = append(kept, p)
			}
		}
		if len(kept) == 0 {
			delete(answer, name)
		} else if len(kept) < len(protocols(lines)) {
			answer[name] = []string{strings.Join(kept, ", ")}
		}
	}
}

// mayBeForged reports whether a page of another site could have made the browser send a
// request with our cookie. SameSite=Lax leaves gaps: navigations by GET, old browsers, in some
// browsers the first two minutes of a cookie, and WebSockets, which a page of another origin
// may open without asking. Such a request, and every request that may change something, must
// come from this site. The browser says so in Sec-Fetch-Site; a browser without it sends our
// own Origin.
func mayBeForged(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		if len(r.Header["Upgrade"]) == 0 && len(r.Header["Sec-Websocket-Key"]) == 0 {
			return false
		}
	}
	if site, ok := r.Header["Sec-Fetch-Site"]; ok {
		return len(site) != 1 || (site[0] != "same-origin" && site[0] != "same-site")
	}
	origin := r.Header["Origin"]
	return len(origin) != 1 || !isOwnOrigin(origin[0], r)
}

// isOwnOrigin reports whether an Origin is the request's own. The scheme is compared
// only if it is known; behind a proxy that terminates TLS it is not.
func isOwnOrigin(origin string, r *http.Request) bool {
	scheme, host, ok := strings.Cut(origin, "://")
	if !ok || host == "" || (scheme != "https" && (scheme != "http" || r.TLS != nil)) {
		return false
	}
	port := map[string]string{"http": ":80", "https": ":443"}[scheme]
	return strings.EqualFold(strings.TrimSuffix(host, port), strings.TrimSuffix(r.Host, port))
}

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// ReadToken reads a token from a file: the token alone, or an Authorization header with it.
func ReadToken(in io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(in, 64<<10))
	if err != nil {
		return "", err
	}
	raw := strings.TrimSpace(string(text))
	for _, before := range []string{"Authorization:", "Bearer "} {
		if len(raw) >= len(before) && strings.EqualFold(raw[:len(before)], before) {
			raw = strings.TrimSpace(raw[len(before):])
		}
	}
	if raw == "" {
		return "", errors.New("there is no token: write it to the standard input, or name a file that contains it")
	}
	return raw, nil
}

// decision is a site's decision about a token.
type decision struct {
	Issuer   string   `json:"issuer"`
	Audience []string `json:"audience"`
	Accepted bool     `json:"accepted"`
	Reason   string   `json:"reason,omitempty"`
}

// inspected is a token with the decisions of all sites.
type inspected struct {
	Header   map[string]any `json:"header"`
	Claims   map[string]any `json:"claims"`
	Sealed   bool           `json:"sealed"`
	Unsealed map[string]any `json:"unsealed,omitempty"`
	Accepted bool           `json:"accepted"`
	Sites    []decision     `json:"sites"`
	Note     string         `json:"note,omitempty"`
}

// InspectToken shows what a token contains, whether each site accepts it, and if not, why.
func (o *Store) InspectToken(ctx context.Context, out Output, raw string, unseal bool, now time.Time) error {
	in, err := token.Inspect(raw)
	if err != nil {
		return errors.New("this is not a token: an access token has three parts of base64url with dots in between (a refresh token cannot be inspected)")
	}
	i := inspected{Header: in.Header, Claims: in.Claims, Sealed: in.Sealed}
	keys, err := o.Secrets(ctx)
	if err != nil {
		return err
	}
	seal, err := token.NewSeal(keys.ClaimSeal()...)
	if err != nil {
		return err
	}
	marks, err := session.NewKeys(keys.RefreshMAC()...)
	if err != nil {
		return err
	}
	var identity *token.Identity
	for _, site := range o.Sites {
		ks, err := o.keysOf(ctx, site, now)
		if err != nil {
			return err
		}
		if site.TestLogin != "" {
			site.Policy.Test = token.TestLogin{Marks: marks.Marks([]byte(site.TestLogin)), Until: site.TestUntil}
		}
		v := token.NewVerifier(site.Policy, seal, nil)
		reason := v.Explain(ks, raw, now)
		if id, err := v.VerifyExpired(ks, raw, now); err == nil {
			identity = id
		}
		if reason == "" {
			if reason, i.Note, err = o.explainSession(ctx, identity); err != nil {
				return err
			}
		}
		i.Sites = append(i.Sites, decision{site.Issuer, site.Audience, reason == "", reason})
		i.Accepted = i.Accepted || reason == ""
	}
	if unseal && identity != nil {
		i.Unsealed = unsealed(identity, in)
	}
	if !unseal {
		maskNumbers(i.Claims)
	}
	if out.JSON {
		return out.json(i)
	}
	return i.write(out, unseal)
}

func (o *Store) keysOf(ctx context.Context, site Site, now time.Time) (*token.KeySet, error) {
	if site.Static != nil {
		return site.Static, nil
	}
	for _, ring := range o.Rings {
		if ring.Algorithm == site.Algorithm {
			return token.StoredKeys(ctx, o.Store, ring, now)
		}
	}
	return nil, nil
}

// explainSession is for a valid token. It returns the reason if the token is refused because of its
// session.
func (o *Store) explainSession(ctx context.Context, id *token.Identity) (reason, note string, err error) {
	s, err := o.Session(ctx, id.SessionID())
	switch {
	case errors.Is(err, session.ErrNotFound):
		return "", "its session is not in the store: the session was opened after the backup that was restored, or it is in another store", nil
	case err != nil:
		return "", "", err
	case !s.EndedAt.IsZero():
		return fmt.Sprintf("its session ended at %s (%s)", moment(s.EndedAt), cmp.Or(string(s.EndReason), "unknown reason")), "", nil
	}
	return "", "", nil
}

// unsealed returns the contents of a token's sealed claim.
func unsealed(id *token.Identity, in token.Inspection) map[string]any {
	out := map[string]any{}
	put(out, "phone", id.Phone())
	if id.Test() {
		out["test"] = true
	}
	for name, value := range id.Claims() {
		if _, plain := in.Claims[name]; !plain {
			out[name] = value
		}
	}
	return out
}

func put(to map[string]any, name, value string) {
	if value != "" {
		to[name] = value
	}
}

// maskNumbers masks phone numbers in plain claims.
func maskNumbers(claims map[string]any) {
	for name, value := range claims {
		text, ok := value.(string)
		if !ok || !strings.Contains(name, "phone") && !strings.HasPrefix(text, "+") {
			continue
		}
		masked := "masked"
		country := "86"
		if strings.HasPrefix(text, "+") {
			country = ""
		}
		if p, err := user.ParsePhone(country, text); err == nil {
			masked = p.Masked()
		}
		claims[name] = masked
	}
}

func (i inspected) write(out Output, unseal bool) error {
	var rows [][]string
	for _, part := range []map[string]any{i.Header, i.Claims} {
		for _, name := range slices.Sorted(maps.Keys(part)) {
			rows = append(rows, []string{name, claimText(name, part[name])})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.Unsealed)) {
		rows = append(rows, []string{name + " (sealed)", claimText(name, i.Unsealed[name])})
	}
	switch {
	case i.Sealed && !unseal:
		rows = append(rows, []string{"wx", "sealed: --unseal shows it"})
	case i.Sealed && i.Unsealed == nil:
		rows = append(rows, []string{"wx", "sealed; it is shown only if the token was signed here"})
	}
	if err := out.table("", rows); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, v := range i.Sites {
		answer := "accepted"
		if !v.Accepted {
			answer = "refused: " + visible(v.Reason)
		}
		fmt.Fprintf(out, "issuer %s, audience %s: %s\n", v.Issuer, strings.Join(v.Audience, " "), answer)
	}
	if i.Note != "" {
		fmt.Fprintln(out, "But", i.Note+".")
	}
	return nil
}

// claimText formats a claim for the table.
func claimText(name string, value any) string {
	switch value := value.(type) {
	case string:
		return value
	case json.Number:
		seconds, err := value.Int64()
		if err == nil && slices.Contains([]string{"exp", "iat", "nbf", "auth_time"}, name) {
			return moment(time.Unix(seconds, 0))
		}
	}
	text, _ := json.Marshal(value)
	return string(text)
}

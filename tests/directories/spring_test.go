package directories

import (
	"slices"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// springProperties are those of Spring Boot below spring.security.oauth2.resourceserver.jwt,
// from its class OAuth2ResourceServerProperties.Jwt. It ignores what it does not know.
var springProperties = []string{
	"jwk-set-uri", "jws-algorithms", "issuer-uri", "public-key-location", "audiences",
	"authority-prefix", "authorities-claim-delimiter", "authorities-claim-name", "principal-claim-name",
}

// A misspelt property makes Spring accept tokens for other services, and a wrong value
// makes it refuse ours. Spring Security itself is not in Debian, so a token of the gateway
// is compared with the block's values.
func TestPagesSpringPropertiesFitTheTokens(t *testing.T) {
	t.Parallel()
	head, lines, _ := strings.Cut(inBoth(t, backendsPage, "jwk-set-uri"), "\n")
	if head != "spring.security.oauth2.resourceserver.jwt:" {
		t.Errorf("the block is for %s", head)
	}
	values := make(map[string]string)
	for line := range strings.Lines(lines) {
		name, value, ok := strings.Cut(line, ": ")
		name, indented := strings.CutPrefix(name, "  ")
		if !ok || !indented || !slices.Contains(springProperties, name) {
			t.Errorf("Spring has no property %q", line)
		}
		values[name] = strings.TrimSpace(value)
	}
	typed := wordsIn(t, backendsPage, "Spring Security .*`token { (type JWT) }`", "Spring Security .*`token { (type JWT) }`")
	g := rig.NewGateway(t, "token {\n"+typed+"\n}")
	p := g.MustLogin(t, number)
	header, claims := rig.JWTPart(t, p.Token, 0), rig.JWTPart(t, p.Token, 1)
	if header["typ"] != "JWT" {
		t.Errorf("the type %v, which Spring refuses", header["typ"])
	}
	if header["alg"] != values["jws-algorithms"] || claims["iss"] != values["issuer-uri"] {
		t.Errorf("the token has %v and %v", header, claims)
	}
	if audience, ok := claims["aud"].([]any); ok && !slices.Contains(audience, any(values["audiences"])) || !ok && claims["aud"] != values["audiences"] {
		t.Errorf("the audience %v", claims["aud"])
	}
	path, ok := strings.CutPrefix(values["jwk-set-uri"], "https://api.example.com")
	if keys := g.Get(path, ""); !ok || keys.Status != 200 || !strings.Contains(keys.Body, header["kid"].(string)) {
		t.Errorf("the keys are not at %s: %d %s", values["jwk-set-uri"], keys.Status, keys.Body)
	}
	if usual := rig.JWTPart(t, rig.NewGateway(t).MustLogin(t, number).Token, 0); usual["typ"] == "JWT" {
		t.Error("tokens are of the type JWT without a setting: the page asks for one")
	}
}

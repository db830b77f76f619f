package gate

import (
	"net/http"
	"testing"
)

// TestCredentials parses Authorization headers with every mixture of schemes, tokens,
// commas and blanks. A value that an upstream could read as another credential must be
// conflicting.
func TestCredentials(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		want  Credential
	}{
		{"no header", nil, Credential{}},
		{"empty", []string{""}, Credential{}},
		{"blank", []string{" \t"}, Credential{}},
		{"bearer", []string{"Bearer a.b.c"}, Credential{Kind: Bearer, Token: "a.b.c"}},
		{"lower case", []string{"bearer a.b.c"}, Credential{Kind: Bearer, Token: "a.b.c"}},
		{"upper case", []string{"BEARER a.b.c"}, Credential{Kind: Bearer, Token: "a.b.c"}},
		{"several spaces", []string{"Bearer   a.b.c"}, Credential{Kind: Bearer, Token: "a.b.c"}},
		{"spaces around, as HTTP/2 leaves them", []string{"  Bearer a.b.c \t"}, Credential{Kind: Bearer, Token: "a.b.c"}},
		{"tab", []string{"Bearer\ta.b.c"}, Credential{Kind: Bearer, Token: "a.b.c", Malformed: true}},
		{"space and tab", []string{"Bearer \t a.b.c"}, Credential{Kind: Bearer, Token: "a.b.c", Malformed: true}},
		{"scheme only", []string{"Bearer"}, Credential{Kind: Other}},
		{"scheme and space", []string{"Bearer "}, Credential{Kind: Other}},
		{"bare token", []string{"a.b.c"}, Credential{Kind: Other}},
		{"no space", []string{"Bearera.b.c"}, Credential{Kind: Other}},
		{"colon", []string{"Bearer: a.b.c"}, Credential{Kind: Other}},
		{"equals", []string{"Bearer=a.b.c"}, Credential{Kind: Other}},
		{"no-break space", []string{"Bearer\u00a0a.b.c"}, Credential{Kind: Other}},
		{"another scheme", []string{"Basic eDp5"}, Credential{Kind: Other}},
		{"our token under another scheme", []string{"Token a.b.c"}, Credential{Kind: Other}},
		{"digest", []string{`Digest username="x", realm="a, Bearer b", nc=1, uri = "/"`}, Credential{Kind: Other}},
		{"digest, escaped quote", []string{`Digest username="\", Bearer b", nc=1`}, Credential{Kind: Other}},
		{"AWS", []string{"AWS4-HMAC-SHA256 Credential=A/b, SignedHeaders=host;x, Signature=ab"}, Credential{Kind: Other}},
		{"two headers", []string{"Bearer a.b.c", "Bearer d.e.f"}, Credential{Kind: Conflicting}},
		{"the same twice", []string{"Bearer a.b.c", "Bearer a.b.c"}, Credential{Kind: Conflicting}},
		{"two schemes", []string{"Bearer a.b.c", "Basic eDp5"}, Credential{Kind: Conflicting}},
		{"one of two is empty", []string{"", "Bearer a.b.c"}, Credential{Kind: Conflicting}},
		{"comma-joined", []string{"Bearer a.b.c, Bearer d.e.f"}, Credential{Kind: Conflicting}},
		{"comma-joined without space", []string{"Bearer a.b.c,Basic eDp5"}, Credential{Kind: Conflicting}},
		{"ours last", []string{"Basic eDp5, Bearer a.b.c"}, Credential{Kind: Conflicting}},
		{"ours last, tab", []string{"Basic eDp5,\tBearer\ta.b.c"}, Credential{Kind: Conflicting}},
		{"ours after a bare token", []string{"d.e.f, Bearer a.b.c"}, Credential{Kind: Conflicting}},
		{"ours after digest", []string{`Digest a="b", Bearer a.b.c`}, Credential{Kind: Conflicting}},
		{"two tokens", []string{"Bearer a.b.c d.e.f"}, Credential{Kind: Conflicting}},
		{"two tokens, comma", []string{"Bearer a.b.c,d.e.f"}, Credential{Kind: Conflicting}},
		{"scheme twice", []string{"Bearer Bearer a.b.c"}, Credential{Kind: Conflicting}},
		{"comma first", []string{",Bearer a.b.c"}, Credential{Kind: Conflicting}},
		{"comma after the scheme", []string{"Bearer, Bearer a.b.c"}, Credential{Kind: Conflicting}},
	} {
		h := http.Header{}
		if c.lines != nil {
			h["Authorization"] = c.lines
		}
		if got := ParseCredential(h); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

package api

import (
	"encoding/json"
	"strings"
	"testing"
)

// Whatever our endpoints accept as a body, encoding/json must accept too, with the same
// values.
func FuzzBody(f *testing.F) {
	for _, body := range []string{
		`{"code":"a","phoneCode":"b"}`, `{"all":true}`, `{"code":"a","code":"b"}`, `{"Code":"a"}`, `{"code":null}`, `{"code":""}`, `{"all":null}`,
		`{"code":"\u0061","x":{"code":"c"}}`, `{"code":"a"} {}`, ` {"code":"\ud800"} `, `[]`, `null`, ``, `{"":1}`, `{"code":"a",}`, `{"all":"true"}`, "{\"code\":\"\xff\"}", `{"":1e700}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var code string
		var all bool
		err := decodeObject([]byte(body), map[string]any{"code": &code, "all": &all})
		if err != nil {
			if text := err.Error(); len(text) > 60 || strings.ContainsAny(text, `"{}\`) {
				t.Errorf("%q: the error quotes what was sent: %s", body, text)
			}
			return
		}
		var theirs map[string]any
		d := json.NewDecoder(strings.NewReader(body))
		d.UseNumber() // so that a number too large for a float64 is still a number
		if err := d.Decode(&theirs); err != nil || theirs == nil || !json.Valid([]byte(body)) {
			t.Fatalf("%q is taken, but is no object: %v", body, err)
		}
		if want, ok := theirs["code"]; ok && want != code || !ok && code != "" {
			t.Errorf("%q: code is %q, want %v", body, code, want)
		}
		if want, ok := theirs["all"]; ok && want != all || !ok && all {
			t.Errorf("%q: all is %v, want %v", body, all, want)
		}
	})
}

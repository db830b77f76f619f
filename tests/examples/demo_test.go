package examples

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// varying has what differs in the demo's output from run to run, with what replaces it.
var varying = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "…"},
	{regexp.MustCompile(` +[\d.]+(?:µs|ms|s)\b`), " …"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}`), "…"},
	{regexp.MustCompile(`"(jti|wx)":"[^"]+"`), `"$1":…`},
	{regexp.MustCompile(`"(exp|iat|auth_time)":\d+`), `"$1":…`},
	{regexp.MustCompile(`\(\d+ bytes`), "(… bytes"},
}

// A reader compares what the demo prints with what the page promises, line by line.
func TestDemoPrintsWhatThePageShows(t *testing.T) {
	t.Parallel()
	example, err := filepath.Abs("../../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	out, err := rig.NewCaddy(t).Command("wx-demo", "--once", "--config", example)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// WeChat's first two calls are made side by side, so their order varies, too.
	lines := func(text string) []string {
		for _, v := range varying {
			text = v.what.ReplaceAllString(text, v.by)
		}
		all := strings.Split(strings.TrimSpace(text), "\n")
		slices.Sort(all)
		return all
	}
	for _, page := range rig.InBothLanguages("local.md") {
		shown, _, _ := strings.Cut(rig.PageBlock(t, page, "1. The API without a token"), "In a browser:")
		if got, want := lines(out), lines(shown); !slices.Equal(got, want) {
			t.Errorf("docs/%s has\n%s\nthe demo prints\n%s", page, strings.Join(want, "\n"), strings.Join(got, "\n"))
		}
	}
}

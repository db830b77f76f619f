package caddymodule

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
)

var update = flag.Bool("update", false, "write what comes out into testdata/adapt")

// separator is between a Caddyfile and what must become of it.
const separator = "----------\n"

// TestAdapt holds each Caddyfile in testdata/adapt to the JSON, or the error,
// that follows it. The name of a file with an error begins with "refused_".
func TestAdapt(t *testing.T) {
	files, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".caddyfiletest")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(data), separator)
			got, refused := adapt(t, input)
			if refused != strings.HasPrefix(name, "refused_") {
				t.Fatalf("refused: %v; this came out:\n%s", refused, got)
			}
			if refused && !strings.Contains(got, "at Caddyfile:") {
				t.Errorf("the error names no line: %s", got)
			}
			if *update {
				if err := os.WriteFile(file, []byte(input+separator+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func adapt(t *testing.T, input string) (out string, refused bool) {
	t.Helper()
	result, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), nil)
	if err != nil {
		return err.Error() + "\n", true
	}
	for _, w := range warnings {
		t.Errorf("warning: %s", w)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, result, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return pretty.String() + "\n", false
}

// Files of the tests are as `caddy fmt` leaves them: examples that can be
// copied.
func TestAdaptFilesAreFormatted(t *testing.T) {
	files, _ := filepath.Glob("testdata/adapt/*.caddyfiletest")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		input, _, _ := strings.Cut(string(data), separator)
		if string(caddyfile.Format([]byte(input))) != input {
			t.Errorf("%s is not formatted", file)
		}
	}
}

// A subdirective that is known is in the list that an unknown one gets.
func TestUnknownSubdirectiveNamesTheKnownOnes(t *testing.T) {
	got, _ := adapt(t, ":8080 {\n\twx_auth a b {\n\t\tfoo\n\t}\n}\n")
	for _, s := range new(Handler).syntax() {
		if !strings.Contains(got, s.name) {
			t.Errorf("%s is missing in: %s", s.name, got)
		}
	}
}

// Another plugin may parse the directive without a matcher.
func TestHandlerUnmarshalsCaddyfileTokens(t *testing.T) {
	var h Handler
	d := caddyfile.NewTestDispenser("wx_auth {env.A} {env.B} {\n public /health\n}")
	if err := h.UnmarshalCaddyfile(d); err != nil {
		t.Fatal(err)
	}
	if len(h.Apps) != 1 || h.Apps[0].ID != "{env.A}" || h.Apps[0].Secret != "{env.B}" || len(h.Public) != 1 {
		t.Errorf("got %+v", h)
	}
}

package operation

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// These tests check the harness itself with a plain Caddy, so that a failure of any
// other test is about the gateway.

var (
	plainProxy = rig.Site("respond /hello {$GREETING}\nreverse_proxy {$UPSTREAM}")
	mistake    = rig.Site("no_such_directive")
)

// The harness starts the built binary, reloads it and stops it.
func TestBinaryStartsReloadsAndStops(t *testing.T) {
	up := rig.NewUpstream(t)
	c := rig.StartCaddy(t, plainProxy, "UPSTREAM="+up.Addr, "GREETING=one")
	client := c.Client()
	hello := func(want string) {
		t.Helper()
		a := client.Get("/hello", "")
		a.Want(t, http.StatusOK)
		if a.Body != want {
			t.Fatalf("got %q, want %q", a.Body, want)
		}
	}
	hello("one")

	c.Setenv("GREETING", "two")
	if err := c.Reload(plainProxy); err != nil {
		t.Fatal(err)
	}
	hello("two")

	if err := c.Validate(plainProxy); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"reload": c.Reload(mistake), "validate": c.Validate(mistake)} {
		if err == nil || !strings.Contains(err.Error(), "no_such_directive") {
			t.Errorf("%s of a wrong Caddyfile: %v", name, err)
		}
	}
	hello("two")
	if config, err := c.Admin("/config/"); err != nil || !strings.Contains(config, up.Addr) {
		t.Errorf("the configuration is not the one given: %s, %v", config, err)
	}

	c.Kill9()
	if c.Running() {
		t.Error("runs after a kill")
	}
	if a := client.Get("/hello", ""); a.Err == nil {
		t.Errorf("a killed Caddy answered %d", a.Status)
	}
	c.Restart()
	hello("two")
	c.Stop()
	c.Log.Wait(t, time.Second, "SIGTERM", "shutdown complete")
}

// If the binary does not start, the harness reports its error message.
func TestBinarySaysWhyItDoesNotStart(t *testing.T) {
	c := rig.NewCaddy(t)
	if err := c.TryStart(mistake); err == nil {
		t.Fatal("it started")
	}
	c.Log.Wait(t, time.Second, "no_such_directive")
	if c.Running() {
		t.Error("it runs all the same")
	}
}

// The harness's upstream shows requests exactly as they arrived.
func TestUpstreamShowsWhatReachedIt(t *testing.T) {
	up := rig.NewUpstream(t)
	c := rig.StartCaddy(t, plainProxy, "UPSTREAM="+up.Addr, "GREETING=hi")

	seen := c.Client().Do(http.MethodPost, "/a/b?c=d", map[string]int{"n": 1}, "X-Shown: yes").Seen(t)
	if seen.Method != "POST" || seen.URI != "/a/b?c=d" || seen.Header.Get("X-Shown") != "yes" || seen.Body != `{"n":1}` {
		t.Errorf("seen %+v", seen)
	}
	a := rig.Raw(c.Addr, "POST /raw HTTP/1.1\r\nHost: "+c.Addr+"\r\nTransfer-Encoding: chunked\r\nTrailer: X-Late\r\n\r\n3\r\nabc\r\n0\r\nX-Late: t\r\n\r\n")
	a.Want(t, http.StatusOK)
	if last := up.Last(t); last.Path != "/raw" || last.Body != "abc" || last.Trailer.Get("X-Late") != "t" {
		t.Errorf("seen %+v", last)
	}

	up.SetDelay(200 * time.Millisecond)
	start := time.Now()
	c.Client().Get("/slow", "").Want(t, http.StatusOK)
	if took := time.Since(start); took < 200*time.Millisecond {
		t.Errorf("a slow upstream answered in %s", took)
	}
	up.SetHandler(http.NotFoundHandler())
	c.Client().Get("/gone", "").Want(t, http.StatusNotFound)
	if up.Hits() != 4 || len(up.Requests()) != 3 {
		t.Errorf("%d hits, %d kept", up.Hits(), len(up.Requests()))
	}
}

// The harness removes the binary's home directory after a test.
func TestHomeIsGoneAfterTheTest(t *testing.T) {
	var c *rig.Caddy
	t.Run("run", func(t *testing.T) {
		c = rig.StartCaddy(t, plainProxy, "UPSTREAM=127.0.0.1:1", "GREETING=hi")
	})
	if c.Running() {
		t.Error("Caddy outlived its test")
	}
	if _, err := os.Stat(c.Home); !os.IsNotExist(err) {
		t.Errorf("its home outlived its test: %v", err)
	}
}

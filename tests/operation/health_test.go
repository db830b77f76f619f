package operation

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const live, ready, works = "/auth/wx/health/live", "/auth/wx/health/ready", "/auth/wx/health"

// wantHealth checks the three endpoints in this order.
func wantHealth(t *testing.T, c *rig.Client, statuses ...int) {
	t.Helper()
	for i, path := range []string{live, ready, works} {
		a := c.Get(path, "")
		if a.Status != statuses[i] || a.Body != "" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %q %v, want %d", path, a.Status, a.Body, a.Err, statuses[i])
		}
		if a.Status == http.StatusServiceUnavailable && a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", path)
		}
	}
}

// Load balancers ask with GET or HEAD, and need a status without a body.
func TestHealthAnswers(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	wantHealth(t, r.Client, 200, 200, 200)
	for _, path := range []string{live, ready, works, works + "/"} {
		r.Do(http.MethodHead, path, nil).Want(t, http.StatusOK)
		for _, method := range []string{http.MethodPost, http.MethodOptions, http.MethodDelete} {
			a := r.Do(method, path, nil)
			if a.Status != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d, Allow %q", method, path, a.Status, a.Header.Get("Allow"))
			}
		}
	}
	for _, path := range []string{works + "/alive", live + "/x", works + "//live"} {
		if a := r.Get(path, ""); a.Status == http.StatusOK {
			t.Errorf("%s: %d", path, a.Status)
		}
	}
	// However often the endpoint is asked, the store is written at most once per
	// second.
	db := r.Caddy.OpenStore(t)
	defer db.Close()
	values := make(map[string]bool)
	start := time.Now()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				r.Get(works, "").Want(t, http.StatusOK)
			}
		})
	}
	for time.Since(start) < 2*time.Second {
		var value string
		if err := db.QueryRow("SELECT value FROM wx_auth_meta WHERE name = 'written'").Scan(&value); err != nil {
			t.Fatal(err)
		}
		values[value] = true
	}
	all.Wait()
	if most := int(time.Since(start)/time.Second) + 2; len(values) > most {
		t.Errorf("%d writes in %s", len(values), time.Since(start))
	}
}

// With shutdown_delay a replica goes on serving after SIGTERM. Load balancers must
// notice at once that it is about to stop.
func TestHealthFromSIGTERMOn(t *testing.T) {
	t.Parallel()
	r := rig.NewGatewayWith(t, strings.Replace(rig.GatewaySite(), "debug", "debug\n\tshutdown_delay 8s", 1))
	p := r.MustLogin(t, "13800138000")
	wantHealth(t, r.Client, 200, 200, 200)
	if err := r.Caddy.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, 5*time.Second, "it is not ready any more", func() bool { return r.Get(ready, "").Status == http.StatusServiceUnavailable })
	wantHealth(t, r.Client, 200, 503, 503)
	r.Get("/", p.Token).Want(t, http.StatusOK)
	rig.Within(t, rig.StopTime, "caddy ends", r.Caddy.Ended())
}

// A store that cannot be written is not ready, for example after root has restored the file,
// or while the file is read-only. The log says what to do. Once that is done, the site works
// without a restart.
func TestReadOnlyStoreIsNotReady(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		rig.LeaveOut(t, "only root can run a gateway as nobody")
	}
	r := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	r.Caddy = rig.NewCaddyAs(t, "nobody", r.WeChat.Environ(r.Upstream.Addr)...)
	r.Client = r.Caddy.Client()
	r.Caddy.Start(rig.GatewaySite())
	p := r.MustLogin(t, "13800138000")
	r.Caddy.Stop()
	path := storeFile(r.Caddy)
	was, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	owner := was.Sys().(*syscall.Stat_t)
	if err := os.Chown(path, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	r.Caddy.Restart()
	wantHealth(t, r.Client, 200, 503, 503)
	codes := r.WeChat.Tap(t, "13800138000")
	r.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", []string{})
	r.Caddy.Log.Wait(t, 20*time.Second, `"level":"error"`, "the store cannot be written", path, `"remedy":"let the user that runs Caddy write`)
	if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, 30*time.Second, "the store is open", func() bool { return r.Get(works, "").Status == http.StatusOK })
	wantHealth(t, r.Client, 200, 200, 200)
	r.WantSame(t, p, "13800138000")
}

// The store's file is deleted while it is open. What is written to it now would be gone
// at the next start, so the store must not count as healthy.
func TestDeletedStoreIsNotHealthy(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	path := storeFile(r.Caddy)
	if err := os.Rename(path, filepath.Join(r.Caddy.Home, "away.db")); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, 10*time.Second, "it says so", func() bool { return r.Get(works, "").Status == http.StatusServiceUnavailable })
	wantHealth(t, r.Client, 200, 200, 503)
	if err := os.Rename(filepath.Join(r.Caddy.Home, "away.db"), path); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, 10*time.Second, "the file is back", func() bool { return r.Get(works, "").Status == http.StatusOK })
}

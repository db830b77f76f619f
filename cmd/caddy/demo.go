package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "wx-demo",
		Usage: "[--once] [--config <path>]",
		Short: "Shows a WeChat phone login against a simulator",
		Long: `Starts a simulator of WeChat's API, a small sample API and Caddy with the
shipped Caddyfile.example, each on a free port of 127.0.0.1. Then it logs in
once, showing each step and its time, and stays up for you to try, until Ctrl-C:
in a browser, on a page whose address it prints, or with curl.

Nothing outside a temporary directory is written, and WeChat is not called.`,
		CobraFunc: func(cmd *cobra.Command) {
			once := cmd.Flags().Bool("once", false, "end after the walk, with a non-zero code if a step failed")
			config := cmd.Flags().String("config", "", "the Caddyfile to run (default: Caddyfile.example here or in a directory above)")
			cmd.RunE = func(*cobra.Command, []string) error {
				ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
				defer stop()
				return runDemo(ctx, os.Stdout, *config, *once)
			}
		},
	})
}

const (
	demoAppID  = "wx0123456789abcdef"
	demoSecret = "0123456789abcdef0123456789abcdef"
	demoUser   = "li-lei"
	demoPhone  = "13800138000"
)

// demo is a simulator, a sample API and Caddy in front of it.
type demo struct {
	out     io.Writer
	sim     *wechattest.Simulator
	api     *sampleAPI
	gateway string // base URL of Caddy
	wechat  string // base URL of the simulator
	stage   *stage
}

func runDemo(ctx context.Context, out io.Writer, config string, once bool) error {
	dir, err := os.MkdirTemp("", "wx-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{
		out: out, api: new(sampleAPI),
		sim: wechattest.New(wechattest.Options{Apps: []wechattest.App{{ID: demoAppID, Secret: demoSecret}}}),
	}
	d.stage = newStage(d)
	d.api.watch = d.stage.watchAPI
	upstream, stopAPI, err := serve(d.api)
	if err != nil {
		return err
	}
	defer stopAPI()
	simulator, stopSim, err := serve(d.logged(d.sim))
	if err != nil {
		return err
	}
	defer stopSim()
	d.wechat = "http://" + simulator
	gateway, err := freeAddress()
	if err != nil {
		return err
	}
	d.gateway = "http://" + gateway
	config, err = findConfig(config)
	if err != nil {
		return err
	}
	start := time.Now()
	err = startCaddy(config, map[string]string{
		"WX_APPID": demoAppID, "WX_SECRET": demoSecret, "WX_API": d.wechat,
		"WX_AUTH_SITE": d.gateway, "WX_AUTH_UPSTREAM": upstream,
		"XDG_DATA_HOME": filepath.Join(dir, "data"), "XDG_CONFIG_HOME": filepath.Join(dir, "config"),
	})
	if err != nil {
		return err
	}
	defer func() { _ = caddy.Stop() }()
	d.say("caddy with %-23s%s  (started in %s)", filepath.Base(config), d.gateway, since(start))
	d.say("the sample API behind it          http://%s", upstream)
	d.say("the simulator in WeChat's place   %s", d.wechat)

	if err := d.walk(ctx); err != nil {
		return fmt.Errorf("a step of the demo failed: %w", err)
	}
	if once {
		return nil
	}
	d.stage.restart()
	stopPage, err := d.stage.serve()
	if err != nil {
		return err
	}
	defer stopPage()
	d.hints()
	<-ctx.Done()
	return nil
}

// startCaddy runs the Caddyfile in this process, without an admin endpoint. It does not change
// the configuration that another Caddy on this machine has saved.
func startCaddy(path string, env map[string]string) error {
	for k, v := range env {
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(text, map[string]any{"filename": path})
	if err != nil {
		return fmt.Errorf("adapting %s: %w", path, err)
	}
	if adapted, err = isolated(adapted); err != nil {
		return err
	}
	return caddy.Load(adapted, true)
}

// isolated changes a configuration: it is reachable only from this machine, has no admin
// endpoint, is not saved, and logs only errors.
func isolated(config []byte) ([]byte, error) {
	var c map[string]any
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, err
	}
	for _, server := range object(c, "apps", "http", "servers") {
		listen, _ := server.(map[string]any)["listen"].([]any)
		for i, address := range listen {
			if port, ok := strings.CutPrefix(fmt.Sprint(address), ":"); ok {
				listen[i] = net.JoinHostPort("127.0.0.1", port)
			}
		}
	}
	c["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	c["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}}
	return json.Marshal(c)
}

// object returns the object at a path in v, or nil if there is none.
func object(v map[string]any, path ...string) map[string]any {
	for _, name := range path {
		v, _ = v[name].(map[string]any)
	}
	return v
}

// findConfig looks for the shipped Caddyfile in this directory and its parents.
func findConfig(path string) (string, error) {
	if path != "" {
		return path, nil
	}
	const name = "Caddyfile.example"
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no %s here or above: run the demo in the repository, or name the file with --config", name)
		}
		dir = filepath.Dir(dir)
	}
}

// serve serves h on a free port of 127.0.0.1.
func serve(h http.Handler) (address string, stop func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(ln) }()
	return ln.Addr().String(), func() { _ = srv.Close() }, nil
}

// freeAddress returns an address with a free port for Caddy.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// logged prints each call that reaches the simulator, and its duration.
func (d *demo) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/_control/") {
			next.ServeHTTP(w, r)
			return
		}
		start, seen := time.Now(), &wechattest.Recorder{ResponseWriter: w}
		next.ServeHTTP(seen, r)
		d.say("   WeChat is asked: %-4s %-34s %8s", r.Method, r.URL.Path, since(start))
		d.stage.watchWeChat(r, seen, start)
	})
}

func since(t time.Time) time.Duration { return time.Since(t).Round(10 * time.Microsecond) }

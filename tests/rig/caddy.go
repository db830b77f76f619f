package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	startTime   = 30 * time.Second // until a Caddyfile is in use
	StopTime    = 20 * time.Second // from SIGTERM to the end
	CommandTime = 60 * time.Second // for one `caddy …` command; a reload waits for connections
)

// Caddy is the built binary with a home directory of its own. It listens where the
// Caddyfile says; a Caddyfile from [Site] says {$ADDR}, a free port of 127.0.0.1. Its
// admin endpoint is a socket in Home.
type Caddy struct {
	Home string // HOME; Caddy's data directory is DataDir
	Addr string // value of {$ADDR}; the same after a restart
	Log  Log    // standard output and error of all runs

	t       testing.TB
	binary  string
	env     []string
	attr    *syscall.SysProcAttr
	file    string // the last Caddyfile given to Start or Reload
	cmd     *exec.Cmd
	exited  chan struct{} // closed when cmd has ended
	exitErr error         // valid once exited is closed

	mu      sync.Mutex
	clients []*Client
}

// NewCaddy prepares a Caddy. env are environment variables ("WX_APPID=wx…"); of this
// process's environment only PATH is passed on. At the end of the test the process is
// stopped, and the test fails if it panicked or had a data race.
func NewCaddy(t testing.TB, env ...string) *Caddy {
	t.Helper()
	return NewCaddyOf(t, Binary(t), env...)
}

// NewCaddyOf is NewCaddy with another binary; see BuildWith.
func NewCaddyOf(t testing.TB, binary string, env ...string) *Caddy {
	t.Helper()
	// Do not use t.TempDir: its path contains the name of the test, and may be too long
	// for a socket.
	home, err := os.MkdirTemp(scratch, "caddy-")
	if err != nil {
		t.Fatal(err)
	}
	c := &Caddy{Home: home, Addr: FreeAddress(t), t: t, binary: binary, attr: ChildAttributes()}
	c.env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + home,
		"XDG_DATA_HOME=" + filepath.Join(home, "data"),
		"XDG_CONFIG_HOME=" + filepath.Join(home, "config"),
		"CADDY_ADMIN=unix/" + c.adminSocket(),
		"ADDR=" + c.Addr,
		"GORACE=halt_on_error=0 exitcode=0",
	}, env...)
	t.Cleanup(c.end)
	return c
}

// NewCaddyAs is NewCaddy as another user, for tests that run as root.
func NewCaddyAs(t testing.TB, name string, env ...string) *Caddy {
	t.Helper()
	// The directory is not in scratch, which only its owner may enter.
	dir, err := os.MkdirTemp("", "wx-auth-as-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	text, err := os.ReadFile(Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "caddy")
	if err := errors.Join(os.WriteFile(binary, text, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	c := NewCaddyOf(t, binary, env...)
	if err := os.RemoveAll(c.Home); err != nil {
		t.Fatal(err)
	}
	for i, v := range c.env {
		c.env[i] = strings.ReplaceAll(v, c.Home, filepath.Join(dir, "home"))
	}
	c.Home = filepath.Join(dir, "home")
	if err := os.Mkdir(c.Home, 0o700); err != nil {
		t.Fatal(err)
	}
	if c.attr, err = childOf(name, c.Home); err != nil {
		LeaveOut(t, "running as %s: %v", name, err)
	}
	return c
}

// StartCaddy is NewCaddy followed by Start.
func StartCaddy(t testing.TB, caddyfile string, env ...string) *Caddy {
	t.Helper()
	c := NewCaddy(t, env...)
	c.Start(caddyfile)
	return c
}

func (c *Caddy) adminSocket() string { return filepath.Join(c.Home, "admin.sock") }

// DataDir returns the directory where this Caddy keeps its data.
func (c *Caddy) DataDir() string { return filepath.Join(c.Home, "data", "caddy") }

// URL returns http://Addr.
func (c *Caddy) URL() string { return "http://" + c.Addr }

// Start runs Caddy with that Caddyfile and waits until it serves. If it does not, the
// test ends.
func (c *Caddy) Start(caddyfile string) {
	c.t.Helper()
	if err := c.TryStart(caddyfile); err != nil {
		c.t.Fatalf("starting caddy: %v\n%s", err, c.Log.tail())
	}
}

// Restart runs Caddy again with the last Caddyfile, in the same home, on the same
// address.
func (c *Caddy) Restart() {
	c.t.Helper()
	c.Start(c.file)
}

// TryStart is Start for a Caddyfile that may be refused.
func (c *Caddy) TryStart(caddyfile string) error {
	if c.Running() {
		return errors.New("it runs already")
	}
	// As with `caddy start`, Caddy connects to this address once the configuration is
	// in use.
	ready, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ready.Close()
	config, err := c.write("Caddyfile", caddyfile)
	if err != nil {
		return err
	}
	c.file = caddyfile
	cmd := exec.Command(c.binary, "run", "--config", config, "--adapter", "caddyfile", "--pingback", ready.Addr().String())
	cmd.Dir, cmd.Env, cmd.SysProcAttr = c.Home, c.env, c.attr
	cmd.Stdin = strings.NewReader("ready")
	cmd.Stdout, cmd.Stderr = &c.Log, &c.Log
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	c.cmd, c.exited = cmd, exited
	go func() {
		c.exitErr = cmd.Wait()
		close(exited)
	}()

	connected := make(chan error, 1)
	go func() {
		conn, err := ready.Accept()
		if err == nil {
			conn.Close()
		}
		connected <- err
	}()
	select {
	case err := <-connected:
		return err
	case <-exited:
		return fmt.Errorf("it ended: %v", c.exitErr)
	case <-time.After(startTime):
		c.Kill9()
		return fmt.Errorf("not ready after %s", startTime)
	}
}

// Running reports whether the process is alive.
func (c *Caddy) Running() bool {
	if c.cmd == nil {
		return false
	}
	select {
	case <-c.exited:
		return false
	default:
		return true
	}
}

// PID returns the id of the process.
func (c *Caddy) PID() int { return c.cmd.Process.Pid }

// Signal sends the process a signal.
func (c *Caddy) Signal(s os.Signal) error { return c.cmd.Process.Signal(s) }

// Ended returns a channel that is closed when the process has ended. After that,
// ExitErr is valid.
func (c *Caddy) Ended() <-chan struct{} { return c.exited }

// ExitErr returns nil if the process ended with code 0.
func (c *Caddy) ExitErr() error { return c.exitErr }

// Reload runs `caddy reload` with that Caddyfile and returns once the new configuration
// is in use. The error contains the output of the command.
func (c *Caddy) Reload(caddyfile string) error {
	config, err := c.write("Caddyfile", caddyfile)
	if err != nil {
		return err
	}
	out, err := c.Command("reload", "--config", config, "--adapter", "caddyfile", "--force")
	if err != nil {
		return fmt.Errorf("caddy reload: %w\n%s", err, out)
	}
	c.file = caddyfile
	return c.settle()
}

// settle waits until a reload is over for clients. Caddy listens at the same address for the
// former configuration and the next, and says that it has reloaded when it is about to close
// the former listener: a connection that the kernel has given to that one gets an EOF.
func (c *Caddy) settle() error {
	defer c.closeIdle()
	for deadline := time.Now().Add(CommandTime); ; time.Sleep(5 * time.Millisecond) {
		twice, err := listensTwice(c.PID())
		if err != nil || twice == "" { // an error: not Linux
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after a reload, two listeners are still at %s", twice)
		}
	}
}

// closeIdle closes the idle connections of the clients. After a reload the former
// server closes them too, and a request sent at that moment would get an EOF.
func (c *Caddy) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, client := range c.clients {
		client.HTTP.CloseIdleConnections()
	}
}

// Validate runs `caddy validate` in the same home directory, beside the running process
// if there is one.
func (c *Caddy) Validate(caddyfile string) error {
	config, err := c.write("Caddyfile.validate", caddyfile)
	if err != nil {
		return err
	}
	out, err := c.Command("validate", "--config", config, "--adapter", "caddyfile")
	if err != nil {
		return fmt.Errorf("caddy validate: %w\n%s", err, out)
	}
	return nil
}

// Command runs `caddy args…` with this Caddy's environment and returns its output.
func (c *Caddy) Command(args ...string) (string, error) { return c.CommandWith("", args...) }

// CommandWith is Command with a standard input.
func (c *Caddy) CommandWith(input string, args ...string) (string, error) {
	stdout, stderr, err := c.outputs(input, true, args...)
	return stdout + stderr, err
}

// outputs runs a command and returns its outputs. If joined is set, both are in the first
// string.
func (c *Caddy) outputs(input string, joined bool, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), CommandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.binary, args...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = c.Home, c.env, c.attr
	cmd.WaitDelay = 5 * time.Second
	cmd.Stdin = strings.NewReader(input)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if joined {
		cmd.Stderr = &out
	}
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// loadTries is how often Load tries: each load replaces the listener of the admin
// endpoint, and a connection that the kernel accepted for the former one is lost.
const loadTries = 5

// Load is Reload without a command: it posts the Caddyfile to the admin endpoint, which loads
// it even if it has not changed.
func (c *Caddy) Load(caddyfile string) error {
	for try := 1; ; try++ {
		r, err := http.NewRequest(http.MethodPost, "http://127.0.0.1/load", strings.NewReader(caddyfile))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "text/caddyfile")
		r.Header.Set("Cache-Control", "must-revalidate")
		out, err := c.admin(r)
		if err == nil {
			c.file = caddyfile
			return c.settle()
		}
		var lost *url.Error
		if try == loadTries || !errors.As(err, &lost) || lost.Timeout() {
			return fmt.Errorf("loading a configuration: %w: %s", err, out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Admin sends a GET to the admin endpoint, as in Admin("/config/").
func (c *Caddy) Admin(path string) (string, error) {
	r, err := http.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil)
	if err != nil {
		return "", err
	}
	return c.admin(r)
}

func (c *Caddy) admin(r *http.Request) (string, error) {
	client := http.Client{
		Timeout: CommandTime,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", c.adminSocket())
			},
		},
	}
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// Stop sends SIGTERM and waits for the end, which must be clean and in time.
func (c *Caddy) Stop() {
	c.t.Helper()
	if !c.Running() {
		return
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.t.Errorf("stopping caddy: %v", err)
	}
	select {
	case <-c.exited:
		if c.exitErr != nil {
			c.t.Errorf("caddy ended with %v", c.exitErr)
		}
	case <-time.After(StopTime):
		c.t.Errorf("caddy was still there %s after SIGTERM", StopTime)
		c.Kill9()
	}
}

// Kill9 ends the process as a power cut would.
func (c *Caddy) Kill9() {
	if !c.Running() {
		return
	}
	_ = c.cmd.Process.Kill()
	<-c.exited
}

// end is the cleanup of the test.
func (c *Caddy) end() {
	c.Stop()
	log := c.Log.String()
	for _, bad := range []string{"panic: ", "panic serving"} {
		if strings.Contains(log, bad) {
			c.t.Errorf("%q in the log", bad)
		}
	}
	for _, race := range races(log) {
		c.t.Errorf("a data race:\n%s", race)
	}
	if c.t.Failed() {
		c.t.Log(c.Log.report(c.t.Name(), suspects(c.t)))
	}
	if err := os.RemoveAll(c.Home); err != nil {
		c.t.Error(err)
	}
}

// races returns the race detector's reports in a log in which this module's code is one of the
// two accesses. Caddy has races of its own, such as between its access log and a body that its
// proxy is still sending.
func races(log string) (ours []string) {
	for _, report := range strings.Split(log, "==================\n") {
		if !strings.HasPrefix(report, "WARNING: DATA RACE") {
			continue
		}
		for i, stack := range strings.Split(report, "\n\n") {
			if i > 1 {
				break // the rest says which goroutine started which
			}
			if strings.Contains(accessor(stack), "/wx-auth/caddy-wx-auth/") {
				ours = append(ours, report)
				break
			}
		}
	}
	return ours
}

// accessor returns the innermost function of a stack that is not in the standard
// library.
func accessor(stack string) string {
	for _, line := range strings.Split(stack, "\n") {
		name := strings.TrimSpace(line)
		if host, _, ok := strings.Cut(name, "/"); ok && strings.Contains(host, ".") && !strings.Contains(host, " ") {
			return name
		}
	}
	return ""
}

// Setenv changes a variable for the next start, reload or command.
func (c *Caddy) Setenv(name, value string) {
	c.env = slices.DeleteFunc(c.env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	c.env = append(c.env, name+"="+value)
}

// Getenv returns the value of a variable, or "" if it is not set.
func (c *Caddy) Getenv(name string) string {
	for _, v := range c.env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

func (c *Caddy) write(name, text string) (string, error) {
	path := filepath.Join(c.Home, name)
	return path, os.WriteFile(path, []byte(text), 0o644) // Home itself is readable for its owner only
}

// Site returns a Caddyfile with one site at {$ADDR}, which logs at DEBUG. options are
// further global options. Without default_bind, Caddy would listen on every address of
// the machine.
func Site(directives string, options ...string) string {
	return "{\n\tdebug\n\tdefault_bind 127.0.0.1\n" + strings.Join(options, "\n") + "\n}\nhttp://{$ADDR} {\n" + directives + "\n}\n"
}

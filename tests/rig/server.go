package rig

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Server is a database server of one test, which can stop it and read its log.
type Server struct {
	*Database
	Log Log

	t       testing.TB
	dir     string
	program []string
	attr    *syscall.SysProcAttr
	cmd     *exec.Cmd
}

// serverTime is how long a server may take to start or to end on a busy machine.
const serverTime = 60 * time.Second

// NewServer starts a server of that kind, "postgres" or "mysql", with further settings
// on its command line. If the server is not installed, the test is skipped; see
// LeaveOut.
func NewServer(t testing.TB, kind string, settings ...string) *Server {
	t.Helper()
	// The directory is not in scratch, which only its owner may enter.
	dir, err := os.MkdirTemp("", "wx-auth-server-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Server{t: t, dir: dir}
	owner := map[string]string{"postgres": "postgres", "mysql": "mysql"}[kind]
	if s.attr, err = childOf(owner, dir); err != nil {
		LeaveOut(t, "a %s of this test's own: %v", kind, err)
	}
	addr := FreeAddress(t)
	_, port, _ := strings.Cut(addr, ":")
	data := filepath.Join(dir, "data")
	switch kind {
	case "postgres":
		install := s.find("initdb", "/usr/lib/postgresql/*/bin")
		s.run(install, "-D", data, "-U", "root", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
		s.program = append([]string{s.find("postgres", "/usr/lib/postgresql/*/bin"), "-D", data, "-h", "127.0.0.1", "-p", port, "-k", ""}, settings...)
		s.Database = open(t, "postgres://root@"+addr+"/postgres")
	case "mysql":
		s.run(s.find("mariadb-install-db", "/usr/bin"), "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")
		s.program = append([]string{s.find("mariadbd", "/usr/sbin"), "--no-defaults", "--datadir=" + data, "--port=" + port, "--bind-address=127.0.0.1",
			"--socket=" + filepath.Join(dir, "s"), "--pid-file=" + filepath.Join(dir, "pid"), "--innodb-buffer-pool-size=64M"}, settings...)
		s.Database = open(t, "mysql://root@"+addr+"/mysql")
	}
	s.Start()
	t.Cleanup(func() {
		s.end(syscall.SIGQUIT)
		if t.Failed() {
			t.Log(s.Log.report(t.Name()+"-"+kind, nil))
		}
	})
	return s
}

// find returns the path of a program, from PATH or from the newest of the directories.
func (s *Server) find(name, directories string) string {
	s.t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob(filepath.Join(directories, name))
	if len(found) == 0 {
		LeaveOut(s.t, "%s is not installed", name)
	}
	// Among versions with equally many digits, the last in the alphabet is the newest.
	return slices.MaxFunc(found, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
}

func (s *Server) command(program []string) *exec.Cmd {
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Dir, cmd.SysProcAttr = s.dir, s.attr
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir, "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = &s.Log, &s.Log
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func (s *Server) run(program ...string) {
	s.t.Helper()
	if err := s.command(program).Run(); err != nil {
		s.t.Fatalf("%s: %v\n%s", program[0], err, s.Log.tail())
	}
}

// Start starts the server, and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	s.cmd = s.command(s.program)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	Await(s.t, serverTime, s.Kind+" answers: "+fmt.Sprint(s.program), func() bool { return s.Ping() == nil })
}

// Stop ends the server cleanly, as for a restart: clients are disconnected, and committed data
// is kept.
func (s *Server) Stop() {
	s.t.Helper()
	fast := syscall.SIGTERM
	if s.Kind == "postgres" {
		fast = syscall.SIGINT // pg_ctl stop -m fast
	}
	s.end(fast)
}

// Crash ends the server as if it had crashed.
func (s *Server) Crash() {
	s.t.Helper()
	hard := syscall.SIGKILL
	if s.Kind == "postgres" {
		hard = syscall.SIGQUIT // pg_ctl stop -m immediate, which also ends its child processes
	}
	s.end(hard)
}

func (s *Server) end(signal os.Signal) {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(signal)
	ended := InBackground(s.cmd.Wait)
	select {
	case <-ended: // whatever the exit code
	case <-time.After(serverTime):
		_ = s.cmd.Process.Kill()
		s.t.Errorf("%s was still there %s after %v", s.Kind, serverTime, signal)
	}
	s.cmd = nil
}

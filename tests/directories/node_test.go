package directories

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// startNode runs a program in JavaScript until the end of the test. It returns once the
// program listens at the address.
func startNode(t testing.TB, program, address string, env ...string) (stop func()) {
	t.Helper()
	home := rig.NodeHome(t, "testdata/node", "the pages' programs in JavaScript")
	dir, err := os.MkdirTemp(home, "run-")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "program.mjs")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	var log rig.Log
	cmd := exec.Command("node", file)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = dir, &log, &log, rig.ChildAttributes()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		stop()
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("the program says:\n%s", log.String())
		}
	})
	rig.Await(t, 30*time.Second, "the program listens", func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return stop
}

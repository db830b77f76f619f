package directories

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
	cmd := exec.Command("node", file)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := startProgram(t, cmd, address)
	p.awaitListening(t)
	return p.Kill
}

// program is a team's program, which is to listen at an address.
type program struct {
	*rig.Program
	address string
}

// startProgram runs a command until the end of the test.
func startProgram(t testing.TB, cmd *exec.Cmd, address string) *program {
	t.Helper()
	return &program{rig.StartProgram(t, cmd), address}
}

func (p *program) awaitListening(t testing.TB) {
	t.Helper()
	if !p.Listens(t, p.address) {
		t.Fatal("the program ended")
	}
}

// output runs a command in a directory. What it printed is in the error if it failed.
func output(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.SysProcAttr = dir, rig.ChildAttributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

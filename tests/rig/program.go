package rig

import (
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// Program is a program beside the Caddy under test. It ends with the test at the latest.
type Program struct {
	Cmd    *exec.Cmd
	Log    Log           // what the program has written
	Exited chan struct{} // closed once the program has ended
	Err    error         // how it ended, once Exited is closed
	// Kill ends the program and waits until it has ended.
	Kill func()
}

// StartProgram starts a command. If the test fails, the end of what the program wrote is
// printed.
func StartProgram(t testing.TB, cmd *exec.Cmd) *Program {
	t.Helper()
	p := &Program{Cmd: cmd, Exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = &p.Log, &p.Log, ChildAttributes()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.Err = cmd.Wait()
		close(p.Exited)
	}()
	p.Kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		<-p.Exited
	})
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			lines := strings.Split(p.Log.String(), "\n")
			t.Logf("%s says at its end:\n%s", cmd, strings.Join(lines[max(0, len(lines)-50):], "\n"))
		}
	})
	return p
}

// Ended reports whether the program has ended.
func (p *Program) Ended() bool {
	select {
	case <-p.Exited:
		return true
	default:
		return false
	}
}

// Listens waits until the program listens at an address. It returns false if the program ended
// before.
func (p *Program) Listens(t testing.TB, address string) (listens bool) {
	t.Helper()
	Await(t, 30*time.Second, "the program listens or ends", func() bool {
		if p.Ended() {
			return true
		}
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
		}
		listens = err == nil
		return listens
	})
	return listens
}

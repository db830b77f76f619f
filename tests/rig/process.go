package rig

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ProcessorTime returns the processor time that a process has used so far. It needs
// Linux; elsewhere the test is skipped.
func ProcessorTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skipf("left out: %v", err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// Resident returns how much memory a process holds, in bytes. It needs Linux; elsewhere
// the test is skipped.
func Resident(t testing.TB, pid int) (bytes int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("left out: %v", err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(rest, &bytes); err != nil {
		t.Fatal(err)
	}
	return bytes << 10
}

// listensTwice returns an address at which a process has more than one TCP listener, or "".
// It needs Linux.
func listensTwice(pid int) (address string, err error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	own := make(map[string]bool)
	files, err := os.ReadDir(dir + "fd")
	if err != nil {
		return "", err
	}
	for _, f := range files {
		to, _ := os.Readlink(dir + "fd/" + f.Name()) // it may be closed by now
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	seen := make(map[string]bool)
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		text, err := os.ReadFile(dir + table)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(text)) {
			const local, state, inode = 1, 3, 9
			const listens = "0A"
			f := strings.Fields(line)
			if len(f) <= inode || f[state] != listens || !own[f[inode]] {
				continue
			}
			if seen[f[local]] {
				return f[local], nil
			}
			seen[f[local]] = true
		}
	}
	return "", nil
}

// Usage is the resources that a process holds.
type Usage struct {
	Goroutines, Files, Sockets int
}

// Usage returns the resources that Caddy holds at the moment. Files and sockets are
// known on Linux only.
func (c *Caddy) Usage(t testing.TB) (u Usage) {
	t.Helper()
	profile, err := c.Admin("/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	if m := goroutineTotal.FindStringSubmatch(profile); m != nil {
		u.Goroutines, _ = strconv.Atoi(m[1])
	}
	dir := fmt.Sprintf("/proc/%d/fd", c.PID())
	files, err := os.ReadDir(dir)
	if err != nil {
		return u // not Linux
	}
	for _, f := range files {
		u.Files++
		if to, err := os.Readlink(dir + "/" + f.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			u.Sockets++
		}
	}
	return u
}

var goroutineTotal = regexp.MustCompile(`^goroutine profile: total (\d+)`)

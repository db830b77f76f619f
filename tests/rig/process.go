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

// ProcessorTime is what a process has used of the processors so far, as Linux
// counts it; elsewhere the test is left out.
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

// Resident is how much memory a process holds, in bytes, as Linux counts it; elsewhere
// the test is left out.
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

// Usage is what a process holds.
type Usage struct {
	Goroutines, Files, Sockets int
}

// Usage is what Caddy holds at the moment; files and sockets as Linux tells them.
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
		return u // another system
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

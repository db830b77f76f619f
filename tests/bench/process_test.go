//go:build linux

package bench

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// processorTime returns the processor time that a process has used so far, in nanoseconds.
// /proc/PID/stat has the same value, but only in units of ten milliseconds.
func processorTime(t testing.TB, pid int) time.Duration {
	var ts syscall.Timespec
	clock := ^pid<<3 | 2 // linux/include/linux/posix-timers.h: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		t.Fatal(errno)
	}
	return time.Duration(ts.Nano())
}

// heap returns how many bytes of a Caddy's heap and stacks are in use after some collections.
// Each collection halves the stacks that have grown.
func heap(t testing.TB, c *rig.Caddy) (bytes int) {
	for range 5 {
		text, err := c.Admin("/debug/pprof/heap?gc=1&debug=1")
		if err != nil {
			t.Fatal(err)
		}
		bytes = field(t, text, "# HeapAlloc =") + field(t, text, "# Stack =")
	}
	return bytes
}

func field(t testing.TB, text, name string) (n int) {
	t.Helper()
	_, rest, ok := strings.Cut(text, name)
	if _, err := fmt.Sscan(rest, &n); err != nil || !ok {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

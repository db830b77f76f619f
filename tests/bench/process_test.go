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

// processorTime is what a process has used of the processors so far. It is what
// /proc/PID/stat shows, which counts in hundredths of a second, to the nanosecond.
func processorTime(t testing.TB, pid int) time.Duration {
	var ts syscall.Timespec
	clock := ^pid<<3 | 2 // linux/include/linux/posix-timers.h: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		t.Fatal(errno)
	}
	return time.Duration(ts.Nano())
}

// heap is what is in use of a Caddy's heap and stacks after some collections, in
// bytes: each halves the stacks that have grown.
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

package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// monotonic returns a clock that never jumps and goes on while the machine is
// suspended. Go's own monotonic clock stands still then, and the wall clock would seem
// to have jumped ahead.
func monotonic() func() time.Duration {
	if _, err := boottime(); err != nil { // Linux before 2.6.39, or a sandbox
		start := time.Now()
		return func() time.Duration { return time.Since(start) }
	}
	return func() time.Duration {
		d, _ := boottime() // it worked before
		return d
	}
}

func boottime() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano()), err
}

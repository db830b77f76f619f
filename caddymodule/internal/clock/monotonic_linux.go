package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// monotonic is a clock that never jumps and goes on while the machine is
// suspended. Go's own stands still then: everything would look as if the wall
// clock had jumped ahead.
func monotonic() func() time.Duration {
	if _, err := boottime(); err != nil { // a kernel before 2.6.39, or a sandbox
		start := time.Now()
		return func() time.Duration { return time.Since(start) }
	}
	return func() time.Duration {
		d, _ := boottime() // which has worked before
		return d
	}
}

func boottime() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano()), err
}

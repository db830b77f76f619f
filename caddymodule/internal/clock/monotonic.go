//go:build !linux

package clock

import "time"

// monotonic returns a clock that never jumps. It may stand still while the machine is
// suspended; afterwards the wall clock then seems to have jumped ahead.
func monotonic() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}

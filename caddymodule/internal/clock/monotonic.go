//go:build !linux

package clock

import "time"

// monotonic is a clock that never jumps. While the machine is suspended it may
// stand still; then the wall clock seems to have jumped ahead afterwards.
func monotonic() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}

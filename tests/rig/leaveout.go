package rig

import (
	"fmt"
	"os"
	"testing"
)

// requireDeploy makes the tests of examples fail, rather than be skipped, if the machine
// cannot run or check one of them. .ci/run sets it.
const requireDeploy = "WX_AUTH_TEST_REQUIRE_DEPLOY"

// LeaveOutDeploy leaves a test out, for that reason, or fails it.
func LeaveOutDeploy(t testing.TB, what, reason string, args ...any) {
	t.Helper()
	leaveOut(t, requireDeploy, what, fmt.Sprintf(reason, args...))
}

// leaveOut skips a test. If the environment variable is set, the test fails instead.
func leaveOut(t testing.TB, variable, what, reason string) {
	t.Helper()
	if os.Getenv(variable) != "" {
		t.Fatalf("%s is set, and %s cannot be tested: %s", variable, what, reason)
	}
	t.Skipf("LEFT OUT: %s: %s (%s=1 makes this a failure)", what, reason, variable)
}

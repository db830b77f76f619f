// Package logins tests the endpoints of the built binary: logins, sessions, the service
// endpoints and message push, while WeChat, which is the simulator, works or fails.
package logins

import (
	"os"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

func TestMain(m *testing.M) {
	os.Exit(rig.Main(m,
		"TestPhoneLoginFromTheCodesToTheUpstream", "TestSilentLogin", "TestRefresh", "TestLogout", "TestMe", "TestVerify", "TestHealth", "TestServiceRevokes", "TestOnNewOpenID", "TestSameCodesAreTheSameSession"))
}

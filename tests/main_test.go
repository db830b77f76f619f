// Package tests tests the built binary from outside: over HTTP, with signals, and with
// its commands. WeChat is the simulator, and the API behind the gateway is a server of
// the test.
package tests

import (
	"os"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

func TestMain(m *testing.M) {
	os.Exit(rig.Main(m,
		"TestPhoneLoginFromTheCodesToTheUpstream", "TestSilentLogin", "TestRefresh", "TestLogout", "TestMe", "TestVerify", "TestHealth",
		"TestServiceRevokes", "TestOnNewOpenID", "TestSameCodesAreTheSameSession", "TestReloadKeepsSessionsAndRevocations",
		"TestEveryCellOfTheCredentialTable", "TestAttackIdentityHeadersInEverySpelling", "TestAttackForgedTokens",
		"TestNoPackageImportsUpwards", "TestLibrariesStayInTheirPackages", "TestNothingIsLeftToDo",
		"TestTestsHaveAShortNameAndAStory", "TestCommentsAreReadOnce"))
}

// Package requests tests what the built binary lets through to the API behind it, and what
// it refuses: credentials, attacks, uploads, connections that stay, forward auth.
package requests

import (
	"os"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

func TestMain(m *testing.M) {
	os.Exit(rig.Main(m,
		"TestEveryCellOfTheCredentialTable", "TestAttackIdentityHeadersInEverySpelling", "TestAttackForgedTokens"))
}

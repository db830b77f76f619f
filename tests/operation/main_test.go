// Package operation tests what an operator of the built binary has to do with: reloads and
// the store's life, commands, health, logs, metrics, traces.
package operation

import (
	"os"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

func TestMain(m *testing.M) {
	os.Exit(rig.Main(m,
		"TestReloadKeepsSessionsAndRevocations"))
}

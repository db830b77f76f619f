// Package tests checks the repository itself: its structure, its language, and that its
// pages agree with the code. The packages below it try the built binary.
package tests

import (
	"os"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

func TestMain(m *testing.M) {
	os.Exit(rig.Main(m,
		"TestNoPackageImportsUpwards", "TestLibrariesStayInTheirPackages", "TestNothingIsLeftToDo", "TestTestsHaveAShortNameAndAStory", "TestCommentsAreReadOnce"))
}

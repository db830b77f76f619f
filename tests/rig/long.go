package rig

import "os"

// Long makes the tests do more rounds, and use larger tables, than an ordinary run has
// time for.
var Long = os.Getenv("WX_AUTH_TEST_LONG") != ""

// Rounds returns how often to do something: long if Long is set, else usual.
func Rounds(usual, long int) int {
	if Long {
		return long
	}
	return usual
}

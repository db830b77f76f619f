package rig

import "os"

// Long makes the tests do more rounds over larger tables than an ordinary run has time
// for.
var Long = os.Getenv("WX_AUTH_TEST_LONG") != ""

// Rounds returns the number of repetitions: long if Long is set, otherwise usual.
func Rounds(usual, long int) int {
	if Long {
		return long
	}
	return usual
}

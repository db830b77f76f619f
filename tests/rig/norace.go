//go:build !race

package rig

// RaceDetector reports whether these tests, and therefore the binary, run with the race
// detector.
const RaceDetector = false

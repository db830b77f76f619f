//go:build race

package rig

// RaceDetector says that these tests, and so also the binary, run with the race
// detector.
const RaceDetector = true

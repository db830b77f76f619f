//go:build race

package rig

// RaceDetector says that these tests run with the race detector: then so does the
// binary.
const RaceDetector = true

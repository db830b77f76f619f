//go:build !race

package tests

// raceDetector says that these tests run with the race detector: then so does the
// binary.
const raceDetector = false

//go:build race

package token

// raceDetector reports whether these tests run with the race detector.
const raceDetector = true

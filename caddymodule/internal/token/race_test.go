//go:build race

package token

// raceDetector says that these tests run with the race detector.
const raceDetector = true

//go:build race

package e2e

// raceEnabled: these tests run with the race detector, so the binary does too.
const raceEnabled = true

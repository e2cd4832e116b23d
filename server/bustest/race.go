//go:build race

package bustest

// raceEnabled: these tests run with the race detector, so the binary does too.
const raceEnabled = true

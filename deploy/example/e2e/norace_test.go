//go:build !race

package e2e

func buildFlags() []string { return []string{"build"} }

func hasRace([]byte) bool { return false }

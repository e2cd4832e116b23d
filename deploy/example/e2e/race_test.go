//go:build race

package e2e

import "bytes"

func buildFlags() []string { return []string{"build", "-race"} }

func hasRace(log []byte) bool { return bytes.Contains(log, []byte("DATA RACE")) }

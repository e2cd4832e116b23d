package hub_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

// modelChecks is how many random histories a model test plays; -rapid.checks on
// the command line wins.
const modelChecks = "500"

func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", modelChecks); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

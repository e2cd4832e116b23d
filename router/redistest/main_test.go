package redistest

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// ownerEnv names a directory in which this binary starts a server instead of testing, to be killed with it.
const ownerEnv = "REDISTEST_OWNER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerEnv); dir != "" {
		if err := ownServer(dir); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// ownServer is the process that TestStandalone_DiesWithTheTestBinary kills.
func ownServer(dir string) error {
	s, err := Start(context.Background(), dir)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, s.Addr()); err != nil {
		return err
	}
	select {}
}

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
		ownServer(dir)
	}
	goleak.VerifyTestMain(m)
}

// ownServer is the process that TestStandalone_DiesWithTheTestBinary kills.
func ownServer(dir string) {
	s, err := Start(context.Background(), dir)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.Addr())
	select {}
}

package console

import (
	"testing"

	"github.com/eco2-team/eventbus/server/bustest"
)

func TestMain(m *testing.M) { bustest.Main(m) }

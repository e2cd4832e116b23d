package redistest

import (
	"context"
	"testing"
	"time"
)

func TestStandalone_Answers(t *testing.T) {
	start := time.Now()
	s := New(t)
	t.Logf("ready after %v", time.Since(start))
	if got := s.CLI(t, "PING"); got != "PONG" {
		t.Errorf("PING = %q", got)
	}
	if err := s.Client().Set(context.Background(), "a", 1, 0).Err(); err != nil {
		t.Error(err)
	}
}

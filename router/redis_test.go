package router

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/eco2-team/eventbus/router/event"
)

// A subscription ends with io.EOF after its job's final event, and go-redis says
// io.EOF where Redis closed the connection: the one must never pass for the other.
func TestUnavailable_ClosedConnectionIsNotTheEndOfAJob(t *testing.T) {
	t.Parallel()
	err := unavailable(fmt.Errorf("read: %w", io.EOF))
	if errors.Is(err, io.EOF) {
		t.Error("a closed connection ends streams as if their jobs were over")
	}
	if event.KindOf(err) != event.Unavailable {
		t.Errorf("kind of %v: %v, want Unavailable", err, event.KindOf(err))
	}
}

package demo

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// start runs a worker and returns a function that ends it and returns what Run
// returned.
func start(t *testing.T, client eventbusv1.EventBusServiceClient, pace time.Duration) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(client, slog.New(slog.DiscardHandler), Options{Pace: pace}).Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

func mustStop(t *testing.T, stop func() error) {
	t.Helper()
	if err := stop(); err != nil {
		t.Errorf("Run after its context ended: %v, want nil", err)
	}
}

func checkScan(t *testing.T, j *memoryJob) {
	t.Helper()
	steps := []string{
		"queued started 0", "queued completed 5",
		"vision started 5", "vision completed 40",
		"rule started 40", "rule completed 55",
		"answer started 55", "answer completed 85",
		"reward started 85", "reward completed 95",
		"done completed 100",
	}
	var got []string
	for _, e := range j.events {
		got = append(got, strings.Join([]string{e.GetStage(), e.GetStatus(), progress(e)}, " "))
	}
	if diff := cmp.Diff(steps, got); diff != "" {
		t.Errorf("events of scan %s (-want +got):\n%s", j.id, diff)
	}
	vision := j.events[3].GetResult().GetStructValue().AsMap()
	if got := vision["middle_category"]; got != "금속캔" {
		t.Errorf("vision found %v, want 금속캔", got)
	}
	whole := j.events[len(j.events)-1].GetResult().GetStructValue().AsMap()
	if diff := cmp.Diff(vision, whole["vision"]); diff != "" || len(whole) != 4 {
		t.Errorf("the final result has %d stages, vision differs:\n%s", len(whole), diff)
	}
}

func progress(e *eventbusv1.Event) string {
	if e.Progress == nil {
		return "unset"
	}
	return strconv.Itoa(int(e.GetProgress()))
}

func checkChat(t *testing.T, j *memoryJob) {
	t.Helper()
	if got := len(j.events); got != 201 {
		t.Fatalf("chat %s has %d events, want 200 tokens and the final one", j.id, got)
	}
	var text strings.Builder
	for _, e := range j.events[:200] {
		if e.GetStage() != "token" || e.GetStatus() != "streaming" {
			t.Fatalf("chat %s: %v, want a streaming token", j.id, e)
		}
		text.WriteString(e.GetContent())
	}
	final := j.events[200].GetResult().GetStructValue().AsMap()
	if text.String() != chatAnswer || final["text"] != chatAnswer {
		t.Errorf("chat %s says %q and at last %q", j.id, text.String(), final["text"])
	}
}

func TestWorker_PlaysBothJobsInOrderAgainAndAgain(t *testing.T) {
	bus := newMemoryBus()
	stop := start(t, bus.serve(t), 0)
	scans, chats := bus.waitFinished(t, "scan", 3), bus.waitFinished(t, "chat", 3)
	mustStop(t, stop)

	for _, j := range scans {
		checkScan(t, j)
	}
	for _, j := range chats {
		checkChat(t, j)
	}
}

func TestWorker_RepeatsOfWhatFailedAreWrittenOnce(t *testing.T) {
	bus := newMemoryBus()
	down := status.Error(codes.Unavailable, "redis is away")
	fail := func(calls ...int) func(int) error {
		return func(call int) error {
			if slices.Contains(calls, call) {
				return down
			}
			return nil
		}
	}
	bus.before = fail(3, 40, 90)
	bus.after = fail(6, 60, 120) // the reply is lost, the event is not
	stop := start(t, bus.serve(t), 0)
	scan, chat := bus.waitFinished(t, "scan", 1)[0], bus.waitFinished(t, "chat", 1)[0]
	mustStop(t, stop)

	checkScan(t, scan)
	checkChat(t, chat)
	if bus.duplicates() == 0 {
		t.Error("no event was repeated: the test shows nothing")
	}
}

func TestWorker_LeavesNothingBehindWhenItsContextEnds(t *testing.T) {
	bus := newMemoryBus()
	stop := start(t, bus.serve(t), time.Hour) // every wait is as good as endless
	bus.waitEvent(t)
	mustStop(t, stop) // goleak looks for the rest
}

func TestWorker_EndsWhenTheBusRefusesAnEventForGood(t *testing.T) {
	bus := newMemoryBus()
	bus.before = func(int) error { return status.Error(codes.InvalidArgument, "unknown domain") }
	worker := New(bus.serve(t), slog.New(slog.DiscardHandler), Options{})

	err := worker.Run(t.Context())
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("Run: %v, want the refusal", err)
	}
}

func TestWorker_PlaysAtItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := newMemoryBus()
		begin := time.Now()
		stop := start(t, inProcess{bus: bus}, DefaultPace)
		scan := bus.waitFinished(t, "scan", 1)[0]
		scanTook := time.Since(begin)
		chat := bus.waitFinished(t, "chat", 1)[0]
		chatTook := time.Since(begin)
		mustStop(t, stop)

		checkScan(t, scan)
		checkChat(t, chat)
		if want := 95 * DefaultPace; scanTook != want {
			t.Errorf("a scan took %v, want %v", scanTook, want)
		}
		if want := 200 * DefaultPace; chatTook != want {
			t.Errorf("200 tokens took %v, want %v", chatTook, want)
		}
		// The end follows the last token at the same instant: it may share its call.
		if got := chat.batches; len(got) < 200 || slices.Max(got[:199]) != 1 {
			t.Errorf("a bus that answers at once got calls of %v tokens, want one in each", got)
		}
	})
}

func TestChat_ASlowBusGetsLargerBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := newMemoryBus()
		stop := start(t, inProcess{bus: bus, latency: 20 * DefaultPace}, DefaultPace)
		chat := bus.waitFinished(t, "chat", 1)[0]
		mustStop(t, stop)

		checkChat(t, chat)
		if got := len(chat.batches); got > 13 {
			t.Errorf("calls of %v tokens, want about 20 in each", chat.batches)
		}
	})
}

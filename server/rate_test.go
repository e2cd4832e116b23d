package server

import (
	"strconv"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/eco2-team/eventbus/router/event"
)

func TestPublishRate_OverItIsExhaustedAndSaysWhenToComeBack(t *testing.T) {
	r := newRig(t, guarded(t), func(s *setup) { s.grpc.PublishRate = 0.01 })
	ctx := mint(t, hour(), []string{"scan/*"}, []string{"scan/*"})
	publish := r.calls("j")["Publish"]
	if err := publish(ctx); err != nil {
		t.Fatal(err)
	}
	err := publish(ctx)
	wantCode(t, err, codes.ResourceExhausted)
	var retry time.Duration
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			retry = info.GetRetryDelay().AsDuration()
		}
	}
	if retry <= 50*time.Second || retry > 100*time.Second { // less what has passed since the first
		t.Errorf("come back in %s", retry)
	}
	// Reading goes on.
	if err := r.calls("j")["ListEvents"](ctx); err != nil {
		t.Error(err)
	}
	if n := r.metric(t, "eventbus_grpc_refused_total", "reason", "rate"); n != 1 {
		t.Errorf("%v calls are counted", n)
	}
}

// ticking is a clock of the test's.
func ticking(r *callerRates) (pass func(time.Duration)) {
	now := time.Unix(1_700_000_000, 0)
	r.now = func() time.Time { return now }
	return func(d time.Duration) { now = now.Add(d) }
}

func TestCallerRates_ASecondsWorthMayComeAtOnce(t *testing.T) {
	r := newCallerRates(10)
	pass := ticking(r)
	for range 10 {
		if err := r.take("a", 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.take("a", 1); event.KindOf(err) != event.Exhausted {
		t.Errorf("the eleventh: %v", err)
	}
	if err := r.take("b", 1); err != nil {
		t.Errorf("another caller: %v", err)
	}
	pass(100 * time.Millisecond)
	if err := r.take("a", 1); err != nil {
		t.Errorf("a tenth of a second later: %v", err)
	}
}

func TestCallerRates_ALargeBatchPassesAndIsPaidOff(t *testing.T) {
	r := newCallerRates(10)
	pass := ticking(r)
	if err := r.take("a", MaxBatchRequests); err != nil {
		t.Fatal(err)
	}
	pass(98 * time.Second)
	if err := r.take("a", 1); event.KindOf(err) != event.Exhausted {
		t.Errorf("in debt: %v", err)
	}
	pass(2 * time.Second)
	if err := r.take("a", 1); err != nil {
		t.Errorf("paid off: %v", err)
	}
}

func TestCallerRates_ZeroIsNoLimitAndKeepsNothing(t *testing.T) {
	r := newCallerRates(0)
	for range 10_000 {
		if err := r.take("a", 1); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.callers) != 0 {
		t.Errorf("%d callers are kept", len(r.callers))
	}
}

// Callers that nobody knows may come without end.
func TestCallerRates_WhoHasPublishedLongAgoIsForgotten(t *testing.T) {
	r := newCallerRates(10)
	pass := ticking(r)
	if err := r.take("busy", 10_000); err != nil {
		t.Fatal(err)
	}
	for n := range 100_000 {
		if err := r.take(strconv.Itoa(n), 1); err != nil {
			t.Fatal(err)
		}
		pass(time.Millisecond)
	}
	if len(r.callers) > 2*minSweep {
		t.Errorf("%d callers are kept", len(r.callers))
	}
	if err := r.take("busy", 1); err == nil {
		t.Error("a debt was forgotten")
	}
}

func TestConfig_AccessSettingsGoTogether(t *testing.T) {
	for name, c := range map[string]Config{
		"GRPC_TLS_CERT":      {TLSCert: "c"},
		"GRPC_TLS_CLIENT_CA": {TLSClientCA: "ca"},
		"AUTH_CLIENT_NAMES":  {TLSCert: "c", TLSKey: "k", ClientNames: []string{"edge"}},
		"PUBLISH_RATE":       {PublishRate: -1},
		"MAX_CONNECTION_AGE": {MaxConnectionAge: time.Millisecond},
	} {
		c.GRPCAddr = ":9090"
		if err := c.Check(); err == nil || event.KindOf(err) != event.Invalid || err.Error()[:len(name)] != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := Config{GRPCAddr: ":9090", TLSCert: "c", TLSKey: "k", TLSClientCA: "ca", ClientNames: []string{"edge"}, PublishRate: 1}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
}

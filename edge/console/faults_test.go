package console

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/eco2-team/eventbus/edge/browsertest"
)

// What a real bus and a good network do not do, in front of a bus that is told to.
func TestConsole_OverFaults(t *testing.T) {
	browser := browsertest.New(t)
	for _, c := range []struct {
		rule string
		test func(*testing.T, context.Context)
	}{
		{"TextIsWholeThoughEveryConnectionIsCut", testTextOverCuts},
		{"AHoleIsShown", testHole},
		{"AProxysErrorDoesNotEndIt", testBadGateway},
		{"ARefusalIsShownAndEndsTheConnection", testRefusals},
		{"AnEventSentAgainHasItsKey", testLostReplies},
		{"AnEdgeThatTellsNothingOfTheClusterIsNoMatter", testNoCluster},
	} {
		t.Run(c.rule, func(t *testing.T) { c.test(t, browser) })
	}
}

// counted checks the page's own counters.
func (p tab) counted(want string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`(({events, duplicates, holes}) => [events, duplicates, holes].join())(%s.dataset)`, hook("counts")), want)
}

func testTextOverCuts(t *testing.T, browser context.Context) {
	t.Helper()
	bus := newFakeBus(faults{cutAfter: 7})
	var text strings.Builder
	for i := range 60 {
		token := fmt.Sprintf("낱말%d ", i)
		text.WriteString(token)
		bus.add("chat-1", "token", "streaming", "content", token)
	}
	p := openTab(t, browser, bus.serve(t)+"/#/jobs/scan/chat-1")
	p.until(hook("tokens")+"?.textContent", text.String())
	for i := range 20 { // live now
		token := fmt.Sprintf("more%d ", i)
		text.WriteString(token)
		bus.add("chat-1", "token", "streaming", "content", token)
	}
	bus.add("chat-1", "done", "completed", "progress", 100, "final", true)

	p.until(hook("connection")+".textContent", "finished")
	p.until(hook("tokens")+".textContent", text.String())
	p.until(hook("progress")+".value", 100)
	p.counted("81,0,0")
}

func testHole(t *testing.T, browser context.Context) {
	t.Helper()
	bus := newFakeBus(faults{withheld: 3})
	for _, token := range []string{"a", "b", "c", "d"} {
		bus.add("lossy", "token", "streaming", "content", token)
	}
	p := openTab(t, browser, bus.serve(t)+"/#/jobs/scan/lossy")
	p.until(hook("hole")+"?.textContent", "Events 3 to 3 are missing") // while the job goes on
	p.until(hook("tokens")+".textContent", "ab⟪events 3 to 3 missing⟫d")
	bus.add("lossy", "done", "completed", "final", true)
	p.until(hook("connection")+".textContent", "finished")
	p.counted("4,0,1")
}

func testBadGateway(t *testing.T, browser context.Context) {
	t.Helper()
	bus := newFakeBus(faults{cutAfter: 2, badGateways: 2})
	for _, token := range []string{"a", "b", "c", "d"} {
		bus.add("proxied", "token", "streaming", "content", token)
	}
	bus.add("proxied", "done", "completed", "final", true)
	p := openTab(t, browser, bus.serve(t)+"/#/jobs/scan/proxied")
	p.until(hook("connection")+"?.textContent", "finished")
	p.until(hook("tokens")+".textContent", "abcd")
	p.counted("5,0,0")
}

func testRefusals(t *testing.T, browser context.Context) {
	t.Helper()
	p := openTab(t, browser, newFakeBus(faults{}).serve(t)+"/#/jobs/scan/refused")
	p.until(hook("connection")+"?.textContent", "refused")
	p.until(hook("error")+".textContent", "HTTP 400: job_id: not a good one")
}

func testLostReplies(t *testing.T, browser context.Context) {
	t.Helper()
	bus := newFakeBus(faults{})
	p := openTab(t, browser, bus.serve(t)+"/#/publish/scan/mine")
	send := func(want string) {
		t.Helper()
		p.until("("+hook("published")+".textContent = '')", "")
		p.do(chromedp.Click(`[data-testid=publish-send]`))
		p.until(hook("published")+".textContent.slice(0, "+fmt.Sprint(len(want))+")", want)
	}
	p.until(hook("publish-send")+" !== null", true)
	send("Acknowledged")
	bus.setLoseReplies(true)
	send("Not sent")
	bus.setLoseReplies(false)
	send("Acknowledged")
	if keys := bus.distinctKeys(); len(keys) != 2 || len(keys[0]) != 36 {
		t.Errorf("Idempotency-Keys %q: a UUID for each event, and the same when it is sent again", keys)
	}
	send("Acknowledged")
	if keys := bus.distinctKeys(); len(keys) != 3 {
		t.Errorf("Idempotency-Keys %q: the next event has the key of one that was acknowledged", keys)
	}
}

func testNoCluster(t *testing.T, browser context.Context) {
	t.Helper()
	bus := newFakeBus(faults{})
	p := openTab(t, browser, bus.serve(t))
	p.until(hook("locked")+"?.querySelector('h2').textContent", "The edge does not answer")
	p.until(hook("health")+".textContent", "not known")
	p.keys("2")
	p.until(hook("watch")+"?.textContent", "live")
	bus.add("job-1", "no-event-name-of-ours", "started")
	p.until(`document.querySelector('[data-job=job-1]')?.dataset.stage`, "no-event-name-of-ours")
	for i := range 310 {
		bus.add(fmt.Sprintf("many-%d", i), "vision", "started")
	}
	p.until(`document.querySelector('[data-job=many-309]') !== null`, true)
	p.until(`document.querySelectorAll('[data-job]').length`, 300)
}

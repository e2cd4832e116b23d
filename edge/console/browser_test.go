package console

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// newBrowser starts Chromium; tabs of it are made by chromedp.NewContext.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, // CI runs as root
		chromedp.UserDataDir(t.TempDir()),
	)...)
	browser, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		if err := chromedp.Cancel(browser); err != nil {
			t.Errorf("close the browser: %v", err)
		}
		cancel()
		cancelAllocator()
	})
	if err := chromedp.Do(browser); err != nil {
		t.Fatalf("start Chromium: %v", err)
	}
	return browser
}

// tab is a tab with the page in it.
type tab struct {
	t   *testing.T
	ctx context.Context
}

func openTab(t *testing.T, browser context.Context, url string) tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	ctx, cancelTimeout := context.WithTimeout(ctx, 30*time.Second)
	t.Cleanup(cancelTimeout)
	err := chromedp.Listen(ctx, func(ev any) {
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("the page threw: %s %+v", ev.ExceptionDetails.Text, ev.ExceptionDetails.Exception)
		case *log.EventEntryAdded:
			if ev.Entry.Source == log.EntrySourceSecurity {
				t.Errorf("the browser refused: %s", ev.Entry.Text)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	return tab{t, ctx}
}

// until waits until the JavaScript expression has the value. It looks from inside
// the page; chromedp.Poll would need eval there, which the policy forbids.
func (p tab) until(expression string, want any) {
	p.t.Helper()
	value, err := json.Marshal(want)
	if err != nil {
		p.t.Fatal(err)
	}
	look := fmt.Sprintf(`new Promise((found) => {
		const end = Date.now() + 15000;
		(function look() {
			const got = %s;
			if (got === %s || Date.now() > end) found(String(got));
			else setTimeout(look, 10);
		})();
	})`, expression, value)
	got, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](look, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	if got != fmt.Sprint(want) {
		p.t.Fatalf("%s is %q, want %q", expression, got, fmt.Sprint(want))
	}
}

func (p tab) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// hook is the expression of the element with that data-testid.
func hook(name string) string {
	return "document.querySelector('[data-testid=" + name + "]')"
}

// over waits until the job is finished and its EventSource closed for good.
func (p tab) over() {
	p.t.Helper()
	p.until(hook("connection")+".textContent", "finished")
	p.until(hook("follow")+".dataset.readyState", "2")
}

// counted checks the page's own counters.
func (p tab) counted(want string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`(({events, repaired, duplicates, holes}) => [events, repaired, duplicates, holes].join())(%s.dataset)`, hook("counts")), want)
}

func TestConsole_InABrowser(t *testing.T) {
	browser := newBrowser(t)
	for _, c := range []struct {
		rule string
		test func(*testing.T, context.Context)
	}{
		{"TextIsWholeThoughEveryConnectionIsCut", testTextOverCuts},
		{"StagesThatNobodyNamedAreShown", testUnknownStages},
		{"AHoleIsShown", testHole},
		{"AProxysErrorDoesNotEndIt", testBadGateway},
		{"AResultIsPrettyAndMarkupStaysText", testResults},
		{"TheListShowsJobsAndAClickFollows", testList},
		{"PublishingSendsAKeyAndShowsTheAnswer", testPublishing},
		{"ARefusalIsShownAndEndsTheConnection", testRefusals},
	} {
		t.Run(c.rule, func(t *testing.T) { c.test(t, browser) })
	}
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
	p := openTab(t, browser, bus.serve(t)+"/#scan/chat-1")
	p.until(hook("tokens")+".textContent", text.String())
	for i := range 20 { // live now
		token := fmt.Sprintf("more%d ", i)
		text.WriteString(token)
		bus.add("chat-1", "token", "streaming", "content", token)
	}
	bus.add("chat-1", "done", "completed", "progress", 100, "final", true)

	p.over()
	p.until(hook("tokens")+".textContent", text.String())
	p.until(hook("progress")+".value", 100)
	p.counted("81,0,0,0")
	if n := bus.told204(); n != 1 {
		t.Errorf("the browser came back %d times after the end, want once", n)
	}
}

func testUnknownStages(t *testing.T, browser context.Context) {
	t.Helper()
	bus := newFakeBus(faults{})
	bus.add("odd", "zeta", "completed")
	bus.add("odd", "eta", "completed")
	bus.add("odd", "theta", "waiting")
	p := openTab(t, browser, bus.serve(t)+"/#scan/odd")
	stages := `[...document.querySelectorAll('[data-testid=stage]')].map((s) => s.dataset.stage + ' ' + s.dataset.status).join()`
	p.until(stages, "zeta completed,eta completed,theta waiting")
	bus.add("odd", "iota", "completed")
	p.until(stages, "zeta completed,eta completed,theta waiting,iota completed")
	bus.add("odd", "kappa", "failed", "final", true)
	p.until(stages, "zeta completed,eta completed,theta waiting,iota completed,kappa failed")
	p.over()
	p.until(hook("counts")+".dataset.holes", "0")
}

func testHole(t *testing.T, browser context.Context) {
	t.Helper()
	bus := newFakeBus(faults{withheld: 3})
	for _, token := range []string{"a", "b", "c", "d"} {
		bus.add("lossy", "token", "streaming", "content", token)
	}
	p := openTab(t, browser, bus.serve(t)+"/#scan/lossy")
	p.until(hook("hole")+"?.textContent", "Events 3 to 3 are missing") // while the job goes on
	p.until(hook("tokens")+".textContent", "ab⟪events 3 to 3 missing⟫d")
	bus.add("lossy", "done", "completed", "final", true)
	p.over()
	p.counted("4,0,0,1")
}

// A native EventSource gives up at the 502; the page begins a new one where it was.
func testBadGateway(t *testing.T, browser context.Context) {
	t.Helper()
	bus := newFakeBus(faults{cutAfter: 2, badGateways: 2})
	for _, token := range []string{"a", "b", "c", "d"} {
		bus.add("proxied", "token", "streaming", "content", token)
	}
	bus.add("proxied", "done", "completed", "final", true)
	p := openTab(t, browser, bus.serve(t)+"/#scan/proxied")
	p.over()
	p.until(hook("tokens")+".textContent", "abcd")
	p.until(hook("counts")+".dataset.duplicates", "0")
}

func testResults(t *testing.T, browser context.Context) {
	t.Helper()
	bus := newFakeBus(faults{})
	bus.add("markup", "vision", "completed", "message", "<b>bold</b>", "result", map[string]any{"a": []int{1}, "b": "<img src=x>"})
	bus.add("markup", "token", "streaming", "content", "<script>alert(1)</script>")
	p := openTab(t, browser, bus.serve(t)+"/#scan/markup")
	p.until(hook("result")+"?.textContent", "{\n  \"a\": [\n    1\n  ],\n  \"b\": \"<img src=x>\"\n}")
	p.until(hook("tokens")+".textContent", "<script>alert(1)</script>")
	p.until(`document.querySelectorAll('main b, main img, main script').length`, 0)
	p.until(hook("connection")+".textContent", "live")
}

func testList(t *testing.T, browser context.Context) {
	t.Helper()
	bus := newFakeBus(faults{})
	p := openTab(t, browser, bus.serve(t))
	p.until(hook("watch")+".textContent", "live")
	bus.add("job-1", "vision", "started", "progress", 10)
	bus.add("job-2", "no-event-name-of-ours", "started")
	p.until(`[...document.querySelectorAll('[data-job]')].map((b) => b.dataset.job).join()`, "job-2,job-1")
	p.until(`document.querySelector('[data-job=job-1] progress').value`, 10)
	bus.add("job-1", "done", "completed", "final", true)
	bus.add("job-2", "rule", "failed", "final", true)
	p.until(`document.querySelector('[data-job=job-1]').dataset.final`, "done")
	p.until(`document.querySelector('[data-job=job-2]').dataset.final`, "failed")

	p.do(chromedp.Click(`[data-job=job-2]`))
	p.until(`location.hash`, "#scan/job-2")
	p.over()
	p.do(chromedp.SetValue(`[data-testid=job]`, "job-1"), chromedp.Click(`[data-testid=follow-open]`))
	p.until(`document.querySelector('[data-testid=stage]')?.dataset.stage`, "vision")
	p.over()

	for i := range 210 {
		bus.add(fmt.Sprintf("many-%d", i), "vision", "started")
	}
	p.until(`document.querySelector('[data-job]').dataset.job`, "many-209")
	p.until(`document.querySelectorAll('[data-job]').length`, 200)
}

func testPublishing(t *testing.T, browser context.Context) {
	t.Helper()
	bus := newFakeBus(faults{})
	p := openTab(t, browser, bus.serve(t))
	p.until(hook("watch")+".textContent", "live")
	p.do(
		chromedp.SetValue(`[data-testid=publish-job]`, "mine"),
		chromedp.SetValue(`[data-testid=publish-stage]`, "gap"),
		chromedp.Click(`[data-testid=publish-send]`),
	)
	p.until(hook("publish-result")+".textContent", "HTTP 400: stage: gap is a browser's own")
	p.do(
		chromedp.SetValue(`[data-testid=publish-stage]`, "rule"),
		chromedp.SetValue(`[data-testid=publish-progress]`, "40"),
		chromedp.SetValue(`[data-testid=publish-message]`, "half way"),
		chromedp.Click(`[data-testid=publish-send]`),
	)
	p.until(hook("publish-result")+".dataset.ok", "true")
	p.until(hook("stage")+"?.dataset.stage", "rule") // what was published is followed
	p.until(hook("progress")+".value", 40)
	p.do(chromedp.Click(`[data-testid=publish-final]`), chromedp.Click(`[data-testid=publish-send]`))
	p.over()
	if keys := bus.distinctKeys(); len(keys) != 3 || len(keys[0]) != 36 {
		t.Errorf("Idempotency-Keys %q, want a UUID for each of three events", keys)
	}

	bus.setLoseReplies(true)
	p.do(chromedp.Click(`[data-testid=publish-new]`), chromedp.Click(`[data-testid=publish-send]`))
	p.until(hook("publish-result")+".textContent.startsWith('Not sent')", true)
	bus.setLoseReplies(false)
	p.do(chromedp.Click(`[data-testid=publish-send]`))
	p.until(hook("publish-result")+".textContent.startsWith('Acknowledged')", true)
	if keys := bus.distinctKeys(); len(keys) != 4 {
		t.Errorf("Idempotency-Keys %q: an event sent again has a new one", keys)
	}

	p.until("("+hook("publish-result")+".textContent = '')", "")
	p.do(chromedp.Click(`[data-testid=publish-send]`))
	p.until(hook("publish-result")+".textContent.startsWith('Acknowledged')", true)
	if keys := bus.distinctKeys(); len(keys) != 5 {
		t.Errorf("Idempotency-Keys %q: the next event has the key of one that was acknowledged", keys)
	}
}

func testRefusals(t *testing.T, browser context.Context) {
	t.Helper()
	bus := newFakeBus(faults{})
	p := openTab(t, browser, bus.serve(t)+"/#scan/refused")
	p.until(hook("connection")+".textContent", "refused")
	p.until(hook("error")+".textContent", "HTTP 400: job_id: not a good one")
}

package console

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/eco2-team/eventbus/edge/browsertest"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/redistest"
	"github.com/eco2-team/eventbus/server/bustest"
)

// The page, in a browser, on a real bus.

func newConsole(t *testing.T, change ...bustest.Settings) *bustest.Bus {
	t.Helper()
	return bustest.New(t, append([]bustest.Settings{{"CONSOLE": "true"}}, change...)...)
}

func openConsole(t *testing.T, b *bustest.Bus, hash string) tab {
	t.Helper()
	return openTab(t, browsertest.New(t), "http://"+b.HTTP+"/"+hash)
}

// texts are the texts of all elements, joined by |.
func texts(selector string) string {
	return fmt.Sprintf(`[...document.querySelectorAll(%q)].map((n) => n.textContent).join('|')`, selector)
}

func (p tab) click(selector string) {
	p.t.Helper()
	p.until(fmt.Sprintf("document.querySelector(%q) !== null", selector), true)
	p.do(chromedp.Click(selector))
}

// set puts a text into a field, as one who pastes it.
func (p tab) set(name, text string) {
	p.t.Helper()
	p.until(hook(name)+" !== null", true)
	p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`((field) => { field.value = %q; field.dispatchEvent(new Event('input', {bubbles: true})); })(%s)`, text, hook(name))))
}

// says waits until the elements' texts hold one.
func (p tab) says(selector, text string) {
	p.t.Helper()
	p.until(fmt.Sprintf("(%s).includes(%q) || (%s)", texts(selector), text, texts(selector)), true) // what is there instead is shown
}

func TestOverview_ShowsWhatFlowsAndWhatIsWrong(t *testing.T) {
	pubsub := redistest.New(t)
	b := newLivelyBus(t, bustest.Settings{"REDIS_PUBSUB_URL": pubsub.URL()})
	p := openConsole(t, b, "")
	for _, hop := range []string{"publish", "bridge", "joblog", "pubsub"} {
		p.until(fmt.Sprintf("Number(%s?.textContent) > 1", hook("hop-"+hop+"-value")), true)
	}
	p.until(texts(".way h3"), "Publishers|Shard logs|Bridge|Job logs|Pub/Sub|Routers' hubs|Edge|Browsers")
	p.until(`document.querySelectorAll('.cell[data-level=ok]').length`, 8)
	p.says("[data-testid=finding]", "2 entries of scan were no events")
	p.until(hook("hop-bridge-word")+".textContent", "look here") // colour is not all
	p.until(hook("hop-pubsub-word")+".textContent", "well")
	p.until(hook("health")+".textContent", "1 warning")
	p.until(hook("well")+".hidden", true)

	// Somebody follows: it reaches the end of the way.
	p.keys("2")
	p.until(`document.querySelectorAll('[data-job]').length > 2`, true)
	p.keys("1")
	p.until(fmt.Sprintf("Number(%s?.textContent) > 1", hook("hop-browser-value")), true)

	pubsub.Kill()
	p.until(hook("hop-pubsub-word")+".textContent", "look here")
	p.says("[data-testid=finding]", "Announcements may not arrive")
	p.until(`document.querySelector('[data-hop=pubsub]').dataset.level`, "warn")

	b.Kill()
	p.until(hook("health")+".textContent", "edge is away")
}

func TestJobs_AreListedFilteredAndReachedByKeys(t *testing.T) {
	b := newConsole(t)
	w := newWorker(t, b)
	w.publish(&eventbusv1.Event{JobId: "early", Stage: "queued"}) // before anybody looks
	p := openConsole(t, b, "#/jobs")
	p.look(1280, 800, "light") // the list stays beside the job
	p.until(hook("watch")+"?.textContent", "live")
	p.until(texts("[data-job] code"), "early")
	w.publish(&eventbusv1.Event{JobId: "late", Stage: "vision", Status: "started", Progress: new(int32(10))})
	p.until(texts("[data-job] code"), "late|early")
	p.until(`document.querySelector('[data-job=late] progress').value`, 10)
	w.publish(&eventbusv1.Event{JobId: "late", Stage: "done", Status: "completed", Final: true})
	w.publish(&eventbusv1.Event{JobId: "early", Stage: "vision", Status: "failed", Final: true})
	p.until(`document.querySelector('[data-job=late]').dataset.final`, "done")
	p.until(texts("[data-job] .word"), "finished|failed")

	shown := `[...document.querySelectorAll('.jobs li:not([hidden]) code')].map((n) => n.textContent).join()`
	p.keys("/")
	p.until("document.activeElement.dataset.testid", "filter")
	p.set("filter", "") // a driver's keys write it all the same
	p.keys("visi")
	p.until(shown, "early")
	p.until(hook("jobs-total")+".textContent", "1 of 2")
	p.set("filter", "")
	p.keys(kb.Escape)
	p.until("document.activeElement === document.body", true)
	p.until(shown, "late,early")

	p.keys("j")
	p.until("document.activeElement.dataset.job", "late")
	p.keys("j")
	p.until("document.activeElement.dataset.job", "early")
	p.keys(kb.Enter)
	p.until("location.hash", "#/jobs/scan/early")
	p.until(hook("connection")+"?.textContent", "finished")
	p.until("document.title", "early · eventbus")
	p.until(`document.querySelector('[aria-current=true]').dataset.job`, "early")
	p.keys("w")
	p.until(hook("answer")+".dataset.verdict", "failed")
	p.keys("12") // away and back: the list went on
	p.until(hook("watch")+"?.textContent", "live")
	p.until(texts("[data-job] code"), "late|early")
	p.click("[data-job=early]")
	p.until(hook("connection")+"?.textContent", "finished")
	p.keys("k")
	p.keys("k")
	p.until("document.activeElement.dataset.job", "late")

	// In a small window the job takes the list's place, and the focus does not get lost.
	p.look(390, 844, "light")
	p.do(chromedp.Evaluate[chromedp.Void]("location.hash = '#/jobs/scan'"))
	p.until("getComputedStyle(document.querySelector('.list')).display !== 'none'", true)
	p.keys("j")
	p.until("document.activeElement.dataset.job", "late")
	p.keys(kb.Enter)
	p.until("document.title", "late · eventbus")
	p.until("document.activeElement.id", "main")
	p.click(".back")
	p.until("location.hash", "#/jobs/scan")

	// Another domain, and one that is not.
	p.click("[data-domain=chat]")
	p.until(hook("none")+"?.textContent", "Waiting for the next event of this domain.")
	p.set("domain", "nope")
	p.click("[data-testid=domain-open]")
	p.until(hook("watch")+"?.textContent", "refused")
	p.says(".notices", "must be one of scan, chat")
}

func TestKeyboard_ReachesEveryPageAndEveryControl(t *testing.T) {
	b := newConsole(t)
	p := openConsole(t, b, "")
	p.until(hook("way")+" !== null", true)
	p.keys(kb.Tab)
	p.until("document.activeElement.id", "skip")
	p.until("getComputedStyle(document.activeElement).outlineStyle", "solid") // the focus is seen
	p.keys(kb.Enter)
	p.until("document.activeElement.id", "main")
	for i, page := range []string{"overview", "jobs", "subscriber", "cluster", "publish"} {
		p.keys(fmt.Sprint(i + 1))
		p.until("document.body.dataset.page", page)
		p.until(`document.querySelector('#pages [aria-current]').dataset.page`, page)
	}
	p.keys("?")
	p.until(hook("help-dialog")+".open", true)
	p.keys("1") // not while a dialog is open
	p.keys(kb.Escape)
	p.until(hook("help-dialog")+".open", false)
	p.until("document.body.dataset.page", "publish")
	// From the top through the form: each control once, in the order that is seen.
	p.do(chromedp.Evaluate[chromedp.Void]("document.getElementById('skip').focus()"))
	var names []string
	for range 30 {
		p.keys(kb.Tab)
		names = append(names, value[string](p, "document.activeElement.dataset.testid ?? document.activeElement.dataset.page ?? document.activeElement.className ?? ''"))
	}
	want := "brand overview jobs subscriber cluster publish health token-open help-open publish-domain publish-job-id publish-stage publish-status " +
		"publish-progress publish-message publish-content publish-result publish-attributes publish-traceparent publish-key publish-final publish-send publish-new"
	if got := strings.Join(names, " "); !strings.HasPrefix(got, want) {
		t.Errorf("the focus goes %s", got)
	}
	// Everything has a name for those who cannot see it.
	for _, hash := range []string{"#/", "#/jobs/scan/j", "#/subscriber/scan", "#/cluster", "#/publish"} {
		p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("location.hash = %q", hash)))
		p.until("location.hash", hash)
		nameless := `[...document.querySelectorAll('a, button, input, select, textarea, progress, nav, [role=region], [role=log]')].filter((n) => n.checkVisibility() &&
			!n.textContent.trim() && !n.getAttribute('aria-label') && !n.labels?.length && !n.getAttribute('aria-labelledby') && n.dataset.testid !== 'health').map((n) => n.outerHTML).join()`
		p.until(nameless, "")
	}
}

func TestJob_ShowsStagesEventsStateAndTrace(t *testing.T) {
	b := newConsole(t, bustest.Settings{"TRACE_URL": "https://tempo.example.com/trace/{trace_id}?x=1"})
	w := newWorker(t, b)
	w.publish(&eventbusv1.Event{JobId: "j", Stage: "queued", Traceparent: traceparent})
	p := openConsole(t, b, "#/jobs/scan/j")
	p.until(hook("connection")+"?.textContent", "live")
	p.until("document.querySelectorAll('[data-testid=event]').length", 1)
	result, err := structpb.NewValue(map[string]any{"n": []any{1, "two"}})
	if err != nil {
		t.Fatal(err)
	}
	w.publish(&eventbusv1.Event{JobId: "j", Stage: "vision", Status: "started", Progress: new(int32(40)), Message: "looking"})
	w.publish(&eventbusv1.Event{JobId: "j", Stage: "vision", Status: "completed", Result: result})
	stages := `[...document.querySelectorAll('[data-testid=stage]')].map((s) => s.dataset.stage + ' ' + s.dataset.status).join()`
	p.until(stages, "queued ,vision completed")
	p.until(hook("progress")+".value", 40)
	p.until(hook("result")+".textContent", "{\n  \"n\": [\n    1,\n    \"two\"\n  ]\n}")
	// A bar for each, one after the other.
	p.until(`(([a, b]) => a.left < b.left && a.right <= b.left + 4 && b.width > 0)([...document.querySelectorAll('.bar-of')].map((n) => n.getBoundingClientRect()))`, true)

	p.until(texts("[data-testid=event] button.more"), "3|2|1")
	p.until(`document.querySelector('[data-seq="1"] [data-testid=latency]').textContent`, "–") // it was there before
	p.until(`/^[0-9.]+ m?s$/.test(document.querySelector('[data-seq="3"] [data-testid=latency]').textContent)`, true)
	p.until(`document.querySelector('[data-testid=trace]').href`, "https://tempo.example.com/trace/0af7651916cd43dd8448eb211c80319c?x=1")
	p.until(`document.querySelector('[data-testid=trace]').rel`, "noopener noreferrer")
	p.click(`[data-seq="2"] [data-testid=event-open]`)
	p.says("[data-testid=event-json]", `"message": "looking"`)
	p.until(`document.querySelector('[data-seq="2"] button.more').getAttribute('aria-expanded')`, "true")
	p.click("[data-testid=state-box] summary")
	p.says("[data-testid=state]", `"seq": 3`)
	w.publish(&eventbusv1.Event{JobId: "j", Stage: "done", Status: "completed", Final: true})
	p.says("[data-testid=state]", `"seq": 4`)
	p.until(hook("connection")+".textContent", "finished")
	p.counted("4,0,0")
}

func TestJob_HostileContentStaysText(t *testing.T) {
	b := newConsole(t, bustest.Settings{"TRACE_URL": "https://tempo.example.com/{trace_id}"})
	w := newWorker(t, b)
	const evil = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>`
	p := openConsole(t, b, "#/jobs/scan/evil")
	p.until(hook("watch")+"?.textContent", "live")
	result, err := structpb.NewValue(map[string]any{evil: evil, "__proto__": evil})
	if err != nil {
		t.Fatal(err)
	}
	w.publish(&eventbusv1.Event{JobId: "evil", Stage: "constructor", Status: evil, Message: evil, Result: result, Attributes: map[string]string{evil: evil}, Traceparent: "javascript:window.hacked=1"})
	w.publish(&eventbusv1.Event{JobId: "evil", Stage: "token", Status: "streaming", Content: evil + "\u202e\u2028"})
	legacy(t, b, "*", "evil", "stage", evil, "status", evil, "message", evil, "traceparent", `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"><b>`)
	p.until("document.querySelectorAll('[data-testid=event]').length", 3)
	p.says("[data-testid=tokens]", evil)
	p.says("[data-testid=stage]", evil)
	p.until(`document.querySelector('[data-job=evil]').dataset.stage`, evil)
	p.click(`[data-seq="1"] [data-testid=event-open]`)
	p.says("[data-testid=event-json]", `onerror=`)
	p.until(`document.querySelectorAll('main img, main script, main b').length + [...document.links].filter((a) => a.protocol === 'javascript:').length`, 0)

	legacy(t, b, "*", "evil", "stage", "", "message", evil) // a dead letter
	p.until(`window.hacked ?? 'no'`, "no")
	p.click("[data-testid=why]")
	p.says("[data-testid=facts]", "seq 1 to 3")
	p.keys("3")
	p.set("sub-job", "evil")
	p.click("[data-testid=sub-connect]")
	p.says("[data-testid=frame]", "onerror=")
	p.keys("1")
	p.says("[data-testid=finding]", "no events")
	p.until(`(window.hacked ?? 'no') + document.querySelectorAll('main img, main script, main b').length`, "no0")
}

func TestDiagnosis_SaysWhyAJobStopped(t *testing.T) {
	b := newConsole(t)
	// The bus reads what is younger than 10 min.
	legacy(t, b, fmt.Sprintf("%d-0", time.Now().Add(-5*time.Minute-30*time.Second).UnixMilli()), "stopped", "stage", "vision", "status", "started")
	legacy(t, b, "*", "dead", "stage", "", "status", "started")
	p := openConsole(t, b, "#/jobs/scan/stopped")
	// Nobody needs to ask: a job that is silent for a minute is asked about.
	p.until(hook("answer")+"?.dataset.verdict", "silent")
	p.says("[data-testid=diagnosis]", "Nothing was published for 5 min")
	p.says("[data-testid=diagnosis]", "stage vision, started, seq 1")
	p.says("[data-testid=diagnosis]", "The bus holds nothing of it back")
	p.says("[data-testid=facts]", "owned by bus")
	for _, c := range []struct{ job, verdict, says string }{
		{"dead", "dead", "1 entry of this job is a dead letter"},
		{"never", "unknown", "There is no such job: nothing of scan/never was ever published"},
	} {
		p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("location.hash = '#/jobs/scan/%s'", c.job)))
		p.until("document.title", c.job+" · eventbus")
		p.click("[data-testid=why]")
		p.until(hook("answer")+"?.dataset.verdict", c.verdict)
		p.says("[data-testid=diagnosis]", c.says)
	}
}

func TestSubscriber_ShowsEachFrameAndGoesOnWhereOneWants(t *testing.T) {
	b := newConsole(t)
	w := newWorker(t, b)
	for _, stage := range []string{"queued", "vision", "rule"} {
		w.publish(&eventbusv1.Event{JobId: "j", Stage: stage})
	}
	p := openConsole(t, b, "#/subscriber/scan/j")
	kinds := func(kind string) string {
		return fmt.Sprintf("document.querySelectorAll('[data-testid=frame][data-kind=%q]').length", kind)
	}
	p.until(kinds("event"), 3)
	p.says("[data-testid=frame] pre", "event: vision\ndata: {")
	p.says("[data-testid=frame] pre", "retry: ")
	p.until(kinds("comment")+" > 1", true) // heartbeats
	p.click("[data-testid=sub-cut]")
	p.until(hook("sub-state")+".textContent", "closed")
	w.publish(&eventbusv1.Event{JobId: "j", Stage: "answer"})
	p.click("[data-testid=sub-resume]")
	p.until(kinds("event"), 4) // only what is new
	p.says("[data-testid=frame] pre", "Last-Event-ID: ")
	p.click("[data-kind=event] [data-testid=from-here]") // the first one's
	p.until(kinds("event"), 7)

	// Another system's id, as on migration day.
	p.set("sub-cursor", "not-an-id")
	p.click("[data-testid=sub-connect]")
	p.until(kinds("gap"), 1)
	p.until(kinds("event"), 11)
	w.publish(&eventbusv1.Event{JobId: "j", Stage: "done", Final: true})
	p.until(kinds("204"), 1)
	p.until(hook("sub-state")+".textContent", "finished")
	p.set("sub-domain", "nope")
	p.click("[data-testid=sub-connect]")
	p.until(kinds("refused"), 1)
	p.says("[data-testid=frame] pre", "must be one of scan, chat")
}

func TestCluster_ShowsRoutersShardsRedisAndSettings(t *testing.T) {
	b := newLivelyBus(t)
	p := openConsole(t, b, "#/cluster")
	p.says("[data-testid=members]", "router-0")
	p.until("document.querySelectorAll('[data-testid=shards-table] tbody tr').length", 8)
	p.says("[data-testid=shards-table]", "scan:events:3")
	p.until(`[...document.querySelectorAll('[data-testid=shards-table] tbody tr')].every((r) => r.children[1].textContent === 'router-0')`, true)
	p.says("[data-testid=redis-streams]", "master")
	p.says("[data-testid=redis-streams]", "of 100.0 MiB")
	p.says("[data-testid=redis-pubsub]", "back in ")
	p.says("[data-testid=dead]", "must not be empty")
	p.says("[data-testid=settings-router]", "RETENTION1h0m0s")
	p.says("[data-testid=settings-edge]", "HTTP_PUBLISHtrue")
	p.says("[data-testid=own]", "router-0: published")
}

func TestPublish_TellsTheRulesBeforeAndTheServersErrorAfter(t *testing.T) {
	b := newConsole(t)
	p := openConsole(t, b, "#/publish/scan/mine")
	p.until(hook("publish-send")+" !== null", true)
	for _, c := range []struct{ field, bad, says, good string }{
		{"domain", "Scan", "must match [a-z][a-z0-9-]{0,31}", "scan"},
		{"job-id", "a b", "must be 1-128 characters", "mine"},
		{"stage", "gap", `not "gap"`, "vision"},
		{"progress", "101", "must be 0-100", "40"},
		{"result", "{", "must be JSON", `{"a":[1]}`},
		{"attributes", `{"a":1}`, "must be a JSON object of texts", `{"model":"m"}`},
		{"key", "naïve", "must be at most 128 printable ASCII characters", "key-1"},
	} {
		rule := hook("rule-" + strings.ReplaceAll(c.field, "-", "_"))
		p.set("publish-"+c.field, c.bad)
		p.click("[data-testid=publish-send]")
		p.until(rule+".textContent.includes("+fmt.Sprintf("%q", c.says)+")", true)
		p.until("document.activeElement.dataset.testid", "publish-"+c.field)
		p.until("document.activeElement.getAttribute('aria-invalid')", "true")
		p.until(hook("published")+".dataset.ok", "false")
		p.set("publish-"+c.field, c.good)
		p.until(rule+".textContent", "")
	}
	p.click("[data-testid=publish-final]")
	p.click("[data-testid=publish-send]")
	p.until(hook("published")+".dataset.ok", "true")
	p.set("publish-key", "key-2")
	p.click("[data-testid=publish-send]")
	p.until(hook("published")+".textContent.startsWith('HTTP 400: ')", true) // it is over: the bus says so
	p.set("publish-domain", "nope")
	p.click("[data-testid=publish-send]")
	p.until(hook("published")+".textContent.includes('must be one of scan, chat')", true)
	p.do(chromedp.Evaluate[chromedp.Void]("location.hash = '#/jobs/scan/mine'"))
	p.until(hook("connection")+"?.textContent", "finished")
	p.click(`[data-seq="1"] [data-testid=event-open]`)
	p.says("[data-testid=event-json]", `"model": "m"`)
}

func TestRules_AreTheRoutersInTheBrowserToo(t *testing.T) {
	p := openConsole(t, newConsole(t), "#/publish")
	p.until(hook("publish-send")+" !== null", true)
	for field, rule := range rules() {
		for _, text := range ruled() {
			if strings.ContainsAny(text, "\n\u0000") {
				continue // no field of a form takes them
			}
			want := rule.Empty && text == ""
			name := strings.ReplaceAll(field, "_", "-")
			p.until(fmt.Sprintf(`((input) => { input.value = %q; input.dispatchEvent(new Event('input', {bubbles: true})); return document.querySelector('#rule-%s').textContent === ''; })(%s)`,
				text, field, hook("publish-"+name)), want || ruleHolds(field, text))
		}
	}
}

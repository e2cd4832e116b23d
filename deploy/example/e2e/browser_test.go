package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/eco2-team/eventbus/deploy/example/scan"
)

// page is the API's page in a real Chromium.
type page struct {
	t       *testing.T
	ctx     context.Context
	api     string
	picture picture
}

func openPage(t *testing.T, api string) *page {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("this test needs a browser: install the Debian package chromium: %v", err)
	}
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()))...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("close Chromium: %v", err)
		}
		cancel()
		cancelAllocator()
	})
	if err := chromedp.Do(ctx, chromedp.Navigate(api+"/")); err != nil {
		t.Fatalf("open the page: %v", err)
	}
	return &page{t: t, ctx: ctx, api: api}
}

// upload chooses a picture and sends it, as a person does.
func (p *page) upload(pic picture) {
	p.t.Helper()
	p.picture = pic
	file := filepath.Join(p.t.TempDir(), "picture")
	if err := os.WriteFile(file, pic.bytes, 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := chromedp.Do(p.ctx, chromedp.SetUploadFiles("#file", []string{file}), chromedp.Click("#form [type=submit]")); err != nil {
		p.t.Fatalf("upload in the page: %v", err)
	}
}

// finished waits until the page says so.
func (p *page) finished() {
	p.t.Helper()
	eventually(p.t, "the page has finished", func() bool { return p.text("connection") == "finished" && p.text("result") != "" })
}

func (p *page) text(id string) string {
	p.t.Helper()
	text, err := chromedp.Run(p.ctx, chromedp.Evaluate[string]("document.getElementById("+strconv.Quote(id)+").textContent"))
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

// check compares what the page shows with what the API and the bus have.
func (p *page) check(ctx context.Context) {
	p.t.Helper()
	j := job{JobID: p.text("id"), StreamURL: "", ResultURL: "/scan/" + p.text("id") + "/result"}
	var r scan.Result
	if err := json.Unmarshal([]byte(p.text("result")), &r); err != nil {
		p.t.Fatalf("the page's result %q: %v", p.text("result"), err)
	}
	if p.text("gaps") != "0" || p.text("error") != "" {
		p.t.Errorf("the page has %s gaps, and says %q", p.text("gaps"), p.text("error"))
	}
	want, err := scan.Look(p.picture.bytes)
	if err != nil || r.Vision.Width != want.Width || r.Vision.Dominant != want.Dominant {
		p.t.Errorf("the page shows %+v, want %+v: %v", r.Vision, want, err)
	}
	a := do(ctx, p.t, "GET", p.api+j.ResultURL, nil)
	var got struct{ Result json.RawMessage }
	if err := json.Unmarshal(a.body, &got); err != nil || !sameJSON(got.Result, []byte(p.text("result"))) {
		p.t.Errorf("the page shows %s, the API says %s", p.text("result"), a.body)
	}
	// queued, its completion, two of four stages, done; and the tokens, of new workers.
	events := 11 + len(r.Answer.Tokens())
	if p.text("tokens") == "" {
		events = 10
	} else if p.text("tokens") != r.Answer.Text {
		p.t.Errorf("the page shows the tokens %q, want %q", p.text("tokens"), r.Answer.Text)
	}
	if got := p.text("count"); got != strconv.Itoa(events) {
		p.t.Errorf("the page counted %s events, want %d", got, events)
	}
}

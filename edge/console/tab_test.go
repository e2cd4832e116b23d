package console

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is how long a test waits for what must come, also on a loaded machine.
const patience = 45 * time.Second

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
	ctx, cancelTimeout := context.WithTimeout(ctx, 8*patience)
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
		const end = Date.now() + %d;
		(function look() {
			const got = %s;
			if (got === %s || Date.now() > end) found(String(got));
			else setTimeout(look, 10);
		})();
	})`, patience/time.Millisecond, expression, value)
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

// value reads an expression now.
func value[T any](p tab, expression string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// keys presses keys, wherever the focus is.
func (p tab) keys(text string) {
	p.t.Helper()
	p.do(chromedp.KeyEvent(text))
}

// look sets the window and whether it is dark.
func (p tab) look(width, height int64, scheme string) {
	p.t.Helper()
	p.do(chromedp.EmulateViewport(width, height), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	}))
}

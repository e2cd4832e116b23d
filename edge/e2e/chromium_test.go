package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// chromium starts a browser.
func chromium(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("these tests need a browser: install the Debian package chromium (apt-get install chromium): %v", err)
	}
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // CI runs as root
		chromedp.UserDataDir(t.TempDir()),
	)...)
	browser, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		if err := chromedp.Cancel(browser); err != nil {
			t.Errorf("close Chromium: %v", err)
		}
		cancel()
		cancelAllocator()
	})
	if err := chromedp.Do(browser); err != nil {
		t.Fatalf("start Chromium: %v", err)
	}
	return browser
}

// tab is a tab with a page in it.
type tab struct {
	t   *testing.T
	ctx context.Context
}

func openTab(t *testing.T, browser context.Context, url string) tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	ctx, cancelTimeout := context.WithTimeout(ctx, 3*patience)
	t.Cleanup(cancelTimeout)
	err := chromedp.Listen(ctx, func(ev any) {
		if ev, ok := ev.(*runtime.EventExceptionThrown); ok {
			t.Errorf("the page threw: %s %+v", ev.ExceptionDetails.Text, ev.ExceptionDetails.Exception)
		}
	})
	if err == nil {
		err = chromedp.Do(ctx, chromedp.Navigate(url))
	}
	if err != nil {
		t.Fatalf("open %s: %v", url, err)
	}
	return tab{t, ctx}
}

// foreignPage serves testdata/page.html from an origin of its own.
func foreignPage(t *testing.T) (origin string) {
	t.Helper()
	s := httptest.NewServer(http.FileServer(http.Dir("testdata")))
	t.Cleanup(s.Close)
	return s.URL
}

// follow opens an EventSource in the page.
func (p tab) follow(name, url string, stages ...string) {
	p.t.Helper()
	args, err := json.Marshal([]any{name, url, stages})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := chromedp.Run(p.ctx, chromedp.Evaluate[any](fmt.Sprintf("follow(...%s); null", args))); err != nil {
		p.t.Fatal(err)
	}
}

// until waits until a JavaScript expression has the value. The page looks for
// itself, so that nothing that passes quickly is missed.
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

// value reads an expression now.
func value[T any](p tab, expression string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// hook is the expression of the console's element with that data-testid.
func hook(name string) string { return "document.querySelector('[data-testid=" + name + "]')" }

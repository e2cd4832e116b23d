// Package browsertest drives a real Chromium for tests: it is started afresh for each,
// and what its pages throw fails the test.
package browsertest

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// New starts a Chromium, which ends with the test. Its context is the first tab;
// chromedp.NewContext makes others.
func New(t testing.TB) context.Context {
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

// Watch has what the tab's pages throw fail the test.
func Watch(t testing.TB, tab context.Context) {
	t.Helper()
	err := chromedp.Listen(tab, func(ev any) {
		if ev, ok := ev.(*runtime.EventExceptionThrown); ok {
			t.Errorf("the page threw: %s %+v", ev.ExceptionDetails.Text, ev.ExceptionDetails.Exception)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Until waits until a JavaScript expression has the value, at most for patience. The
// page looks for itself, so that nothing that passes quickly is missed; chromedp.Poll
// would need eval there, which a strict policy forbids.
func Until(t testing.TB, tab context.Context, patience time.Duration, expression string, want any) {
	t.Helper()
	value, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	look := fmt.Sprintf(`new Promise((found) => {
		const end = Date.now() + %d;
		(function look() {
			const got = %s;
			if (got === %s || Date.now() > end) found(String(got));
			else setTimeout(look, 10);
		})();
	})`, patience/time.Millisecond, expression, value)
	got, err := chromedp.Run(tab, chromedp.Evaluate[string](look, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	if got != fmt.Sprint(want) {
		t.Fatalf("%s is %q, want %q", expression, got, fmt.Sprint(want))
	}
}

// Value reads an expression now.
func Value[T any](t testing.TB, tab context.Context, expression string) T {
	t.Helper()
	v, err := chromedp.Run(tab, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return v
}

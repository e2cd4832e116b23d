package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/eco2-team/eventbus/edge/browsertest"
)

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
	browsertest.Watch(t, ctx)
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
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

func (p tab) until(expression string, want any) {
	p.t.Helper()
	browsertest.Until(p.t, p.ctx, patience, expression, want)
}

// value reads an expression now.
func value[T any](p tab, expression string) T {
	p.t.Helper()
	return browsertest.Value[T](p.t, p.ctx, expression)
}

// hook is the expression of the console's element with that data-testid.
func hook(name string) string { return "document.querySelector('[data-testid=" + name + "]')" }

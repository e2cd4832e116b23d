package console

import (
	"context"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/chromedp"

	"github.com/eco2-team/eventbus/edge/browsertest"
)

// patience is how long a test waits for what must come, also on a loaded machine.
const patience = 45 * time.Second

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
	browsertest.Watch(t, ctx)
	err := chromedp.Listen(ctx, func(ev any) {
		if ev, ok := ev.(*log.EventEntryAdded); ok && ev.Entry.Source == log.EntrySourceSecurity {
			t.Errorf("the browser refused: %s", ev.Entry.Text)
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

func (p tab) until(expression string, want any) {
	p.t.Helper()
	browsertest.Until(p.t, p.ctx, patience, expression, want)
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
	return browsertest.Value[T](p.t, p.ctx, expression)
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

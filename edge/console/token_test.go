package console

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/golang-jwt/jwt/v5"

	"github.com/eco2-team/eventbus/server/bustest"
)

const secret = "a secret that has thirty-two bytes, and some more"

func mint(t *testing.T, subscribe, publish []string) string {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "낱말 operator", "exp": time.Now().Add(time.Hour).Unix(), "eventbus": map[string]any{"subscribe": subscribe, "publish": publish},
	}).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// use gives the page a token, as an operator does.
func (p tab) use(token string) {
	p.t.Helper()
	p.click("[data-testid=token-open]")
	p.until(hook("token-dialog")+".open", true)
	p.set("token-text", token)
	p.click("[data-testid=token-use]")
	p.until(hook("token-dialog")+".open", false)
}

func TestToken_OpensWhatItsGrantsSay(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newConsole(t, bustest.Settings{"AUTH_REQUIRED": "true", "AUTH_KEY": key, "HTTP_PUBLISH": "false"})
	p := openConsole(t, b, "")
	p.until(hook("locked")+"?.querySelector('h2').textContent", "This needs a token")
	p.until(hook("health")+".textContent", "needs a token")
	p.keys("2")
	p.until(hook("watch")+"?.textContent", "refused")
	p.says(".notices", "HTTP 401: a token is required")

	// One who may read and publish a domain.
	p.use("Bearer " + mint(t, []string{"scan/*"}, []string{"scan/*"}))
	p.until(hook("watch")+"?.textContent", "live")
	p.keys("5")
	p.set("publish-job-id", "j")
	p.click("[data-testid=publish-send]")
	p.until(hook("published")+".dataset.ok", "true")
	p.click("[data-testid=publish-look]")
	p.until("document.querySelectorAll('[data-testid=event]').length", 1)
	p.click("[data-testid=why]")
	p.until(hook("answer")+".dataset.verdict", "running")
	p.do(chromedp.Evaluate[chromedp.Void]("location.hash = '#/jobs/chat/j'"))
	p.until(hook("connection")+"?.textContent", "refused")
	p.says("[data-testid=notices]", `no grant to subscribe "chat/j"`)
	p.click("[data-testid=why]")
	p.says("[data-testid=diagnosis]", "needs a grant to subscribe to chat/*")
	p.keys("1")
	p.says("[data-testid=locked]", "subscribe to */*")

	// An operator, who may not publish.
	p.use(mint(t, []string{"*/*"}, nil))
	p.until(hook("health")+".dataset.level !== 'none'", true)
	p.until(`document.querySelectorAll('.cell').length`, 8)
	p.keys("5")
	p.click("[data-testid=publish-send]")
	p.until(hook("published")+".textContent.startsWith('HTTP 403: no grant to publish')", true)
	p.keys("3")
	p.set("sub-job", "j")
	p.click("[data-testid=sub-connect]")
	p.says("[data-testid=frame] pre", "event: vision")

	// It is this tab's alone, over a reload, and says what it is.
	p.do(chromedp.Reload())
	p.until(hook("health")+"?.dataset.level !== 'none' && "+hook("health")+".textContent !== ''", true)
	p.click("[data-testid=token-open]")
	p.says("[data-testid=token-says]", "Of 낱말 operator")
	p.says("[data-testid=token-says]", "subscribe: */*")
	p.until("document.cookie + localStorage.length", "0")
	p.until("location.href.includes('ey')", false)
	p.click("[data-testid=token-forget]")
	p.until(hook("health")+".textContent", "needs a token")
	if log := b.Log(); strings.Contains(log, strings.Split(mint(t, nil, nil), ".")[0]) {
		t.Error("a token is logged")
	}
}

func TestLayout_NoPageIsWiderThanItsWindow(t *testing.T) {
	b := newLivelyBus(t)
	long := strings.Repeat("x", 128)
	legacy(t, b, "*", long, "stage", strings.Repeat("s", 300), "status", strings.Repeat("t", 300), "message", strings.Repeat("m", 300), "result", `"`+strings.Repeat("r", 300)+`"`, "traceparent", strings.Repeat("p", 300))
	legacy(t, b, "*", long, "stage", "token", "status", "streaming", "content", strings.Repeat("c", 300))
	p := openConsole(t, b, "")
	for _, width := range []int64{390, 700, 1280} {
		p.look(width, 844, "light")
		for hash, ready := range map[string]string{
			"#/": ".cell", "#/jobs/scan": "[data-job]", "#/jobs/scan/" + exampleJob: "[data-testid=event]", "#/jobs/scan/" + long: "[data-testid=event]",
			"#/subscriber/scan/" + long: "[data-kind=event]", "#/cluster": "[data-testid=members]", "#/publish/scan/" + long: "[data-testid=publish-send]",
		} {
			p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("location.hash = %q", hash)))
			p.until(fmt.Sprintf("location.hash === %q && document.querySelector(%q) !== null", hash, ready), true)
			if strings.HasPrefix(hash, "#/jobs/scan/") {
				p.click("[data-testid=why]")
				p.until(hook("answer")+".dataset.verdict !== undefined", true)
				p.click("[data-testid=event-open]")
			}
			// Nothing is cut off either, unless it says so.
			out := `[...document.querySelectorAll('main *')].filter((n) => n.checkVisibility() && n.getBoundingClientRect().right > innerWidth + 1 && !n.closest('.jobs, pre, .timeline .name')).map((n) => n.outerHTML.slice(0, 200)).slice(0, 3).join()`
			p.until(out, "")
			p.until("document.documentElement.scrollWidth <= innerWidth", true)
		}
	}
}

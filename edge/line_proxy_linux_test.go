package edge

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"testing"
)

// A proxy keeps connections to the edge for its next requests. One that carried a
// stream says that it will not carry another, so none of them fails.
func TestLine_AProxysConnectionsAreNotSpoiled(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	target, err := url.Parse(e.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	pool := &http.Transport{MaxConnsPerHost: 2}
	t.Cleanup(pool.CloseIdleConnections)
	proxy.Transport, proxy.FlushInterval = pool, -1
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	behind := &testEdge{Server: e.Server, t: t, url: front.URL, web: front.Client()}
	for i := range 30 {
		job := "j" + strconv.Itoa(i)
		ids := f.steps(job, 2)
		b := behind.open(jobPath(job)).opened()
		same(t, "replay", b.ids(2), ids)
		e.together(job, 1)
		if i%3 == 0 { // a browser that leaves
			b.close()
		}
		last := f.finish(job)
		if i%3 != 0 {
			same(t, "the end", b.ids(1), []string{last})
			b.ended()
		}
		resp := behind.do(t.Context(), http.MethodGet, "/api/v1/scan/"+job+"/state", "")
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d %q %v", resp.StatusCode, text, err)
		}
	}
}

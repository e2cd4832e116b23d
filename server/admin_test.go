package server

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func startAdmin(t *testing.T, reg *prometheus.Registry, ready Readiness) *Admin {
	t.Helper()
	a := NewAdmin("127.0.0.1:0", reg, ready, slog.New(slog.DiscardHandler))
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := a.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

func get(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(body))
}

func TestAdmin_ReadyzSaysWhetherAndWhyNot(t *testing.T) {
	type state struct {
		ok   bool
		text string
	}
	var now atomic.Pointer[state]
	a := startAdmin(t, prometheus.NewRegistry(), func() (bool, string) { s := now.Load(); return s.ok, s.text })
	for _, tc := range []struct {
		state
		code int
	}{
		{state{true, "ok"}, 200},
		{state{true, "degraded: no pub/sub"}, 200},
		{state{false, "redis is away"}, 503},
		{state{true, "ok"}, 200},
	} {
		now.Store(&tc.state)
		if code, body := get(t, "GET", "http://"+a.Addr()+"/readyz"); code != tc.code || body != tc.text {
			t.Errorf("got %d %q; want %d %q", code, body, tc.code, tc.text)
		}
		if code, body := get(t, "GET", "http://"+a.Addr()+"/livez"); code != 200 || body != "ok" {
			t.Errorf("a process that is not ready is alive: %d %q", code, body)
		}
	}
}

func TestAdmin_ServesMetricsOfTheGivenRegistry(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "eventbus_test_total", Help: "A test."})
	reg.MustRegister(c)
	c.Add(7)
	a := startAdmin(t, reg, func() (bool, string) { return true, "ok" })
	if code, body := get(t, "GET", "http://"+a.Addr()+"/metrics"); code != 200 || !strings.Contains(body, "eventbus_test_total 7") {
		t.Errorf("got %d\n%s", code, body)
	}
}

func TestAdmin_ServesProfilesAndNothingElse(t *testing.T) {
	a := startAdmin(t, prometheus.NewRegistry(), func() (bool, string) { return true, "ok" })
	if code, body := get(t, "GET", "http://"+a.Addr()+"/debug/pprof/goroutine?debug=1"); code != 200 || !strings.Contains(body, "goroutine profile") {
		t.Errorf("profile: %d", code)
	}
	if code, _ := get(t, "GET", "http://"+a.Addr()+"/"); code != 404 {
		t.Errorf("/: %d", code)
	}
	if code, _ := get(t, "POST", "http://"+a.Addr()+"/readyz"); code != 405 {
		t.Errorf("POST /readyz: %d", code)
	}
}

func TestAdmin_RefusesHugeHeaders(t *testing.T) {
	a := startAdmin(t, prometheus.NewRegistry(), func() (bool, string) { return true, "ok" })
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(waitLong)); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: x\r\nX: ") // the server may hang up in between
		_, _ = conn.Write(bytes.Repeat([]byte("x"), 64<<10))
		_, _ = io.WriteString(conn, "\r\n\r\n")
	}()
	answer := make([]byte, 12)
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 431" {
		t.Errorf("got %q, %v", answer, err)
	}
}

func TestAdmin_StartFailsOnATakenAddress(t *testing.T) {
	a := startAdmin(t, prometheus.NewRegistry(), nil)
	b := NewAdmin(a.Addr(), prometheus.NewRegistry(), nil, slog.New(slog.DiscardHandler))
	if err := b.Start(t.Context()); err == nil || !strings.Contains(err.Error(), a.Addr()) {
		t.Errorf("got %v", err)
	}
	if b.Addr() != "" {
		t.Errorf("an address without a listener: %s", b.Addr())
	}
	if err := b.Stop(t.Context()); err != nil {
		t.Errorf("stop without start: %v", err)
	}
}

func TestAdmin_StopCutsARequestThatDoesNotEnd(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	a := NewAdmin("127.0.0.1:0", prometheus.NewRegistry(), func() (bool, string) {
		close(entered)
		<-release
		return true, "ok"
	}, slog.New(slog.DiscardHandler))
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.Addr()+"/readyz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		done <- err
	}()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := a.Stop(ctx); err == nil {
		t.Error("stop did not say that it had to cut")
	}
	close(release)
	if err := <-done; err == nil {
		t.Error("the request was answered")
	}
}

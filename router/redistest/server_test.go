package redistest

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// dial connects to addr, and at once closes the connection.
func dial(ctx context.Context, addr string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// dialRefused fails t unless nobody listens on addr.
func dialRefused(t *testing.T, addr string) {
	t.Helper()
	if err := dial(t.Context(), addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connect to %s: %v, want a refusal", addr, err)
	}
}

func TestStandalone_AnswersOnItsURL(t *testing.T) {
	for name, test := range map[string]struct {
		opts []Option
		url  func(addr string) string
	}{
		"plain":    {nil, func(addr string) string { return "redis://" + addr + "/0" }},
		"password": {[]Option{WithPassword(`p "@/:#'\ü`)}, nil},
		"tls":      {[]Option{WithTLS()}, func(addr string) string { return "rediss://" + addr + "/0" }},
		"both": {[]Option{WithTLS(), WithPassword("secret")}, func(addr string) string {
			return "rediss://:secret@" + addr + "/0"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(t, test.opts...)
			if test.url != nil && s.URL() != test.url(s.Addr()) {
				t.Errorf("URL = %s, want %s", s.URL(), test.url(s.Addr()))
			}
			opts, err := redis.ParseURL(s.URL())
			if err != nil {
				t.Fatal(err)
			}
			if (opts.TLSConfig != nil) != (s.TLSConfig() != nil) || (s.TLSConfig() != nil) != (s.CAFile() != "") {
				t.Error("URL, TLSConfig and CAFile disagree on TLS")
			}
			opts.TLSConfig = s.TLSConfig()
			client := redis.NewClient(opts)
			if err := client.Set(t.Context(), "key", "value", 0).Err(); err != nil {
				t.Error(err)
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
			if got, err := s.Client().Get(t.Context(), "key").Result(); got != "value" {
				t.Errorf("Client: key = %q, %v", got, err)
			}
			if got := s.CLI(t, "GET", "key"); got != "value" {
				t.Errorf("CLI: key = %q", got)
			}
		})
	}
}

func TestStandalone_RefusesClientsWithoutItsPasswordOrTLS(t *testing.T) {
	for name, opt := range map[string]Option{"password": WithPassword("secret"), "tls": WithTLS()} {
		t.Run(name, func(t *testing.T) {
			client := redis.NewClient(&redis.Options{Addr: New(t, opt).Addr(), MaxRetries: -1})
			if err := client.Ping(t.Context()).Err(); err == nil {
				t.Error("PING of a stranger was answered")
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStandalone_RestartKeepsPortAndAppendOnlyData(t *testing.T) {
	s := New(t, WithAppendOnly())
	addr := s.Addr()
	for name, restart := range map[string]func() error{
		"Restart":    s.Restart,
		"Stop Start": func() error { return errors.Join(s.Stop(), s.Start()) },
		"Kill Start": func() error { return errors.Join(s.Kill(), s.Start()) },
	} {
		pid := s.Pid()
		if err := s.Client().Set(t.Context(), name, "value", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if err := restart(); err != nil {
			t.Fatal(err)
		}
		if s.Addr() != addr || s.Pid() == pid {
			t.Errorf("%s: %s process %d became %s process %d", name, addr, pid, s.Addr(), s.Pid())
		}
		if got, err := s.Client().Get(t.Context(), name).Result(); got != "value" {
			t.Errorf("%s: key = %q, %v", name, got, err)
		}
	}
}

func TestStandalone_RestartWithoutAppendOnlyIsEmpty(t *testing.T) {
	s := New(t)
	s.CLI(t, "SET", "key", "value")
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := s.CLI(t, "DBSIZE"); got != "0" {
		t.Errorf("DBSIZE = %s", got)
	}
}

func TestStandalone_KilledRefusesConnectionsUntilStarted(t *testing.T) {
	s := New(t)
	for range 2 { // killing the dead is no error
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	dialRefused(t, s.Addr())
	if s.Running() || s.Pid() != 0 {
		t.Errorf("running %v, process %d", s.Running(), s.Pid())
	}
	for range 20 { // Client must not remember that the server was down
		if err := s.Client().Ping(t.Context()).Err(); err == nil {
			t.Error("PING was answered")
		}
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Client().Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

func TestStandalone_StopLetsTheServerShutDown(t *testing.T) {
	s := New(t)
	if err := s.Pause(); err != nil { // also a paused one
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	dialRefused(t, s.Addr())
	if !strings.Contains(s.LogTail(), "Redis is now ready to exit") {
		t.Errorf("no shutdown in the log:\n%s", s.LogTail())
	}
}

func TestStandalone_PausedBlocksUntilResumed(t *testing.T) {
	s := New(t)
	if err := s.Client().Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var timeout net.Error
	if err := s.Client().Ping(ctx).Err(); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("PING of a paused server: %v, want a timeout", err)
	}
	if err := dial(t.Context(), s.Addr()); err != nil {
		t.Errorf("a paused server does not accept: %v", err)
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := s.Client().Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

func TestStandalone_KillClientsClosesConnectionsOfOneType(t *testing.T) {
	s := New(t)
	sub := s.Client().Subscribe(t.Context(), "channel")
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := redis.NewClient(&redis.Options{Addr: s.Addr()})
	if err := other.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if got := s.KillClients(t, "pubsub"); got != 1 {
		t.Errorf("%d subscribers killed, want 1", got)
	}
	if _, err := sub.Receive(t.Context()); err == nil {
		t.Error("the subscription lives")
	}
	if got := s.KillClients(t, "normal"); got < 1 {
		t.Errorf("%d normal clients killed", got)
	}
	if err := errors.Join(sub.Close(), other.Close()); err != nil {
		t.Error(err)
	}
}

func TestStandalone_FlushAllDeletesEverything(t *testing.T) {
	s := New(t)
	s.CLI(t, "SET", "key", "value")
	s.FlushAll(t)
	if got := s.CLI(t, "DBSIZE"); got != "0" {
		t.Errorf("DBSIZE = %s", got)
	}
}

func TestStandalone_ConfigWinsAndSurvivesRewriteAndRestart(t *testing.T) {
	s := New(t, WithConfig("maxmemory", "10mb"), WithConfig("repl-timeout", "7"))
	s.CLI(t, "CONFIG", "SET", "maxmemory-policy", "noeviction", "hz", "42")
	s.CLI(t, "CONFIG", "REWRITE")
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"maxmemory": "10485760", "repl-timeout": "7", "hz": "42"} {
		if got := s.CLI(t, "CONFIG", "GET", name); got != name+"\n"+want {
			t.Errorf("%s = %q, want %s", name, got, want)
		}
	}
}

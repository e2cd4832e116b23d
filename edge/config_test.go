package edge

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func TestConfig_EnvironmentAndDefaults(t *testing.T) {
	parse := func(dev string, args ...string) Config {
		t.Helper()
		var c struct{ Config }
		p, err := kong.New(&c, kong.Vars{"dev": dev})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Parse(args); err != nil {
			t.Fatal(err)
		}
		return c.Config
	}
	t.Setenv("ROUTER_ADDR", "dns:///router:9090")
	same(t, "defaults", parse("false"), Config{HTTPAddr: ":8000", RouterAddr: "dns:///router:9090", AuthCookie: "eventbus_token", MaxConnections: 20000})
	same(t, "dev", parse("true"), Config{HTTPAddr: ":8000", RouterAddr: "dns:///router:9090", Console: true, HTTPPublish: true, AuthCookie: "eventbus_token", MaxConnections: 20000})
	t.Setenv("CORS_ORIGINS", "https://a.example.com,http://localhost:3000")
	t.Setenv("HTTP_PUBLISH", "true")
	same(t, "set", parse("false", "--http-addr=:80", "--console"), Config{
		HTTPAddr: ":80", RouterAddr: "dns:///router:9090", Console: true, HTTPPublish: true,
		CORSOrigins: []string{"https://a.example.com", "http://localhost:3000"}, AuthCookie: "eventbus_token", MaxConnections: 20000,
	})
}

func TestConfig_BadSettingsAreNamedWithValueAndBound(t *testing.T) {
	good := Config{HTTPAddr: ":8000", RouterAddr: "router:9090", CORSOrigins: []string{"https://a.example.com", "https://*.example.com", "http://localhost:3000"}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	bad := Config{}
	for _, name := range []string{"HTTP_ADDR", "ROUTER_ADDR"} {
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
	for _, origin := range []string{"*", "https://*", "null", "a.example.com", "https://a.example.com/", "https://*.*.com", "https://u@a.com", "https://a.com?x", ""} {
		bad := good
		bad.CORSOrigins = []string{origin}
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), "CORS_ORIGINS") {
			t.Errorf("%q: %v", origin, err)
		}
	}
	for trace, ok := range map[string]bool{
		"https://tempo.example.com/trace/{trace_id}": true, "http://localhost:3000/explore?left={trace_id}": true,
		"https://tempo.example.com/": false, "javascript:alert('{trace_id}')": false, "/trace/{trace_id}": false, "tempo/{trace_id}": false,
	} {
		c := good
		c.TraceURL = trace
		if err := c.Check(); (err == nil) != ok || !ok && !strings.Contains(err.Error(), "TRACE_URL") {
			t.Errorf("%q: %v", trace, err)
		}
	}
}

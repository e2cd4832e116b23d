package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// door is a TCP proxy in front of a server, through which its clients must go:
// there the network breaks.
type door struct {
	t     testing.TB
	proxy *toxiproxy.Proxy
}

// newDoor opens one on listen, which leads to upstream.
func newDoor(t testing.TB, listen, upstream string) *door {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	d := &door{t: t, proxy: toxiproxy.NewProxy(server, listen, listen, upstream)}
	if err := d.proxy.Start(); err != nil {
		t.Fatalf("proxy %s: %v", listen, err)
	}
	t.Cleanup(d.proxy.Stop)
	return d
}

// direction is which half of the connections.
type direction string

const (
	toServer direction = "upstream"
	toClient direction = "downstream"
)

// poison makes a direction bad until heal: "latency" (latency, jitter in ms),
// "timeout" (nothing passes), "reset_peer".
func (d *door) poison(kind string, to direction, attributes map[string]int) {
	d.t.Helper()
	body, err := json.Marshal(map[string]any{
		"name": kind + "-" + string(to), "type": kind, "stream": string(to), "toxicity": 1, "attributes": attributes,
	})
	if err == nil {
		_, err = d.proxy.Toxics.AddToxicJson(bytes.NewReader(body))
	}
	if err != nil {
		d.t.Errorf("proxy %s: %s: %v", d.proxy.Listen, kind, err)
	}
}

// heal makes both directions good again. Connections that lost bytes are closed.
func (d *door) heal() { d.proxy.Toxics.ResetToxics(context.Background()) }

// Package e2e holds the end-to-end tests: the real binary, as processes, on a
// real Redis, seen only from outside. It has no code of its own.
//
//	redis-cli XADD, gRPC Publish, HTTP POST → eventbus router|edge|serve|dev
//	→ SSE over raw sockets, a public SSE client, gRPC, a real Chromium
//
// What is in one process is tested there: the edge's wire in edge, the bus under
// faults in router, the page in edge/console. Here is what only the whole can
// show: that the parts fit, that processes may die, and that the settings, ports
// and probes are as documented.
//
// The harness: process_test.go (processes and ports), bus_test.go (a router and an
// edge on two Redis), stream_test.go (a browser's end of SSE), rpc_test.go (gRPC),
// chromium_test.go and proxy_test.go (a browser behind a network that breaks).
//
// testdata/*.redis are jobs as the legacy publishers write them, one redis-cli
// command a line; *.ndjson is what a subscriber must get of them, less id and
// publish_time, which Redis decides.
package e2e

// Package chaos is the fault suite: real processes on real Redis, every one of
// them dying at the worst moment, under load, and a checker that believes nobody.
// It has no code of its own.
//
//	publishers (gRPC, numbered events, repeated until acknowledged)
//	→ eventbus router ×3 → Redis (standalone, Sentinel or Cluster) → eventbus edge ×2
//	→ subscribers that stay, and that come and go (gRPC and SSE) → checker
//
// It owns the faults and the proof: what was acknowledged was delivered to each
// subscriber, once and in order, or covered by a gap. It never looks inside a
// process: edge/e2e shows what the parts do when all is well, router what each
// step does when it is cut short.
//
// In the order of reading: ledger_test.go (what was acknowledged, what a subscriber
// saw, the judgement), publish_test.go and subscribe_test.go (the load),
// world_test.go, process_test.go, store_test.go, door_test.go and names_test.go
// (processes, Redis, network, DNS), fault*_test.go (the faults), round_test.go
// (a fault under load), chaos_test.go (all of them, and the table), seed*_test.go
// (what broke before, by name), rolling_test.go and rebalance_test.go (processes that
// go and come), backpressure_test.go (what is slow or full), loss_linux_test.go (single
// packets).
//
// Flags, after the package:
//
//	-chaos.full          all faults; else the 60-second cut
//	-chaos.topology      standalone, sentinel, cluster or all
//	-chaos.seed          of every random choice; 0: a new one, which is printed
//	-chaos.fault         only faults whose name matches
//	-chaos.connections   of TestSeedR05
//	-chaos.logs          a directory for the processes' logs
package chaos

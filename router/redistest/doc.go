// Package redistest starts real redis-server processes for tests and breaks them on demand.
//
// It owns processes, their ports, their directories and the waiting until they are really ready. It never
// imports the packages under test: test → redistest → redis-server. Nothing outside tests imports it.
//
// Three shapes, each with a constructor for tests that fails the test and cleans up, and one without:
//
//	New(tb, opts...) *Server                          Start(ctx, dir, opts...)
//	NewSentinel(tb, replicas, sentinels, opts...)     StartSentinel(ctx, dir, replicas, sentinels, opts...)
//	NewCluster(tb, masters, replicasPer, opts...)     StartCluster(ctx, dir, masters, replicasPer, opts...)
//
// Options: [WithConfig], [WithSentinelConfig], [WithPassword], [WithTLS], [WithAppendOnly], [WithPort].
//
// One server, in each of the shapes:
//
//	URL Addr Port Dir Pid CAFile TLSConfig Client LogTail Running     what it is
//	Stop Kill Start Restart Pause Resume Close                        faults: they block until they happened
//	WaitReady FlushAll CLI Exec KillClients                           work on it
//
// Sentinel and cluster:
//
//	URL Servers Master(tb) Replicas(tb) Sentinels Failover(tb) KillMaster(tb) WaitFailover(tb, old) WaitReady WaitSynced(tb)
//	URL Servers MasterFor(tb, key) ReplicasOf(tb, master) Slot(tb, key) MigrateSlot(tb, slot, to)
//	    Failover(tb, key) KillMaster(tb, key) WaitFailover(tb, old) WaitReady WaitSynced(tb)
//
// Faults return an error for callers without a test. On a server that belongs to a test a fault that did not happen also
// marks that test as failed, so a test may drop the error.
//
// A server keeps its port, its directory and its configuration (CONFIG REWRITE works) over Kill, Stop and Start. It
// dies with the test binary, however that ends. At the end of a failed test the tail of each server's log is logged.
//
// What to expect on a small machine: a server is ready in 30 ms, sentinels in half a second, a cluster in 3 s. A killed
// or paused master is replaced after 2–3 s by sentinels and 4 s by a cluster; sentinels let 6 s pass between two such
// failovers (twice their failover-timeout). Times are those of a machine that is not overloaded: wait for conditions.
//
// redis-server and redis-cli have to be in PATH (Debian: redis-server, redis-tools). Where they are not, tests fail;
// they are never skipped.
package redistest

package quickstart

import (
	"fmt"
	"strings"
	"testing"

	"github.com/eco2-team/eventbus/router/redistest"
	"github.com/eco2-team/eventbus/server/bustest"
)

// What docs/security.md gives to routers and legacy workers in Redis is enough, and a
// worker's is not more than it needs.
func TestSecurity_RedisRightsAreEnough(t *testing.T) {
	t.Parallel()
	redis := redistest.New(t)
	p := &place{t: t, dir: t.TempDir(), bus: &bustest.Bus{}}
	cli := fmt.Sprintf("redis-cli -p %d", redis.Port())
	blocks := sections(t, "docs/security.md")["Redis"]
	for _, b := range blocks {
		p.shell(strings.ReplaceAll(b.text, "redis-cli", cli))
		if p.out != "OK\n" {
			t.Fatalf("%s\n%s", b.text, p.out)
		}
	}
	if len(blocks) != 2 {
		t.Fatalf("%d blocks", len(blocks))
	}
	user := fmt.Sprintf("redis://eventbus:SECRET@127.0.0.1:%d", redis.Port())
	p.bus = bustest.NewOn(t, redis, bustest.Settings{"REDIS_STREAMS_URL": user, "CONSOLE": "true"})
	defer func() { // what hangs, hangs because of it
		if log := redis.CLI(t, "acl", "log"); strings.Contains(log, "username\neventbus") {
			t.Errorf("refused:\n%s", log)
		}
	}()

	worker := cli + " --user worker --pass SECRET --no-auth-warning "
	p.shell(worker + `xadd scan:events:1 '*' job_id 904fb02f-3e06-482c-b271-e641d3275d6b stage done status completed > id
eventbus tail scan/904fb02f-3e06-482c-b271-e641d3275d6b | cut -d ' ' -f 2-
eventbus tail scan > watched &
for i in $(seq 300); do
	eventbus publish scan/my-job --stage seen --key "$i" > ids
	[ -s watched ] && break
done
kill $!
eventbus publish scan/my-job --stage done --final > ids
eventbus state scan/my-job | grep -c 'done (final)'`)
	if want := "1 done completed (final)\n1\n"; p.out != want {
		t.Errorf("it prints\n%s", p.out)
	}
	p.shell("eventbus check --redis-streams-url=" + user)
	if !strings.Contains(p.out, "takes events, scripts and consumer groups") || !strings.Contains(p.out, "an announcement arrives") {
		t.Errorf("eventbus check says\n%s", p.out)
	}
	p.shell("curl -sS http://" + p.bus.HTTP + "/api/inspect/v1/cluster http://" + p.bus.HTTP + "/api/inspect/v1/jobs/scan/my-job")
	if !strings.Contains(p.out, "master") || !strings.Contains(p.out, "finished") {
		t.Errorf("the console is told\n%s", p.out)
	}
	p.bus.Restart(t)
	p.bus.WaitReady(t)
	p.shell(worker + "get scan:state:my-job 2>&1")
	if !strings.Contains(p.out, "NOPERM") {
		t.Errorf("a worker reads a state: %s", p.out)
	}
}

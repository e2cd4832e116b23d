package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/eco2-team/eventbus/deploy/internal/port"
)

var tempDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "deploy")
	if err != nil {
		panic(err)
	}
	tempDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func lenient(t *testing.T, o object, into any) {
	t.Helper()
	if err := yaml.Unmarshal(o.yaml, into); err != nil {
		t.Fatalf("%s: %v", o, err)
	}
}

// server is a redis-server as the operator starts one.
type server struct {
	t    *testing.T
	port int
	dir  string
	args []string
	cmd  *exec.Cmd
}

// operatorConf is redis.conf as redis-operator v1.2.4 writes it (generator.go), but for the
// port.
const operatorConf = `slaveof 127.0.0.1 %[1]d
port %[1]d
tcp-keepalive 60
save 900 1
save 300 10
user pinger -@all +ping on >pingpass
`

// newServer prepares a Redis that is started with the command of a RedisFailover.
func newServer(t *testing.T, command []string) *server {
	t.Helper()
	s := &server{t: t, port: port.Reserve(t), dir: t.TempDir()}
	conf := filepath.Join(s.dir, "redis.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, operatorConf, s.port), 0o600); err != nil {
		t.Fatal(err)
	}
	at := slices.Index(command, "/redis/redis.conf")
	if at < 1 || command[at-1] != "redis-server" {
		t.Fatalf("command %q", command)
	}
	s.args = slices.Concat([]string{conf}, command[at+1:], []string{"--dir", s.dir, "--bind", "127.0.0.1"})
	t.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command("redis-server", s.args...)
	out, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.await("PONG", "ping")
}

func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// do runs a command by redis-cli, as operators and the operator's probes do.
func (s *server) do(args ...string) string {
	s.t.Helper()
	return redisCLI(s.t, s.port, args...)
}

func redisCLI(t *testing.T, port int, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "redis-cli", append([]string{"-p", strconv.Itoa(port)}, args...)...).CombinedOutput()
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}

// await waits until the reply contains want.
func (s *server) await(want string, args ...string) {
	s.t.Helper()
	awaitReply(s.t, s.port, want, args...)
}

func awaitReply(t *testing.T, port int, want string, args ...string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got = redisCLI(t, port, args...); strings.Contains(got, want) {
			return
		}
	}
	t.Fatalf("%v: %q, want %q", args, got, want)
}

var startDelay = regexp.MustCompile(`^sleep (\d+); exec redis-server "\$@"$`)

// delayOf is how long a Redis stays away before it starts; newServer leaves that out.
func delayOf(t *testing.T, command []string) time.Duration {
	t.Helper()
	if command[0] == "redis-server" {
		return 0
	}
	if len(command) < 5 || command[0] != "sh" || command[1] != "-c" || command[3] != "redis-server" {
		t.Fatalf("command %q", command)
	}
	m := startDelay.FindStringSubmatch(command[2])
	if m == nil {
		t.Fatalf("command %q", command)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * time.Second
}

// A master that is back before Sentinel misses it is left where it is, as a replica of
// itself, for down-after + 20 s.
func TestRedis_AMasterStaysAwayUntilSentinelMissesIt(t *testing.T) {
	for _, overlay := range []string{"prod", "ha"} {
		objects := render(t, renders()[overlay])
		for _, name := range []string{"streams-redis", "pubsub-redis"} {
			rf := failoverOf(t, objects, name)
			if rf.Spec.Redis.Replicas == 1 {
				continue
			}
			down := 0
			for _, c := range rf.Spec.Sentinel.CustomConfig {
				if _, err := fmt.Sscanf(c, "down-after-milliseconds %d", &down); err == nil {
					break
				}
			}
			if got, least := delayOf(t, rf.Spec.Redis.Command), time.Duration(down)*time.Millisecond+time.Second; down == 0 || got < least {
				t.Errorf("%s/%s stays away for %s, want %s", overlay, name, got, least)
			}
		}
	}
}

// The same with a real Sentinel: the killed master starts again at once, by its own command
// line, and another one takes its place.
func TestRedis_AMasterThatRestartsIsReplaced(t *testing.T) {
	command := failoverOf(t, render(t, renders()["ha"]), "streams-redis").Spec.Redis.Command
	master, replica := newServer(t, command), newServer(t, command)
	master.start()
	replica.start()
	master.do("replicaof", "no", "one")
	replica.do("replicaof", "127.0.0.1", strconv.Itoa(master.port))
	replica.await("master_link_status:up", "info", "replication")
	sentinel := startSentinel(t, master.port)
	awaitReply(t, sentinel, "master-link-status\nok", "sentinel", "replicas", "mymaster") // else it cannot be chosen
	master.kill()
	again := exec.Command("sh", slices.Concat([]string{"-c", command[2], "redis-server"}, master.args)...)
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Process.Kill(); _ = again.Wait() })
	begin := time.Now()
	replica.await("master", "role")
	if took := time.Since(begin); took > 19*time.Second {
		t.Errorf("the replica was promoted after %s", took)
	}
	awaitReply(t, master.port, "slave", "role")
	awaitReply(t, master.port, "master_port:"+strconv.Itoa(replica.port), "info", "replication")
}

// failovers are the names of the RedisFailovers that each overlay has.
func failovers(t *testing.T, objects []object) []string {
	t.Helper()
	var out []string
	for _, o := range objects {
		if o.Kind == "RedisFailover" {
			out = append(out, o.Metadata.Name)
		}
	}
	return out
}

// The operator sends customConfig as CONFIG SET; one that Redis refuses ends every check,
// and with it all failovers. It refuses tcp-backlog, for one.
func TestRedis_TakesEverySettingWhileItRuns(t *testing.T) {
	for _, overlay := range []string{"dev", "prod", "ha", "everything"} {
		objects := render(t, renders()[overlay])
		for _, name := range failovers(t, objects) {
			rf := failoverOf(t, objects, name)
			command := rf.Spec.Redis.Command
			if len(command) == 0 {
				command = []string{"redis-server", "/redis/redis.conf"}
			}
			s := newServer(t, command)
			s.start()
			for _, c := range rf.Spec.Redis.CustomConfig {
				k, v, _ := strings.Cut(c, " ")
				if got := s.do("config", "set", k, v); got != "OK" {
					t.Errorf("%s/%s: config set %s %s: %s", overlay, name, k, v, got)
				}
			}
			if got := s.do("config", "set", "tcp-backlog", "511"); got == "OK" {
				t.Error("this Redis refuses nothing: the test proves nothing")
			}
			s.kill()
		}
	}
}

func TestRedis_SentinelTakesEverySetting(t *testing.T) {
	master := newServer(t, []string{"redis-server", "/redis/redis.conf", "--replicaof", "no", "one"})
	master.start()
	sentinel := startSentinel(t, master.port)
	objects := render(t, renders()["everything"])
	for _, name := range failovers(t, objects) {
		for _, c := range failoverOf(t, objects, name).Spec.Sentinel.CustomConfig {
			k, v, _ := strings.Cut(c, " ")
			if got := redisCLI(t, sentinel, "sentinel", "set", "mymaster", k, v); got != "OK" {
				t.Errorf("%s: sentinel set %s %s: %s", name, k, v, got)
			}
		}
	}
}

// startSentinel runs a Sentinel that watches the port as mymaster, and returns its own.
func startSentinel(t *testing.T, master int) int {
	t.Helper()
	port, dir := port.Reserve(t), t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nsentinel monitor mymaster 127.0.0.1 %d 1\nsentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 3000\n", port, dir, master)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("redis-server", conf, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	awaitReply(t, port, "PONG", "ping")
	return port
}

// A Redis that gets AOF by CONFIG SET starts without its data, and then writes the nothing
// it has over it. So the streams' Redis starts with it: kill -9 loses nothing that was
// acknowledged.
func TestRedis_TheLogOutlivesAKill(t *testing.T) {
	for _, overlay := range []string{"dev", "prod", "ha"} {
		t.Run(overlay, func(t *testing.T) {
			s := newServer(t, failoverOf(t, render(t, renders()[overlay]), "streams-redis").Spec.Redis.Command)
			s.start()
			if overlay == "ha" { // the operator, or Sentinel, chooses among three
				s.do("replicaof", "no", "one")
			}
			const n = 200
			s.do("eval", "for i = 1, ARGV[1] do redis.call('xadd', KEYS[1], '*', 'n', i) end", "1", "scan:events:0", strconv.Itoa(n))
			s.kill()
			s.start()
			if got := s.do("xlen", "scan:events:0"); got != strconv.Itoa(n) {
				t.Errorf("%s of %d entries after a kill", got, n)
			}
			for k, want := range map[string]string{"appendonly": "yes", "appendfsync": "everysec", "save": ""} {
				if got := strings.TrimSpace(strings.TrimPrefix(s.do("config", "get", k), k)); got != want {
					t.Errorf("%s is %q, want %q", k, got, want)
				}
			}
		})
	}
}

// The operator's redis.conf makes every Redis a replica of itself until the operator comes
// by, up to 30 s later. A lone one need not wait; three must.
func TestRedis_OnlyALoneOneStartsAsMaster(t *testing.T) {
	for _, overlay := range []string{"dev", "prod", "ha"} {
		objects := render(t, renders()[overlay])
		for _, name := range []string{"streams-redis", "pubsub-redis"} {
			rf := failoverOf(t, objects, name)
			s := newServer(t, rf.Spec.Redis.Command)
			s.start()
			want := "slave"
			if rf.Spec.Redis.Replicas == 1 {
				want = "master"
			}
			if got, _, _ := strings.Cut(s.do("role"), "\n"); got != want {
				t.Errorf("%s/%s: one of %d starts as %s, want %s", overlay, name, rf.Spec.Redis.Replicas, got, want)
			}
			s.kill()
		}
	}
}

func TestRedis_PubSubStoresNothing(t *testing.T) {
	s := newServer(t, failoverOf(t, render(t, renders()["prod"]), "pubsub-redis").Spec.Redis.Command)
	s.start()
	for _, k := range []string{"appendonly", "save"} {
		if got := strings.TrimSpace(strings.TrimPrefix(s.do("config", "get", k), k)); got != "no" && got != "" {
			t.Errorf("%s is %q", k, got)
		}
	}
}

func TestRedis_NoEviction(t *testing.T) {
	for _, overlay := range []string{"dev", "prod", "ha"} {
		rf := failoverOf(t, render(t, renders()[overlay]), "streams-redis")
		if !slices.Contains(rf.Spec.Redis.CustomConfig, "maxmemory-policy noeviction") {
			t.Errorf("%s: entries may be evicted", overlay)
		}
	}
}

// The script that runs before a Redis stops.
func TestShutdown_HandsTheMasterOver(t *testing.T) {
	command := failoverOf(t, render(t, renders()["ha"]), "streams-redis").Spec.Redis.Command
	master, replica := newServer(t, command), newServer(t, command)
	master.start()
	replica.start()
	master.do("replicaof", "no", "one")
	replica.do("replicaof", "127.0.0.1", strconv.Itoa(master.port))
	replica.await("master_link_status:up", "info", "replication")
	sentinel := startSentinel(t, master.port)
	awaitReply(t, sentinel, "master-link-status\nok", "sentinel", "replicas", "mymaster") // else it cannot be chosen
	runShutdown(t, master.port, sentinel)
	if got, _, _ := strings.Cut(replica.do("role"), "\n"); got != "master" {
		t.Errorf("the replica is %s", got)
	}
	if got, _, _ := strings.Cut(master.do("role"), "\n"); got != "slave" {
		t.Errorf("the old master is %s", got)
	}
}

// With nobody to hand over to there is nothing to wait for.
func TestShutdown_DoesNotWaitAlone(t *testing.T) {
	s := newServer(t, failoverOf(t, render(t, renders()["prod"]), "streams-redis").Spec.Redis.Command)
	s.start()
	sentinel := startSentinel(t, s.port)
	begin := time.Now()
	runShutdown(t, s.port, sentinel)
	if took := time.Since(begin); took > 18*time.Second { // it would be 20 s
		t.Errorf("it took %s", took)
	}
}

func runShutdown(t *testing.T, redis, sentinel int) {
	t.Helper()
	objects := render(t, renders()["prod"])
	var cm corev1.ConfigMap
	find(t, objects, "ConfigMap", "redis-shutdown").decode(t, &cm)
	rf := failoverOf(t, objects, "streams-redis")
	if rf.Spec.Redis.ShutdownConfigMap != cm.Name {
		t.Fatalf("the failover's script is %s", rf.Spec.Redis.ShutdownConfigMap)
	}
	grace := time.Duration(rf.Spec.Redis.TerminationGracePeriodSeconds) * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", cm.Data["shutdown.sh"])
	cmd.Env = append(os.Environ(), "HOSTNAME=rfr-streams-redis-0", "REDIS_PORT="+strconv.Itoa(redis),
		"SENTINEL_HOST=127.0.0.1", "SENTINEL_PORT="+strconv.Itoa(sentinel))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("shutdown.sh: %v\n%s", err, out)
	}
}

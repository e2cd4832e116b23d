// Package stack starts all that the example is made of, each a process of its own, and ends
// it again: Redis and RabbitMQ where none is given (services.go), the bus, the Scan API and
// the workers (this file). What ends is started again, as Kubernetes does.
//
//	Redis, RabbitMQ → eventbus serve → API → workers; they stop the other way round
package stack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/eco2-team/eventbus/deploy/example/queue"
)

// Options say what is started.
type Options struct {
	// Repo is the directory of eventbus, Eventbus and Example are the binaries.
	Repo, Eventbus, Example string
	// Dir is where data and logs go; it must exist.
	Dir string
	// RedisURL and AMQPURL are those to use; empty: one is started.
	RedisURL, AMQPURL string
	// APIPort, EventsPort and GRPCPort are taken if they are free.
	APIPort, EventsPort, GRPCPort int
	// Workers is how many processes there are of each kind.
	GoWorkers, PythonWorkers, LegacyWorkers int
	// Env is for the API and the workers, and wins.
	Env map[string]string
	// Ended is told of each process that ends and is started again; nil tells nobody. It
	// must not block.
	Ended func(name string, err error)
}

// Stack is what runs.
type Stack struct {
	APIURL, EventsURL, RouterAddr, AMQPURL, RedisURL string

	o        Options
	ports    ports
	services []*Service // in the order of their start
}

// startTimeout is for all of it. RabbitMQ takes most of that.
const startTimeout = 3 * time.Minute

// Start returns when a scan can be taken. After an error nothing is left.
func Start(ctx context.Context, o Options) (*Stack, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s := &Stack{o: o, RedisURL: o.RedisURL, AMQPURL: o.AMQPURL}
	if s.o.Ended == nil {
		s.o.Ended = func(string, error) {}
	}
	for _, step := range []func(context.Context) error{s.startRedis, s.startRabbitMQ, s.startBus, s.startAPI, s.startWorkers} {
		if err := step(ctx); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// Services are the processes whose names begin so.
func (s *Stack) Services(prefix string) []*Service {
	var out []*Service
	for _, service := range s.services {
		if strings.HasPrefix(service.name, prefix) {
			out = append(out, service)
		}
	}
	return out
}

// Close ends everything, the last first: whoever needs another one goes before it.
func (s *Stack) Close() {
	for _, service := range slices.Backward(s.services) {
		service.stop()
	}
	s.ports.release()
}

func (s *Stack) start(c command) error {
	service, err := startService(s.o.Dir, c, s.o.Ended)
	if err == nil {
		s.services = append(s.services, service)
	}
	return err
}

func (s *Stack) startBus(ctx context.Context) error {
	grpc, err := s.ports.next(ctx, s.o.GRPCPort)
	if err != nil {
		return err
	}
	events, err := s.ports.next(ctx, s.o.EventsPort)
	if err != nil {
		return err
	}
	admin, err := s.ports.next(ctx, 0)
	if err != nil {
		return err
	}
	api, err := s.ports.next(ctx, s.o.APIPort)
	if err != nil {
		return err
	}
	s.RouterAddr = fmt.Sprintf("127.0.0.1:%d", grpc)
	s.EventsURL, s.APIURL = local(events), local(api)
	err = s.start(command{name: "eventbus", path: s.o.Eventbus, args: []string{"serve"}, env: environment(map[string]string{
		"REDIS_STREAMS_URL": s.RedisURL, "GRPC_ADDR": s.RouterAddr, "HTTP_ADDR": fmt.Sprintf("127.0.0.1:%d", events),
		"ADMIN_ADDR": fmt.Sprintf("127.0.0.1:%d", admin), "POD_NAME": "example", "CONSOLE": "true",
		// The page is of the API's origin, the stream of another.
		"CORS_ORIGINS": s.APIURL, "DRAIN_TIMEOUT": "10s",
	})})
	if err != nil {
		return err
	}
	return s.wait(ctx, "the bus", func(ctx context.Context) error { return ask(ctx, local(admin)+"/readyz") })
}

func (s *Stack) startAPI(ctx context.Context) error {
	err := s.start(command{name: "api", path: s.o.Example, args: []string{"api"}, env: s.settings(map[string]string{
		"API_ADDR": s.APIURL[len("http://"):], "EVENTS_URL": s.EventsURL,
	})})
	if err != nil {
		return err
	}
	return s.wait(ctx, "the Scan API", func(ctx context.Context) error { return ask(ctx, s.APIURL+"/readyz") })
}

func (s *Stack) startWorkers(ctx context.Context) error {
	return s.StartWorkers(ctx, s.o.GoWorkers, s.o.PythonWorkers, s.o.LegacyWorkers)
}

// StartWorkers starts so many processes of each kind, beside those that there are. It must
// not be called while another method is.
func (s *Stack) StartWorkers(ctx context.Context, inGo, inPython, legacy int) error {
	stubs := filepath.Join(s.o.Dir, "python")
	if inPython > 0 {
		if err := generate(ctx, s.o.Repo, stubs); err != nil {
			return err
		}
	}
	script := func(name string) []string {
		return []string{filepath.Join(s.o.Repo, "deploy", "example", "python", name)}
	}
	for _, kind := range []struct {
		name string
		n    int
		path string
		args []string
	}{
		{"go", inGo, s.o.Example, []string{"worker"}},
		{"python", inPython, python(), script("worker.py")},
		{"legacy", legacy, python(), script("legacy.py")},
	} {
		first := len(s.Services(kind.name)) + 1
		for i := range kind.n {
			name := kind.name + "-" + strconv.Itoa(first+i)
			err := s.start(command{name: name, path: kind.path, args: kind.args, env: s.settings(map[string]string{
				"WORKER_NAME": name, "REDIS_STREAMS_URL": s.RedisURL,
				"PYTHONPATH": stubs, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
			})})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// settings is the environment of the API and the workers.
func (s *Stack) settings(own map[string]string) []string {
	own["AMQP_URL"], own["ROUTER_ADDR"], own["QUEUE_TRIES"] = s.AMQPURL, s.RouterAddr, strconv.Itoa(queue.DefaultTries)
	own["DRAIN_TIMEOUT"] = "10s"
	return environment(own, s.o.Env)
}

// environment is what a child sees: not what else is set here, POD_NAME for one.
func environment(all ...map[string]string) []string {
	env := map[string]string{"PATH": os.Getenv("PATH"), "HOME": os.Getenv("HOME"), "GOTRACEBACK": "all"}
	for _, m := range all {
		maps.Copy(env, m)
	}
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	return out
}

func local(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

// wait asks again until there is no error, something had to be started again, or time is over.
func (s *Stack) wait(ctx context.Context, what string, ready func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		for _, service := range s.services {
			if service.Runs() > 1 {
				return fmt.Errorf("%s does not start, see %s", service.name, service.log)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", what, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

func ask(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		err = errors.New(url + ": " + resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

// Command example is the pipeline that eventbus was made for, to try it out: a Scan API, a
// queue, workers, the bus, and a page that watches.
//
//	browser → api → RabbitMQ → worker → eventbus → browser
//
// `example run` starts all of it on this machine; `api` and `worker` are its parts, as a
// cluster runs them.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/eco2-team/eventbus/deploy/example/api"
	"github.com/eco2-team/eventbus/deploy/example/worker"
)

type cli struct {
	Run    runCmd    `cmd:"" default:"withargs" help:"Everything on this machine, until Ctrl-C."`
	API    apiCmd    `cmd:"" name:"api" help:"The Scan API and its page."`
	Worker workerCmd `cmd:"" help:"A worker that plays scans."`
}

type apiCmd struct {
	Config api.Config `embed:""`
}

// Run runs the API.
func (c *apiCmd) Run(ctx context.Context, log *slog.Logger) error { return api.Run(ctx, c.Config, log) }

type workerCmd struct {
	Config worker.Config `embed:""`
}

// Run runs a worker.
func (c *workerCmd) Run(ctx context.Context, log *slog.Logger) error {
	return worker.Run(ctx, c.Config, log)
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "example:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	parser, err := kong.New(&c, kong.Name("example"), kong.Writers(out, os.Stderr), kong.BindTo(ctx, (*context.Context)(nil)),
		kong.BindTo(out, (*io.Writer)(nil)), kong.Bind(slog.New(slog.NewJSONHandler(os.Stderr, nil))),
		kong.Description("A scan of pictures, from an upload through RabbitMQ, workers and eventbus into a browser."))
	if err != nil {
		return err
	}
	k, err := parser.Parse(args)
	parser.FatalIfErrorf(err)
	return k.Run()
}

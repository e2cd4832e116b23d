// Package command is the part of the command line that talks to a bus from outside:
// publish, tail, state, check and completion. Each command is a struct that kong
// fills, and a Run.
//
// It owns how events are read and shown on a terminal. It knows the bus by
// server/client, and its Redis by router/doctor; it serves nothing.
//
//	eventbus publish → server/client → router → server/client → eventbus tail
package command

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/eco2-team/eventbus/router/certs"
	"github.com/eco2-team/eventbus/server/client"
)

// Streams are the process's own.
type Streams struct {
	In  *os.File
	Out *os.File
	Err *os.File
}

// Connection says where the routers are, by the settings of an edge.
type Connection struct {
	Router    string `name:"router-addr" env:"ROUTER_ADDR" default:"localhost:9090" help:"gRPC address of the routers, host:port or dns:///host:port."`
	Token     string `env:"EVENTBUS_TOKEN" placeholder:"JWT" help:"Token, for a bus that requires one. In the environment no other process sees it."`
	TokenFile string `env:"ROUTER_TOKEN_FILE" placeholder:"FILE" help:"File with the token, read at each call."`
	TLS       bool   `name:"tls" help:"The routers speak TLS, with certificates of the system's CAs."`
	CA        string `name:"router-tls-ca" env:"ROUTER_TLS_CA" placeholder:"FILE" help:"The routers speak TLS, with certificates of these CAs."`
	Cert      string `name:"router-tls-cert" env:"ROUTER_TLS_CERT" placeholder:"FILE" help:"Our certificate, for routers that want one."`
	Key       string `name:"router-tls-key" env:"ROUTER_TLS_KEY" placeholder:"FILE" help:"Its key."`
	Name      string `name:"router-tls-name" env:"ROUTER_TLS_NAME" placeholder:"NAME" help:"The name in the routers' certificates. Default: the host in ROUTER_ADDR."`
}

// dial connects; what the client has to say goes to stderr.
func (c *Connection) dial(std Streams) (*client.Client, error) {
	log := slog.New(slog.NewTextHandler(std.Err, nil))
	o := client.Options{Log: log}
	switch {
	case c.TokenFile != "":
		o.Token = client.TokenFile(c.TokenFile)
	case c.Token != "":
		o.Token = client.StaticToken(c.Token)
	}
	var err error
	if o.TLS, err = c.tls(log); err != nil {
		return nil, err
	}
	return client.Dial(c.Router, o)
}

func (c *Connection) tls(log *slog.Logger) (*tls.Config, error) {
	if (c.Cert == "") != (c.Key == "") {
		return nil, fmt.Errorf("ROUTER_TLS_CERT: %q: must be set together with ROUTER_TLS_KEY", c.Cert)
	}
	if !c.TLS && c.CA == "" && c.Cert == "" {
		return nil, nil //nolint:nilnil // no TLS is no error
	}
	files, err := certs.Load(certs.Paths{Cert: c.Cert, Key: c.Key, CA: c.CA}, log)
	if err != nil {
		return nil, err
	}
	return files.Client(c.Name), nil
}

// untilSignal is a context that an operator ends by Ctrl-C.
func untilSignal() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// jobRef reads DOMAIN/JOB.
func jobRef(s string) (domain, job string, err error) {
	domain, job, ok := strings.Cut(s, "/")
	if !ok || domain == "" || job == "" {
		return "", "", fmt.Errorf("%q: must be DOMAIN/JOB, as scan/my-job", s)
	}
	return domain, job, nil
}

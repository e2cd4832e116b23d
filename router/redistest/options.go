package redistest

import (
	"fmt"
	"strings"
)

// Option changes how servers are started. The same options apply to every server of a Sentinel or Cluster.
type Option func(*settings)

// settings is what the options add up to. It is not changed once servers are started.
type settings struct {
	config     []directive // wins over the defaults
	sentinel   []directive // "sentinel <name> mymaster <values>"
	password   string
	appendOnly bool
	port       int // 0: any free one
	wantTLS    bool
	tls        *tlsFiles // shared by all servers of one shape
	role       role
}

// role says which of the three kinds of process a server is.
type role int

const (
	roleData role = iota
	roleSentinel
	roleCluster
)

// directive is one line of a redis configuration file.
type directive struct {
	name   string
	values []string
}

// WithConfig adds one directive to redis.conf, e.g. WithConfig("maxmemory", "10mb"). It wins over the default.
func WithConfig(name string, values ...string) Option {
	return func(s *settings) { s.config = append(s.config, directive{name, values}) }
}

// WithSentinelConfig sets one option of the watched master in every sentinel, e.g.
// WithSentinelConfig("down-after-milliseconds", "500"). It wins over the default. Other shapes ignore it. (Each further
// sentinel gets 150 ms more of that one, so that their votes are not split.)
func WithSentinelConfig(name string, values ...string) Option {
	return func(s *settings) { s.sentinel = append(s.sentinel, directive{name, values}) }
}

// WithPassword makes clients and replicas authenticate (AUTH without a user). Sentinels themselves ask for none.
func WithPassword(password string) Option {
	return func(s *settings) { s.password = password }
}

// WithTLS makes servers speak only TLS, also among themselves, with a certificate of a CA of their own:
// see [Server.TLSConfig] and [Server.CAFile]. Clients need no certificate.
func WithTLS() Option {
	return func(s *settings) { s.wantTLS = true }
}

// WithAppendOnly keeps the data over Kill, Stop and Start in an append-only file. Each reply waits for its write, not
// for an fsync: nothing answered is lost by killing the process.
func WithAppendOnly() Option {
	return func(s *settings) { s.appendOnly = true }
}

// WithPort takes this port or fails. Only for single servers; without it a free port is found. A restart keeps the port
// anyway.
func WithPort(port int) Option {
	return func(s *settings) { s.port = port }
}

func newSettings(opts []Option) settings {
	var s settings
	for _, opt := range opts {
		opt(&s)
	}
	return s
}

// with is a copy of s for one server of a shape, with more directives before those of the options.
func (s settings) with(r role, extra ...directive) settings {
	s.role = r
	s.config = append(extra, s.config...)
	return s
}

// render is the whole configuration file of a server in dir on port.
func (s settings) render(dir string, port int) string {
	var b strings.Builder
	add := func(name string, values ...string) {
		b.WriteString(name)
		for _, v := range values {
			b.WriteString(" " + quote(v))
		}
		b.WriteByte('\n')
	}
	number := fmt.Sprint(port)
	add("bind", "127.0.0.1")
	add("dir", dir)
	add("protected-mode", "no")
	add("daemonize", "no")
	if s.tls == nil {
		add("port", number)
	} else {
		add("port", "0")
		add("tls-port", number)
		add("tls-cert-file", s.tls.cert)
		add("tls-key-file", s.tls.key)
		add("tls-ca-cert-file", s.tls.ca)
		add("tls-auth-clients", "no")
		add("tls-replication", "yes")
	}
	if s.role != roleSentinel {
		s.renderData(add)
	}
	for _, d := range s.config {
		add(d.name, d.values...)
	}
	return b.String()
}

// renderData adds what servers with data have and sentinels refuse.
func (s settings) renderData(add func(string, ...string)) {
	add("save", "")
	add("enable-debug-command", "local")
	// Stop waits this long for replicas that lag, e.g. paused ones.
	add("shutdown-timeout", "2")
	add("repl-diskless-sync", "yes")
	add("repl-diskless-sync-delay", "0")
	add("repl-ping-replica-period", "1")
	add("repl-timeout", "5")
	if s.appendOnly {
		add("appendonly", "yes")
		// everysec may answer before the write while an fsync is under way; "no" writes before each reply.
		add("appendfsync", "no")
	} else {
		add("appendonly", "no")
	}
	if s.password != "" {
		add("requirepass", s.password)
		add("masterauth", s.password)
	}
	if s.role == roleCluster {
		add("cluster-enabled", "yes")
		add("cluster-config-file", "nodes.conf")
		if s.tls != nil {
			add("tls-cluster", "yes")
		}
	}
}

// quote makes v one word of a redis configuration file.
func quote(v string) string {
	if v != "" && !strings.ContainsAny(v, " \t\r\n\"'\\#") {
		return v
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(v) + `"`
}

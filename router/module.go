package router

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"
	"go.uber.org/fx"

	"github.com/eco2-team/eventbus/router/trace"
)

// Module provides a running *Bus from a Config, a *slog.Logger, a
// prometheus.Registerer and a *trace.Tracer. List it before what uses it: it stops after them.
func Module() fx.Option {
	return fx.Module("router", fx.Provide(New), fx.Invoke(func(lc fx.Lifecycle, b *Bus, t *trace.Tracer, log *slog.Logger) {
		b.TraceTo(t)
		redis.SetLogger(redisLog{log}) // for the process, so not New's to set
		lc.Append(fx.Hook{
			OnStart: func(context.Context) error { b.Start(); return nil },
			OnStop:  func(context.Context) error { return b.Stop() },
		})
	}))
}

// redisLog puts go-redis's own lines, which say little that the bus does not, where
// only debugging sees them.
type redisLog struct{ log *slog.Logger }

func (l redisLog) Printf(ctx context.Context, format string, v ...any) {
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, "redis client", "text", fmt.Sprintf(format, v...))
	}
}

package router

import (
	"context"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Info is what INFO says of a Redis.
type Info map[string]string

// ReadInfo asks a Redis for it, or for some of its sections.
func ReadInfo(ctx context.Context, c *redis.Client, sections ...string) (Info, error) {
	text, err := c.Info(ctx, sections...).Result()
	if err != nil {
		return nil, err
	}
	out := Info{}
	for line := range strings.Lines(text) {
		if name, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			out[name] = v
		}
	}
	return out, nil
}

// Number is 0 where it is none.
func (i Info) Number(name string) float64 {
	n, _ := strconv.ParseFloat(i[name], 64)
	return n
}

// MemoryRatio is the part of maxmemory that is used; 0 where there is no maxmemory.
func (i Info) MemoryRatio() float64 {
	limit := i.Number("maxmemory")
	if limit == 0 {
		return 0
	}
	return i.Number("used_memory") / limit
}

// Address is where a client is connected to. One of Sentinel does not know it, so
// Redis is asked.
func Address(ctx context.Context, c *redis.Client) string {
	addr := c.Options().Addr
	if strings.Contains(addr, ":") {
		return addr
	}
	text, err := c.Do(ctx, "CLIENT", "INFO").Text()
	if err != nil {
		return "of Sentinel" // why it does not answer is told next
	}
	for field := range strings.FieldsSeq(text) {
		if local, ok := strings.CutPrefix(field, "laddr="); ok {
			return local
		}
	}
	return "of Sentinel"
}

// PodOf is the POD_NAME in a router's token, which is what leases and members hold.
func PodOf(token string) string {
	if i := strings.LastIndexByte(token, '/'); i > 0 {
		return token[:i]
	}
	return token
}

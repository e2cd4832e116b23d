package edge

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// pageSize is how many events a laggard gets per page.
const pageSize = 256

// pages reads a job's log through ListEvents, for browsers that are not within
// the ring.
type pages struct {
	topic *topic

	mu sync.Mutex
	// ctx ends with the topic; nil before the first read. Both guarded by mu.
	ctx    context.Context
	cancel context.CancelFunc

	// flight lets all browsers behind the same hole share one read and one
	// encoding.
	flight singleflight.Group
}

// life is the topic's context.
func (p *pages) life() context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx == nil {
		p.ctx, p.cancel = context.WithCancel(p.topic.owner.ctx)
	}
	return p.ctx
}

// end is the topic's end.
func (p *pages) end() {
	p.life()
	p.cancel()
}

// Read implements hub.Log. It tries again while no router answers; after a
// heartbeat's time it returns errQuiet, so that the browser can be told.
func (p *pages) Read(ctx context.Context, after event.ID) (hub.Page[frame], error) {
	retry := newPatience()
	quiet := time.Now().Add(p.topic.owner.heartbeat)
	for {
		v, err, _ := p.flight.Do(after.String(), func() (any, error) { return p.fetch(after) })
		switch {
		case err == nil:
			return v.(hub.Page[frame]), nil
		case ctx.Err() != nil:
			return hub.Page[frame]{}, context.Cause(ctx)
		case !transient(err):
			return hub.Page[frame]{}, err
		case time.Now().After(quiet):
			return hub.Page[frame]{}, errQuiet
		}
		p.topic.owner.upstreamLost(err, "domain", p.topic.key.domain, "job_id", p.topic.key.job)
		if !retry.wait(ctx) {
			return hub.Page[frame]{}, context.Cause(ctx)
		}
	}
}

// over asks a router whether the cursor is the final event.
func (p *pages) over(cursor event.ID) bool {
	_, err, _ := p.flight.Do("over "+cursor.String(), func() (any, error) {
		u, err := p.topic.owner.subscribe(p.life(), &eventbusv1.SubscribeRequest{Domain: p.topic.key.domain, JobId: p.topic.key.job, AfterId: cursor.String()})
		if err == nil {
			u.close()
		}
		return nil, err
	})
	return status.Code(err) == codes.OutOfRange
}

// fetch reads one page. It runs in one browser's goroutine for several, so it
// ends with the topic and not with that browser.
func (p *pages) fetch(after event.ID) (hub.Page[frame], error) {
	ctx, cancel := context.WithTimeout(p.life(), openTimeout)
	defer cancel()
	p.topic.owner.metrics.logReads.Inc()
	m, err := p.topic.owner.router.ListEvents(ctx, &eventbusv1.ListEventsRequest{
		Domain: p.topic.key.domain, JobId: p.topic.key.job, AfterId: idText(after), PageSize: pageSize,
	})
	if err != nil {
		return hub.Page[frame]{}, err
	}
	var page hub.Page[frame]
	if g := m.GetGap(); g != nil {
		page.Gap = &event.Gap{Reason: event.Reason(g.GetReason())}
		if id, err := event.ParseID(g.GetOldestId()); err == nil {
			page.Gap.Oldest = id
		}
	}
	var c encoder
	page.Items = make([]hub.Item[frame], 0, len(m.GetEvents()))
	for _, e := range m.GetEvents() {
		it, err := c.item(e)
		if err != nil {
			return hub.Page[frame]{}, err
		}
		page.Items = append(page.Items, it)
	}
	p.topic.owner.metrics.framesEncoded.Add(float64(len(page.Items)))
	return page, nil
}

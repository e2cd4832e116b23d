package demo

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

const (
	// maxBatch bounds one PublishBatch.
	maxBatch = 50
	// tokenBuffer holds the tokens that come while a batch is on its way. When the
	// bus is away it fills, and then the model waits: nothing is dropped.
	tokenBuffer = 256
)

// chatAnswer is what the model says, 200 tokens.
const chatAnswer = `Here is how to recycle an aluminium can right. First, pour out whatever is left inside, because ` +
	`food and drink spoil the paper and plastic that travel in the same truck. Then rinse it with a little water; used dish ` +
	`water is good enough, it only has to be free of residue. Take off plastic caps, straws and shrink labels, and put them ` +
	`into the bin for plastics. Press the can flat if you can do so without hurting yourself: flat cans save space, so the ` +
	`truck drives less often. Spray cans and butane canisters are different. 사용 후 남은 가스를 환기가 되는 곳에서 완전히 ` +
	`비우고, 구멍을 뚫은 다음 배출해 주세요. Empty them outdoors, away from fire, before you hand them in. Cans that held ` +
	`paint, oil or pesticide are hazardous waste and belong to the collection point of your district, never into the ` +
	`recycling bin. Why does all of this matter? Melting down an old can takes about five per cent of the energy that new ` +
	`aluminium needs, and the metal can be used again and again without losing quality. A can that you return today may be ` +
	`back on the shelf as a new one in sixty days.`

// chat plays one answer of a language model: a token is an event, and the final
// event holds the whole text.
func chat(ctx context.Context, j job) error {
	tokens := make(chan string, tokenBuffer)
	g, groupCtx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(tokens)
		return j.generate(groupCtx, tokens)
	})
	g.Go(func() error { return j.publishTokens(groupCtx, tokens) })
	if err := g.Wait(); err != nil {
		return err
	}
	return j.finish(ctx, map[string]string{"text": chatAnswer})
}

// generate stands for the model: it sends a token per pace.
func (j job) generate(ctx context.Context, tokens chan<- string) error {
	for _, token := range strings.SplitAfter(chatAnswer, " ") {
		if err := j.work(ctx, 1); err != nil {
			return err
		}
		select {
		case tokens <- token:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// publishTokens publishes until tokens is closed: a call takes all that came
// during the one before, mostly one token, many after a slow call.
func (j job) publishTokens(ctx context.Context, tokens <-chan string) error {
	n := 0
	for token := range tokens {
		var batch []*eventbusv1.PublishRequest
		for ok := true; ok; token, ok = next(tokens, len(batch)) {
			n++
			batch = append(batch, j.request(fmt.Sprintf("token/%d", n), &eventbusv1.Event{
				Stage: "token", Status: "streaming", Content: token,
			}))
		}
		if err := j.publishBatch(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

// next returns the next token if one is ready and the batch, now of size n, has
// room for it.
func next(tokens <-chan string, n int) (string, bool) {
	if n == maxBatch {
		return "", false
	}
	select {
	case token, ok := <-tokens:
		return token, ok
	default:
		return "", false
	}
}

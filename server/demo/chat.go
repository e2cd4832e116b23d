package demo

import (
	"context"
	"fmt"
	"strings"

	"github.com/eco2-team/eventbus/server/client"
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
	for i, token := range strings.SplitAfter(chatAnswer, " ") {
		if err := j.work(ctx, 1); err != nil { // the model
			return err
		}
		if err := j.Token(ctx, token, client.WithKey(fmt.Sprintf("token/%d", i+1))); err != nil {
			return err
		}
	}
	return j.finish(ctx, map[string]string{"text": chatAnswer})
}

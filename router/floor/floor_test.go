package floor

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/eco2-team/eventbus/router/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFloor_EachEventIsInTheStreamAndAnnouncedOnce(t *testing.T) {
	redis := redistest.New(t)
	const callers, each = 8, 50
	got := make(chan string, callers*each*2)
	f, err := Open(t.Context(), redis.URL(), func(job string, payload []byte) { got <- job + " " + string(payload) })
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ids := make([][]string, callers)
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				job := fmt.Sprint("job-", c)
				more, err := f.Publish(t.Context(), Event{job, fmt.Append(nil, "a\n", 2*i)}, Event{job, fmt.Append(nil, "a\n", 2*i+1)})
				if err != nil {
					t.Error(err)
				}
				ids[c] = append(ids[c], more...)
			}
		})
	}
	wg.Wait()
	seen := map[string]int{}
	limit := time.After(30 * time.Second)
	for range 2 * callers * each {
		select {
		case s := <-got:
			seen[s]++
		case <-limit:
			t.Fatalf("%d events came", len(seen))
		}
	}
	different := map[string]bool{}
	for c := range callers {
		for i := range 2 * each {
			if n := seen[fmt.Sprintf("job-%d a\n%d", c, i)]; n != 1 {
				t.Errorf("event %d of caller %d came %d times", i, c, n)
			}
			different[ids[c][i]] = true
		}
	}
	if n := redis.Client().XLen(t.Context(), stream).Val(); n != 2*callers*each || len(different) != int(n) {
		t.Errorf("%d entries, %d ids", n, len(different))
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestFloor_RedisThatIsNotThereIsAnError(t *testing.T) {
	if _, err := Open(t.Context(), "redis://127.0.0.1:1/0", nil); err == nil {
		t.Error("no error")
	}
	if _, err := Open(t.Context(), "nonsense", nil); err == nil {
		t.Error("no error")
	}
}

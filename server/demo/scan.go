package demo

import (
	"context"

	"github.com/eco2-team/eventbus/server/client"
)

// scanStage is a stage of the scan of a photo of waste.
type scanStage struct {
	name string
	// from and to are the job's progress at its start and end, in per cent.
	from, to int
	// paces is how long it works.
	paces   int
	message string
	// result is what it found: anything that json.Marshal takes, or nil.
	result any
}

// scanStages are the stages in order; the final `done` comes after them.
func scanStages() []scanStage {
	return []scanStage{
		{"queued", 0, 5, 5, "waiting for a free worker", nil},
		{"vision", 5, 40, 30, "looking at the photo", map[string]any{
			"major_category": "재활용폐기물", "middle_category": "금속캔", "minor_category": "알루미늄캔",
			"confidence": 0.97, "situation_tags": []string{"내용물_있음", "라벨_없음"},
		}},
		{"rule", 40, 55, 15, "looking up the rule", map[string]any{
			"rule_id": "metal-can", "source": "재활용품 분리배출 지침",
			"disposal_steps": []string{"내용물을 비운다", "물로 헹군다", "압착하여 캔류로 배출한다"},
		}},
		{"answer", 55, 85, 35, "writing the answer", map[string]any{
			"user_answer":     "캔 안의 내용물을 비우고 물로 헹군 뒤, 압착하여 캔류 수거함에 넣어 주세요.",
			"insufficiencies": []string{"내용물이 남아 있습니다"},
		}},
		{"reward", 85, 95, 10, "choosing the reward", map[string]any{
			"received": true, "already_owned": false, "character": "메탈리", "match_reason": "금속캔",
		}},
	}
}

// scan plays one scan: each stage says that it started and what it found, and
// the final event holds the whole result, so that a late reader needs no other.
func scan(ctx context.Context, j job) error {
	whole := map[string]any{}
	for _, s := range scanStages() {
		if err := j.Progress(ctx, s.name, s.from, client.WithMessage(s.message), client.WithKey(s.name+"/started")); err != nil {
			return err
		}
		if err := j.work(ctx, s.paces); err != nil {
			return err
		}
		found := []client.SendOption{client.WithStatus(client.Completed), client.WithKey(s.name + "/completed")}
		if s.result != nil {
			value, err := client.Value(s.result)
			if err != nil {
				return err
			}
			found = append(found, client.WithResult(value))
			whole[s.name] = s.result
		}
		if err := j.Progress(ctx, s.name, s.to, found...); err != nil {
			return err
		}
	}
	return j.finish(ctx, whole)
}

// finish publishes the job's last event; the bus refuses any event after it.
func (j job) finish(ctx context.Context, result any) error {
	return j.Done(ctx, result, client.WithKey("done"))
}

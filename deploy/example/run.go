package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/eco2-team/eventbus/deploy/example/stack"
)

// runCmd is the example as a whole.
type runCmd struct {
	Repo          string        `default:"." type:"existingdir" help:"The directory of eventbus."`
	Eventbus      string        `default:".bin/eventbus" type:"existingfile" help:"Its binary."`
	AMQPURL       string        `name:"amqp-url" env:"AMQP_URL" help:"A RabbitMQ to use; without one, one is started."`
	RedisURL      string        `name:"redis-streams-url" env:"REDIS_STREAMS_URL" help:"A Redis to use; without one, one is started."`
	GoWorkers     int           `default:"2" help:"Workers in Go."`
	PythonWorkers int           `default:"2" help:"Workers in Python."`
	LegacyWorkers int           `default:"1" help:"Old workers, which write to Redis themselves."`
	LegacyShare   float64       `default:"0.2" help:"Share of the scans that they get, 0-1."`
	FailRate      float64       `default:"0.05" help:"Share of the stages that fail for now, 0-1."`
	Pace          time.Duration `default:"40ms" help:"The time of a token."`
	Once          bool          `help:"End after the first scan."`
}

// Run starts everything, plays a scan, and waits for Ctrl-C.
func (c *runCmd) Run(ctx context.Context, out io.Writer) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	repo, err := filepath.Abs(c.Repo)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "eventbus-example-")
	if err != nil {
		return err
	}
	legacyShare := c.LegacyShare
	if c.LegacyWorkers == 0 {
		legacyShare = 0
	}
	say(out, "Starting Redis, RabbitMQ, eventbus, the Scan API and %d workers; logs are in %s …\n", c.GoWorkers+c.PythonWorkers+c.LegacyWorkers, dir)
	s, err := stack.Start(ctx, stack.Options{
		Repo: repo, Eventbus: c.Eventbus, Example: self, Dir: dir, RedisURL: c.RedisURL, AMQPURL: c.AMQPURL,
		APIPort: 8080, EventsPort: 8000, GRPCPort: 9090,
		Ended:     func(name string, err error) { say(out, "\n%s ended: %v. It is started again.\n", name, err) },
		GoWorkers: c.GoWorkers, PythonWorkers: c.PythonWorkers, LegacyWorkers: c.LegacyWorkers,
		Env: map[string]string{"LEGACY_SHARE": fmt.Sprint(legacyShare), "FAIL_RATE": fmt.Sprint(c.FailRate), "PACE": c.Pace.String()},
	})
	if err != nil {
		if ctx.Err() != nil {
			return os.RemoveAll(dir)
		}
		return err // with the logs left to read
	}
	defer func() {
		say(out, "\nStopping …\n")
		s.Close()
		if err == nil {
			err = os.RemoveAll(dir)
		}
	}()
	say(out, greeting, s.APIURL, s.EventsURL, s.RouterAddr, s.AMQPURL, s.APIURL)
	if err := playOne(ctx, out, s.APIURL, c.RedisURL == ""); err != nil && ctx.Err() == nil {
		return err
	}
	if c.Once {
		return nil
	}
	say(out, "\nUpload one of yours at %s/ ; Ctrl-C ends everything.\n", s.APIURL)
	<-ctx.Done()
	return nil
}

const greeting = `
  page       %s/
  console    %s/
  gRPC       %s
  RabbitMQ   %s
  by hand    curl -F picture=@photo.jpg -H 'Idempotency-Key: 1' %s/scan

A scan, as it goes by:

`

func say(out io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(out, format, args...) // the terminal has gone: so will we
}

// playOne uploads a picture, watches its scan and prints it. On an empty bus it is always
// the same job, one that a new worker gets.
func playOne(ctx context.Context, out io.Writer, apiURL string, empty bool) error {
	key := "first"
	if !empty {
		key = uuid.NewString()
	}
	picture, err := drawing()
	if err != nil {
		return err
	}
	var job struct {
		JobID     string `json:"job_id"`
		StreamURL string `json:"stream_url"`
		ResultURL string `json:"result_url"`
	}
	raw, err := call(ctx, http.MethodPost, apiURL+"/scan", bytes.NewReader(picture), key)
	if err == nil {
		err = json.Unmarshal(raw, &job)
	}
	if err != nil {
		return err
	}
	if err := watch(ctx, out, job.StreamURL); err != nil {
		return err
	}
	result, err := call(ctx, http.MethodGet, apiURL+job.ResultURL, http.NoBody, "")
	if err != nil {
		return err
	}
	say(out, "\n%s\n", result)
	return nil
}

// watch prints a stream as lines of JSON, the way curl sees it, until it ends.
func watch(ctx context.Context, out io.Writer, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Seq        int               `json:"seq"`
			Stage      string            `json:"stage"`
			Status     string            `json:"status"`
			Progress   *int              `json:"progress"`
			Content    string            `json:"content"`
			Message    string            `json:"message"`
			Attributes map[string]string `json:"attributes"`
		}
		if len(lines.Bytes()) == 0 {
			continue // a heartbeat
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
		progress := ""
		if e.Progress != nil {
			progress = fmt.Sprintf("%d %%", *e.Progress)
		}
		say(out, "  %3d  %-8s %-10s %-6s %-10s %s%s\n", e.Seq, e.Stage, e.Status, progress, e.Attributes["worker"], e.Content, e.Message)
	}
	return lines.Err()
}

func call(ctx context.Context, method, url string, body io.Reader, key string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "image/png")
	req.Header.Set("Idempotency-Key", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(resp.Body)
	if resp.StatusCode >= http.StatusMultipleChoices {
		err = errors.New(url + ": " + resp.Status + ": " + string(raw))
	}
	return raw, errors.Join(err, resp.Body.Close())
}

// drawing is a picture of a green bottle, more or less.
func drawing() ([]byte, error) {
	img := image.NewRGBA(image.Rect(0, 0, 320, 240))
	for _, part := range []struct {
		r image.Rectangle
		c color.RGBA
	}{
		{img.Bounds(), color.RGBA{230, 230, 230, 255}},
		{image.Rect(20, 60, 300, 240), color.RGBA{30, 150, 60, 255}},
		{image.Rect(120, 10, 200, 60), color.RGBA{30, 150, 60, 255}},
	} {
		draw.Draw(img, part.r, image.NewUniform(part.c), image.Point{}, draw.Src)
	}
	var out bytes.Buffer
	err := png.Encode(&out, img)
	return out.Bytes(), err
}

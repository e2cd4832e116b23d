package command

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/server/client"
)

// Publish publishes one event, or those of standard input.
type Publish struct {
	Connection

	Job       string            `arg:"" optional:"" name:"domain/job" help:"The job. Lines of standard input may name their own instead."`
	Stage     string            `short:"s" help:"What the job is at. Without it, events are read from standard input."`
	Status    string            `help:"Well known: started, streaming, completed, failed, waiting."`
	Progress  *int32            `short:"p" placeholder:"PERCENT" help:"0-100."`
	Message   string            `short:"m" help:"Text for people."`
	Content   string            `short:"c" help:"A chunk of text."`
	Result    string            `short:"r" placeholder:"JSON" help:"Any JSON value."`
	Attribute map[string]string `short:"a" placeholder:"NAME=VALUE" help:"A further field; repeat it for more."`
	Final     bool              `short:"f" help:"The job's last event."`
	Key       string            `short:"k" name:"key" help:"Idempotency key; with standard input, what its lines' keys begin with: KEY/1, KEY/2, … Default: keys that cover the repeats of this run."`
	JSON      bool              `name:"json" help:"Print {\"id\":…,\"duplicate\":…} instead of the id."`
	GiveUp    time.Duration     `default:"1m" help:"How long to try while the bus is away."`
}

// Help is the command's manual.
func (*Publish) Help() string {
	return `Publishes one event and prints its id:

  eventbus publish scan/my-job --stage vision --status started --progress 10
  eventbus publish scan/my-job --stage done --final --result '{"kind":"can"}'

or, without --stage, one event for each line of standard input, in order and in batches, and prints an id for each line:

  printf '%s\n' '{"stage":"token","content":"Hel"}' '{"stage":"token","content":"lo"}' | eventbus publish chat/c1
  eventbus tail --json scan/old-job --replay all | eventbus publish scan/copy --key copy

A line is an event in JSON, as in the API: stage, status, progress, message, content, result, attributes, final, traceparent;
id, seq and publish_time, which the bus sets, are left out. Its domain and job_id count where no DOMAIN/JOB is given. A line
{"event":{…},"idempotency_key":"…"} brings its key. A line that is refused is reported on standard error with its number; the
others are published all the same, and the exit code is 1.

An event that is repeated with the same --key is there once, and the first one's id is printed again.`
}

// Run publishes.
func (c *Publish) Run(std Streams) error {
	ctx, stop := untilSignal()
	defer stop()
	bus, err := c.dial(std)
	if err != nil {
		return err
	}
	defer func() { _ = bus.Close() }()
	p := bus.Publisher(client.PublisherOptions{GiveUp: c.GiveUp})
	if c.Stage == "" {
		err = c.lines(ctx, p, std)
	} else {
		err = c.one(ctx, p, std)
	}
	// What failed was said already; after a signal the rest is given up.
	if closed := p.Close(ctx); err == nil {
		err = closed
	}
	return err
}

func (c *Publish) one(ctx context.Context, p *client.Publisher, std Streams) error {
	e := &eventbusv1.Event{
		Stage: c.Stage, Status: c.Status, Progress: c.Progress, Message: c.Message, Content: c.Content,
		Attributes: c.Attribute, Final: c.Final,
	}
	var err error
	if e.Domain, e.JobId, err = jobRef(c.Job); err != nil {
		return err
	}
	if c.Result != "" {
		e.Result = new(structpb.Value)
		if err := protojson.Unmarshal([]byte(c.Result), e.GetResult()); err != nil {
			return fmt.Errorf("--result: %q: must be JSON: %w", c.Result, err)
		}
	}
	r, err := p.Publish(ctx, e, client.WithKey(c.Key))
	if err != nil {
		return plain(err)
	}
	return c.print(std.Out, r)
}

// plain takes gRPC's frame from around the bus's own words.
func plain(err error) error {
	if s, ok := status.FromError(err); ok && s.Message() != "" {
		return fmt.Errorf("%s: %s", strings.ToLower(s.Code().String()), s.Message())
	}
	return err
}

func (c *Publish) print(out io.Writer, r client.Receipt) error {
	if !c.JSON {
		_, err := fmt.Fprintln(out, r.ID)
		return err
	}
	return json.NewEncoder(out).Encode(struct {
		ID        string `json:"id"`
		Duplicate bool   `json:"duplicate"`
	}{r.ID, r.Duplicate})
}

const (
	// maxLine is more than MAX_EVENT_BYTES can be.
	maxLine = 16 << 20
	// pipelined lines may wait for their turn to be printed; then reading waits.
	pipelined = 1024
)

type sentLine struct {
	number int
	ack    *client.Ack
	err    error
}

// lines publishes standard input. One goroutine reads and sends, this one prints in
// the order of the lines. A read of a terminal cannot be interrupted: after a signal
// the reader ends with the process.
func (c *Publish) lines(ctx context.Context, p *client.Publisher, std Streams) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	sent := make(chan sentLine, pipelined)
	read := make(chan error, 1)
	go func() {
		read <- c.read(ctx, p, std.In, sent)
		close(sent)
	}()
	refused := 0
	out := bufio.NewWriter(std.Out)
	for {
		if len(sent) == 0 { // whoever reads us sees what is there
			if err := out.Flush(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), out.Flush())
		case l, ok := <-sent:
			if !ok {
				return errors.Join(<-read, out.Flush(), countRefused(refused))
			}
			said, err := c.answer(ctx, l, out, std.Err)
			if err != nil {
				return err
			}
			if !said {
				refused++
			}
		}
	}
}

func countRefused(n int) error {
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d lines were not published", n)
}

// answer prints a line's id, or why it has none; then it returns false.
func (c *Publish) answer(ctx context.Context, l sentLine, out, stderr io.Writer) (bool, error) {
	var r client.Receipt
	if l.err == nil {
		r, l.err = l.ack.Wait(ctx)
	}
	if l.err != nil {
		_, err := fmt.Fprintf(stderr, "line %d: %v\n", l.number, plain(l.err))
		return false, err
	}
	return true, c.print(out, r)
}

func (c *Publish) read(ctx context.Context, p *client.Publisher, in io.Reader, sent chan<- sentLine) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		l := sentLine{number: n}
		var r *eventbusv1.PublishRequest
		if r, l.err = c.parse(lines.Bytes(), n); l.err == nil {
			l.ack, l.err = p.Send(ctx, r.GetEvent(), client.WithKey(r.GetIdempotencyKey()))
		}
		select {
		case sent <- l:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return lines.Err()
}

// parse reads an event, or a request.
func (c *Publish) parse(line []byte, n int) (*eventbusv1.PublishRequest, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(line, &members); err != nil {
		return nil, fmt.Errorf("is no JSON object: %w", err)
	}
	delete(members, "cursor") // of tail --json
	line, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	r := &eventbusv1.PublishRequest{Event: &eventbusv1.Event{}}
	if _, isRequest := members["event"]; isRequest {
		err = protojson.Unmarshal(line, r)
	} else {
		err = protojson.Unmarshal(line, r.GetEvent())
	}
	if err != nil {
		return nil, fmt.Errorf("is no event: %w", err)
	}
	e := r.GetEvent()
	e.Id, e.Seq, e.PublishTime = "", 0, nil
	if c.Job != "" {
		if e.Domain, e.JobId, err = jobRef(c.Job); err != nil {
			return nil, err
		}
	}
	if r.GetIdempotencyKey() == "" && c.Key != "" {
		r.IdempotencyKey = c.Key + "/" + strconv.Itoa(n)
	}
	return r, nil
}

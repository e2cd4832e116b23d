package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/eco2-team/eventbus/server/bustest"
)

// The first five minutes: one command, no Redis, nothing to set.
func TestDev_OneCommandShowsAJobMoving(t *testing.T) {
	t.Parallel()
	b := &bus{t: t, grpc: bustest.Address(t), http: bustest.Address(t)}
	b.router = newNode(t, settings{"GRPC_ADDR": b.grpc, "HTTP_ADDR": b.http}) // no command: dev
	b.calls = newRPC(t, b.grpc)

	var greeting string
	eventually(t, "it tells where to look", func() bool {
		greeting = b.router.Log()
		return strings.Contains(greeting, "grpcurl -plaintext "+b.grpc+" list")
	})
	m := regexp.MustCompile(`console +(http://\S+)`).FindStringSubmatch(greeting)
	if len(m) != 2 || m[1] != b.url("/") {
		t.Fatalf("no console at %s in:\n%s", b.url("/"), greeting)
	}
	if a := b.ask(http.MethodGet, "/", ""); a.status != http.StatusOK || !strings.Contains(a.body, `src="app.js"`) {
		t.Errorf("the console: %d %.100s", a.status, a.body)
	}
	t.Run("a scan", func(t *testing.T) { testDemoScan(t, b.in(t)) })
	t.Run("a chat", func(t *testing.T) { testDemoChat(t, b.in(t)) })
	t.Run("reflection", func(t *testing.T) { testReflection(t, b.in(t)) })

	b.router.terminate()
	if code := b.router.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// demoJob waits until the demo worker begins a job of the domain.
func demoJob(t *testing.T, b *bus, domain string) string {
	t.Helper()
	watch := b.open("/api/v1/" + domain + "/events")
	defer watch.close()
	return object(t, []byte(watch.frame().data))["job_id"].(string)
}

func testDemoScan(t *testing.T, b *bus) {
	t.Helper()
	all := b.open(events("scan", demoJob(t, b, "scan"))).rest()
	dense(t, 1, all)
	var stages []string
	results, progress := 0, -1
	for _, e := range all {
		if !slices.Contains(stages, e.Stage) {
			stages = append(stages, e.Stage)
		}
		if len(e.Result) > 0 {
			results++
		}
		if e.Progress == nil || *e.Progress < progress {
			t.Errorf("progress of %+v after %d", e, progress)
		} else {
			progress = *e.Progress
		}
	}
	same(t, "stages", stages, []string{"queued", "vision", "rule", "answer", "reward", "done"})
	if last := all[len(all)-1]; results < 4 || progress != 100 || !last.Final {
		t.Errorf("%d results, progress %d, last %+v", results, progress, last)
	}
}

func testDemoChat(t *testing.T, b *bus) {
	t.Helper()
	all := b.open(events("chat", demoJob(t, b, "chat"))).rest()
	dense(t, 1, all)
	var text strings.Builder
	tokens := 0
	for _, e := range all {
		if e.Status == "streaming" {
			tokens++
			text.WriteString(e.Content)
		}
	}
	want, _ := object(t, all[len(all)-1].Result)["text"].(string)
	if tokens != 200 || text.String() != want {
		t.Errorf("%d tokens, text %q, want %q", tokens, text.String(), want)
	}
}

// testReflection does what grpcurl does: it learns the API from the server alone,
// and calls every RPC with JSON.
func testReflection(t *testing.T, b *bus) {
	t.Helper()
	const service = "eventbus.v1.EventBusService"
	r := newReflection(t, b.calls)
	services := r.services()
	for _, want := range []string{service, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} {
		if !slices.Contains(services, want) {
			t.Errorf("services %v lack %s", services, want)
		}
	}
	files := r.files(service)
	d, err := files.FindDescriptorByName(service)
	if err != nil {
		t.Fatal(err)
	}
	methods := d.(protoreflect.ServiceDescriptor).Methods()
	const j = `"domain":"scan","job_id":"by-reflection"`
	event := func(stage string, final bool) string {
		return fmt.Sprintf(`"event":{%s,"stage":%q,"status":"completed","final":%t}`, j, stage, final)
	}
	calls := []struct{ method, request, want string }{ // in the order of a job's life
		{"Publish", `{` + event("one", false) + `}`, `"id":`},
		{"PublishBatch", `{"requests":[{` + event("two", false) + `},{` + event("three", true) + `}]}`, `"responses":`},
		{"Subscribe", `{` + j + `}`, `"three"`},
		{"ListEvents", `{` + j + `}`, `"two"`},
		{"GetState", `{` + j + `}`, `"three"`},
		{"Watch", `{"domain":"scan","job_ids":["by-reflection"],"cursor":"0-0,0-0,0-0,0-0"}`, `"three"`},
	}
	if methods.Len() != len(calls) {
		t.Errorf("%d RPCs, %d are called", methods.Len(), len(calls))
	}
	for _, c := range calls {
		m := methods.ByName(protoreflect.Name(c.method))
		if m == nil {
			t.Errorf("no RPC %s", c.method)
			continue
		}
		if got := r.call(m, c.request); !strings.Contains(got, c.want) {
			t.Errorf("%s answers %s, want %s", c.method, got, c.want)
		}
	}
}

// reflection is a client without generated code.
type reflection struct {
	t      testing.TB
	conn   *grpc.ClientConn
	stream grpc.BidiStreamingClient[grpc_reflection_v1.ServerReflectionRequest, grpc_reflection_v1.ServerReflectionResponse]
}

func newReflection(t testing.TB, c rpc) *reflection {
	t.Helper()
	stream, err := grpc_reflection_v1.NewServerReflectionClient(c.conn).ServerReflectionInfo(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return &reflection{t, c.conn, stream}
}

func (r *reflection) ask(q *grpc_reflection_v1.ServerReflectionRequest) *grpc_reflection_v1.ServerReflectionResponse {
	r.t.Helper()
	if err := r.stream.Send(q); err != nil {
		r.t.Fatal(err)
	}
	a, err := r.stream.Recv()
	if err != nil {
		r.t.Fatal(err)
	}
	if e := a.GetErrorResponse(); e != nil {
		r.t.Fatal(e)
	}
	return a
}

func (r *reflection) services() []string {
	r.t.Helper()
	a := r.ask(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})
	var names []string
	for _, s := range a.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return names
}

// files are the service's file and all that it imports.
func (r *reflection) files(service string) *protoregistry.Files {
	r.t.Helper()
	a := r.ask(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service},
	})
	set := &descriptorpb.FileDescriptorSet{}
	for _, raw := range a.GetFileDescriptorResponse().GetFileDescriptorProto() {
		f := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(raw, f); err != nil {
			r.t.Fatal(err)
		}
		set.File = append(set.File, f)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		r.t.Fatal(err)
	}
	return files
}

// call sends one JSON request and returns all messages of the answer as JSON. It
// fails unless the call ends with OK.
func (r *reflection) call(m protoreflect.MethodDescriptor, request string) string {
	r.t.Helper()
	in := dynamicpb.NewMessage(m.Input())
	if err := protojson.Unmarshal([]byte(request), in); err != nil {
		r.t.Fatal(err)
	}
	name := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	stream, err := r.conn.NewStream(testContext(r.t), &grpc.StreamDesc{ServerStreams: true}, name)
	if err == nil {
		err = errors.Join(stream.SendMsg(in), stream.CloseSend())
	}
	if err != nil {
		r.t.Fatalf("%s: %v", name, err)
	}
	var all strings.Builder
	for {
		out := dynamicpb.NewMessage(m.Output())
		err := stream.RecvMsg(out)
		if errors.Is(err, io.EOF) {
			return all.String()
		}
		if status.Code(err) != codes.OK {
			r.t.Fatalf("%s %s: %v", name, request, err)
		}
		text, err := protojson.Marshal(out)
		if err != nil {
			r.t.Fatal(err)
		}
		all.Write(text)
	}
}

package gateway_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openfaas/faas-provider/types"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/testkit/natstest"
)

// spans is an OpenTelemetry collector that keeps what it is sent.
type spans struct {
	url string

	mu  sync.Mutex
	all []*otlp.Span
}

func collect(t *testing.T) *spans {
	t.Helper()
	s := &spans{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var m collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &m)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("the collector got %s of %d bytes: %v", r.URL.Path, len(body), err)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, resource := range m.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				s.all = append(s.all, scope.Spans...)
			}
		}
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// tracer sends its spans to s. flush sends those that have ended.
func (s *spans) tracer(t *testing.T) (tracer *trace.Tracer, flush func()) {
	t.Helper()
	tracer, err := trace.Open(t.Context(), trace.Settings{TraceEndpoint: s.url}, "test", "1", testkit.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	flush = sync.OnceFunc(func() {
		if err := tracer.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(flush)
	return tracer, flush
}

// tree writes the spans below a parent, each as its name and what describe
// says of it, in the order in which they began.
func (s *spans) tree(parent []byte, describe func(*otlp.Span) string) string {
	var b strings.Builder
	var write func(parent []byte, indent string)
	write = func(parent []byte, indent string) {
		var below []*otlp.Span
		for _, span := range s.all {
			if bytes.Equal(span.ParentSpanId, parent) && span.Kind != otlp.Span_SPAN_KIND_INTERNAL {
				below = append(below, span)
			}
		}
		slices.SortFunc(below, func(a, b *otlp.Span) int { return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano)) })
		for _, span := range below {
			fmt.Fprintf(&b, "%s%s%s\n", indent, span.Name, describe(span))
			write(span.SpanId, indent+"  ")
		}
	}
	write(parent, "")
	return b.String()
}

func attribute(span *otlp.Span, key string) string {
	for _, a := range span.Attributes {
		if a.Key == key {
			if n := a.Value.GetIntValue(); n != 0 {
				return fmt.Sprint(n)
			}
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func TestOneTraceLeadsFromASubmissionOverItsTriesToItsCallback(t *testing.T) {
	collected := collect(t)
	tracer, flush := collected.tracer(t)
	var tries atomic.Int32
	seen := make(chan string, 10) // what functions are told of their trace
	called := make(chan struct{})
	handler := func(w http.ResponseWriter, r *http.Request) {
		seen <- r.URL.Path + " " + r.Header.Get("Traceparent")
		switch {
		case r.URL.Path == "/told":
			defer close(called)
		case tries.Add(1) == 1:
			http.Error(w, "not yet", http.StatusInternalServerError)
		default:
			w.Header().Set("Server-Timing", "handler;dur=12.5")
		}
	}
	q, err := async.Open(t.Context(), natstest.Start(t), async.Options{Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, handler, func(o *gateway.Options) { o.Queue, o.Tracer = q, tracer })
	w := async.NewWorker(q, async.WorkerOptions{
		Name: "*", Gateway: inProcess(p), URL: &url.URL{Scheme: "http", Host: "gateway"}, Queued: invoke.HeaderQueued, Submitter: invoke.HeaderSubmitter, Drain: time.Minute,
		Policy:   async.Policy{Attempts: 3, Codes: []int{500}, MinWait: time.Millisecond, MaxWait: time.Millisecond},
		Callback: async.CallbackOptions{Gateways: []string{"gateway:8080"}},
		Tracer:   tracer,
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var working sync.WaitGroup
	working.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"work", "after"} {
		if err := p.client.Create(t.Context(), types.FunctionDeployment{Service: name, Image: "i"}); err != nil {
			t.Fatal(err)
		}
		for !p.Knows(function.Ref{Name: name, Namespace: function.DefaultNamespace}) {
			if t.Context().Err() != nil {
				t.Fatal("the gateway does not learn of the function")
			}
		}
	}

	const caller, callersTrace = "00f067aa0ba902b7", "4bf92f3577b34da6a3ce929d0e0e4736"
	r, err := http.NewRequestWithContext(t.Context(), "POST", p.url+"/async-function/work/do", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Traceparent", "00-"+callersTrace+"-"+caller+"-01")
	r.Header.Set("X-Callback-Url", "http://gateway:8080/function/after/told")
	if resp, body := p.send(t, r); resp.StatusCode != http.StatusAccepted {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	<-called
	stop()
	working.Wait()
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	flush()

	collected.mu.Lock()
	defer collected.mu.Unlock()
	handled := map[string]bool{} // by what the function must have been told
	for _, span := range collected.all {
		if id := hex.EncodeToString(span.TraceId); id != callersTrace {
			t.Errorf("span %s is of trace %s", span.Name, id)
		}
		if span.Name == "handle" {
			handled["00-"+callersTrace+"-"+hex.EncodeToString(span.SpanId)+"-01"] = true
		}
	}
	root, err := hex.DecodeString(caller)
	if err != nil {
		t.Fatal(err)
	}
	got := collected.tree(root, func(s *otlp.Span) string {
		text := ""
		if n := attribute(s, "graphene.try"); n != "" {
			text += " " + n
		}
		if v := attribute(s, "graphene.verdict"); v != "" {
			text += " " + v
		}
		if s.Status.GetCode() == otlp.Status_STATUS_CODE_ERROR {
			text += " failed: " + s.Status.Message
		}
		return text
	})
	want := `submit work.openfaas-fn
  try work.openfaas-fn 1 again failed: Internal Server Error
    work.openfaas-fn failed: Internal Server Error
      handle failed: Internal Server Error
  try work.openfaas-fn 2 done
    work.openfaas-fn
      handle
  callback 1
    after.openfaas-fn
      handle
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the trace (-want +got)\n%s", diff)
	}
	close(seen)
	for told := range seen {
		if _, parent, _ := strings.Cut(told, " "); !handled[parent] {
			t.Errorf("a function was called with %s, which is no span that sent it", told)
		}
	}
}

func TestASpanTellsWhatACallWaitedForAndWhatTheWatchdogMeasured(t *testing.T) {
	collected := collect(t)
	tracer, flush := collected.tracer(t)
	p := start(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Server-Timing", "load;dur=2000, handler;dur=12.5;desc=\"x\"")
		w.Header().Add("Server-Timing", "nonsense")
	}, func(o *gateway.Options) { o.Tracer = tracer })
	if err := p.client.Create(t.Context(), types.FunctionDeployment{Service: "echo", Image: "i"}); err != nil {
		t.Fatal(err)
	}
	for !p.Knows(function.Ref{Name: "echo", Namespace: function.DefaultNamespace}) {
		if t.Context().Err() != nil {
			t.Fatal("the gateway does not learn of the function")
		}
	}
	resp, _ := p.do(t, "GET", "/function/echo", "")
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	flush()
	collected.mu.Lock()
	defer collected.mu.Unlock()
	facts := map[string]any{}
	for _, span := range collected.all {
		if span.StartTimeUnixNano > span.EndTimeUnixNano {
			t.Errorf("span %s ends before it begins", span.Name)
		}
		for _, a := range span.Attributes {
			switch key := span.Name + " " + a.Key; {
			case strings.HasPrefix(a.Key, "graphene.timing."):
				facts[key] = a.Value.GetDoubleValue()
			case a.Key == "graphene.call_id" || a.Key == "http.request.method":
				facts[key] = a.Value.GetStringValue()
			case a.Key == "http.response.status_code":
				facts[key] = a.Value.GetIntValue()
			}
		}
	}
	want := map[string]any{
		"handle graphene.timing.handler":             0.0125,
		"handle graphene.timing.load":                2.0,
		"echo.openfaas-fn graphene.call_id":          resp.Header.Get("X-Call-Id"),
		"echo.openfaas-fn http.request.method":       "GET",
		"echo.openfaas-fn http.response.status_code": int64(200),
	}
	if diff := cmp.Diff(want, facts); diff != "" {
		t.Errorf("facts (-want +got)\n%s", diff)
	}
}

package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/gateway/metrics"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
)

var echo = function.Ref{Name: "echo", Namespace: "openfaas-fn"}

// scrape returns the lines of the metrics that start with prefix, histogram
// buckets left out.
func scrape(t *testing.T, m *metrics.Metrics, prefix string) []string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != http.StatusOK {
		t.Fatalf("scrape: %d, %v\n%s", w.Code, err, body)
	}
	var lines []string
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, prefix) && !strings.Contains(line, "_bucket{") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func TestACallIsCountedUnderTheNamesDashboardsQuery(t *testing.T) {
	m := metrics.New(nil)
	f := m.Function(echo)
	f.Started()
	f.Started()
	f.Finished(200, 250*time.Millisecond)
	want := []string{
		`gateway_function_invocation_inflight{function_name="echo.openfaas-fn"} 1`,
		`gateway_function_invocation_started{function_name="echo.openfaas-fn"} 2`,
		`gateway_function_invocation_total{code="200",function_name="echo.openfaas-fn"} 1`,
		`gateway_functions_seconds_sum{code="200",function_name="echo.openfaas-fn"} 0.25`,
		`gateway_functions_seconds_count{code="200",function_name="echo.openfaas-fn"} 1`,
	}
	if diff := cmp.Diff(want, scrape(t, m, "gateway_")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	f.Finished(500, time.Second)
	if got := m.Invocations(echo); got != 2 {
		t.Errorf("Invocations = %v, want those of all codes: 2", got)
	}
}

func TestForgetEndsTheSeriesOfOneFunctionForGood(t *testing.T) {
	m := metrics.New(nil)
	other := function.Ref{Name: "echo", Namespace: "other"}
	late := m.Function(echo)
	late.Started()
	m.Function(other).Started()
	m.Forget(echo)
	late.Finished(200, time.Second) // a call that outlives its function
	late.Started()
	want := []string{
		`gateway_function_invocation_inflight{function_name="echo.other"} 1`,
		`gateway_function_invocation_started{function_name="echo.other"} 1`,
	}
	if diff := cmp.Diff(want, scrape(t, m, "gateway_")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := m.Invocations(echo); got != 0 {
		t.Errorf("Invocations of a removed function = %v, want 0", got)
	}
	again := m.Function(echo)
	again.Started()
	again.Finished(200, time.Second)
	if got := m.Invocations(echo); got != 1 {
		t.Errorf("Invocations of a function deployed again = %v, want 1", got)
	}
	m.Forget(function.Ref{Name: "never", Namespace: "seen"})
}

func TestReplicaCountsAreReadWhenSomebodyAsks(t *testing.T) {
	var table []function.Endpoints
	m := metrics.New(func(yield func(function.Endpoints) bool) {
		for _, e := range table {
			if !yield(e) {
				return
			}
		}
	})
	if got := scrape(t, m, "gateway_service"); len(got) != 0 {
		t.Errorf("before any function: %v", got)
	}
	table = []function.Endpoints{{Ref: echo, Desired: 3, Min: 1, Replicas: []function.Replica{{Ready: true}, {}, {Ready: true}}}}
	want := []string{
		`gateway_service_count{function_name="echo.openfaas-fn"} 3`,
		`gateway_service_min{function_name="echo.openfaas-fn"} 1`,
		`gateway_service_ready_count{function_name="echo.openfaas-fn"} 2`,
		`gateway_service_tier_count{function_name="echo.openfaas-fn",tier="asleep"} 0`,
		`gateway_service_tier_count{function_name="echo.openfaas-fn",tier="frozen"} 0`,
		`gateway_service_tier_count{function_name="echo.openfaas-fn",tier="hot"} 3`,
		`gateway_service_tier_count{function_name="echo.openfaas-fn",tier="zygote"} 0`,
	}
	if diff := cmp.Diff(want, scrape(t, m, "gateway_service")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	table = nil
	if got := scrape(t, m, "gateway_service"); len(got) != 0 {
		t.Errorf("after the last function: %v", got)
	}
}

func TestRoutesAreCountedByTheirPattern(t *testing.T) {
	m := metrics.New(nil)
	h := m.Route("/system/function/{name}", http.NotFoundHandler())
	for _, name := range []string{"a", "b"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/system/function/"+name, nil))
	}
	want := []string{`http_requests_total{method="GET",path="/system/function/{name}",status="404"} 2`}
	if diff := cmp.Diff(want, scrape(t, m, "http_requests_total")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestCountingFromManyGoroutinesLosesNothing(t *testing.T) {
	m := metrics.New(nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			f := m.Function(echo)
			for n := range 100 {
				f.Started()
				f.Finished(200+(i+n)%5, time.Millisecond)
			}
		})
	}
	wg.Wait()
	if got := m.Invocations(echo); got != 800 {
		t.Errorf("Invocations = %v, want 800", got)
	}
	if got := scrape(t, m, "gateway_function_invocation_inflight"); !slices.Equal(got, []string{`gateway_function_invocation_inflight{function_name="echo.openfaas-fn"} 0`}) {
		t.Errorf("in flight: %v, want 0", got)
	}
}

func TestTheReferencePageListsWhatTheRegistryHolds(t *testing.T) {
	m := metrics.New(slices.Values([]function.Endpoints{{Ref: echo}}))
	f := m.Function(echo)
	f.Started()
	f.Finished(200, time.Second)
	q := metrics.NewQueue()
	m.AddQueue(q, func(context.Context) ([]metrics.QueueState, error) {
		return []metrics.QueueState{{Name: "q", Pending: map[string]uint64{echo.String(): 3}, Oldest: time.Now()}}, nil
	})
	q.Submitted("q")
	q.Processed("q")
	q.Running("q", echo, 1)
	m.AddScaling(slices.Values([]function.Endpoints{{Ref: echo}}), func(function.Endpoints) (function.ScaleType, float64) { return function.ScaleRPS, 50 })
	identity := metrics.NewIdentity()
	m.AddIdentity(identity)
	identity.Rules(true)
	identity.Issuer("corp", true)
	identity.Refused("")
	m.Route("/", http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))

	kinds := map[string]string{}
	for _, line := range scrape(t, m, "# TYPE ") {
		f := strings.Fields(line)
		if name, kind := f[2], f[3]; strings.HasPrefix(name, "gateway_") || strings.HasPrefix(name, "http_") || strings.HasPrefix(name, "queue_worker_") {
			kinds[name] = kind
		}
	}
	var page strings.Builder
	page.WriteString(`# Metrics of the gateway

Generated from the gateway's registry by the tests of package
` + "`gateway/metrics`" + ` (` + "`-update`" + ` rewrites this page). ` + "`function_name`" + ` is always
` + "`NAME.NAMESPACE`" + `. The metrics of the Go runtime (` + "`go_*`" + `) and of the process
(` + "`process_*`" + `) come along. A function's series end when it is removed.

| metric | kind | labels | meaning |
|---|---|---|---|
`)
	for _, d := range metrics.Definitions() {
		if kinds[d.Name] != d.Kind {
			t.Errorf("%s is defined as a %s, but is a %q in the registry", d.Name, d.Kind, kinds[d.Name])
		}
		delete(kinds, d.Name)
		fmt.Fprintf(&page, "| `%s` | %s | `%s` | %s |\n", d.Name, d.Kind, strings.Join(d.Labels, "`, `"), d.Help)
	}
	if len(kinds) > 0 {
		t.Errorf("the registry holds metrics without a definition: %v", kinds)
	}
	testkit.Golden(t, "../../docs/reference/metrics.md", []byte(page.String()))
}

func TestAQueueThatIsDownHidesNothingElse(t *testing.T) {
	m, q := metrics.New(nil), metrics.NewQueue()
	m.AddQueue(q, func(context.Context) ([]metrics.QueueState, error) { return nil, errors.New("down") })
	q.Submitted("q")
	q.Running("q", echo, 2)
	q.Running("q", echo, -1)
	got := scrape(t, m, "queue_worker_")
	want := []string{
		`queue_worker_function_invocation_inflight{function_name="echo.openfaas-fn",queue_name="q"} 1`,
		`queue_worker_messages_submitted_total{queue_name="q"} 1`,
		`queue_worker_nats_reconnect_total 0`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	q.Running("q", echo, -1)
	if got := scrape(t, m, "queue_worker_function"); len(got) != 0 {
		t.Errorf("a function without calls has the series %q", got)
	}
}

func BenchmarkCountingOneCall(b *testing.B) {
	f := metrics.New(nil).Function(echo)
	b.ReportAllocs()
	for b.Loop() {
		f.Started()
		f.Finished(200, time.Millisecond)
	}
}

package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/gateway/metrics"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/testkit/natstest"
	"github.com/graphene-faas/graphene/internal/web"
)

// startWithQueue runs a platform with a queue and a worker.
func startWithQueue(t *testing.T, handler http.HandlerFunc) *platform {
	t.Helper()
	counted := metrics.NewQueue()
	q, err := async.Open(t.Context(), natstest.Start(t), async.Options{Meter: counted, Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, handler, func(o *gateway.Options) { o.Queue, o.QueueMetrics = q, counted })
	worker(t, q, &auth.Transport{Header: "Proxy-Authorization", User: "admin", Password: "s3cret", Next: inProcess(p)})
	return p
}

func inProcess(p *platform) http.RoundTripper { return web.InProcess(p.Handler()) }

// worker runs the calls of q by requests over gateway.
func worker(t *testing.T, q *async.Queue, gateway http.RoundTripper) {
	t.Helper()
	w := async.NewWorker(q, async.WorkerOptions{
		Name: "*", Gateway: gateway, URL: &url.URL{Scheme: "http", Host: "gateway"}, Queued: invoke.HeaderQueued, Submitter: invoke.HeaderSubmitter, Drain: time.Minute,
		Callback: async.CallbackOptions{Gateways: []string{"gateway:8080"}},
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestAnAsynchronousCallGoesThroughTheWholeGateway(t *testing.T) {
	p := startWithQueue(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(invoke.HeaderQueued) != "" {
			t.Error("the function sees how its call was made")
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), body)
	})
	annotations := map[string]string{function.AnnotationQueue: "slow"}
	if err := p.client.Create(t.Context(), types.FunctionDeployment{Service: "echo", Image: "i", Annotations: &annotations}); err != nil {
		t.Fatal(err)
	}
	for !p.Knows(function.Ref{Name: "echo", Namespace: function.DefaultNamespace}) {
		if t.Context().Err() != nil {
			t.Fatal("the gateway does not learn of the function")
		}
	}
	// Without credentials, as functions are open.
	r, err := http.NewRequestWithContext(t.Context(), "POST", p.url+"/async-function/echo/a//b%2Fc?x=1", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	resp, body := p.send(t, r)
	if resp.StatusCode != 202 || body != "" {
		t.Fatalf("%d %q, want 202 and nothing", resp.StatusCode, body)
	}
	id := resp.Header.Get("X-Call-Id")
	call, err := p.client.LaterCall(t.Context(), id, time.Minute)
	if err != nil || call.State != "done" || call.Queue != "slow" {
		t.Fatalf("%+v, %v", call, err)
	}
	answer, err := p.client.LaterResult(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	if want := "POST /a//b%2Fc?x=1 hello"; string(text) != want || answer.StatusCode != 200 {
		t.Errorf("%d %q, want %q", answer.StatusCode, text, want)
	}
	r, err = http.NewRequestWithContext(t.Context(), "GET", p.metricsURL+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, page := p.send(t, r)
	for _, want := range []string{`queue_worker_messages_submitted_total{queue_name="slow"} 1`, `queue_worker_messages_processed_total{queue_name="slow"} 1`} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

func TestOperatorsRoutesOfTheQueueNeedCredentials(t *testing.T) {
	p := startWithQueue(t, nothing)
	for _, route := range async.NewAPI(async.APIOptions{}).Routes() {
		path := strings.NewReplacer("{id}", "x", "{queue}", "x").Replace(route.Path)
		r, err := http.NewRequestWithContext(t.Context(), route.Method, p.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, _ := p.send(t, r); resp.StatusCode != 401 {
			t.Errorf("%s %s without credentials: %d, want 401", route.Method, path, resp.StatusCode)
		}
		if resp, _ := p.do(t, route.Method, path, ""); resp.StatusCode == 401 || resp.StatusCode >= 500 {
			t.Errorf("%s %s with credentials: %d", route.Method, path, resp.StatusCode)
		}
	}
}

func TestWithoutAQueueItsRoutesDoNotExist(t *testing.T) {
	p := start(t, nothing)
	for _, path := range []string{"/async-function/echo", "/async-batch/echo", "/system/calls"} {
		if resp, _ := p.do(t, "POST", path, ""); resp.StatusCode != 404 {
			t.Errorf("%s: %d, want 404", path, resp.StatusCode)
		}
	}
}

func TestCallsThatWaitInTheQueueBringReplicasBeforeOneIsAnswered(t *testing.T) {
	const calls = 4
	var running sync.WaitGroup
	running.Add(calls)
	p := startWithQueue(t, func(http.ResponseWriter, *http.Request) {
		running.Done()
		running.Wait() // none ends before all run
	})
	env := map[string]string{"max_inflight": "1"}
	if err := p.client.Create(t.Context(), types.FunctionDeployment{Service: "echo", Image: "i", EnvVars: env}); err != nil {
		t.Fatal(err)
	}
	for !p.Knows(function.Ref{Name: "echo", Namespace: function.DefaultNamespace}) {
		if t.Context().Err() != nil {
			t.Fatal("the gateway does not learn of the function")
		}
	}
	var ids []string
	for range calls {
		resp, body := p.do(t, "POST", "/async-function/echo", "hello")
		if resp.StatusCode != 202 {
			t.Fatalf("%d %q", resp.StatusCode, body)
		}
		ids = append(ids, resp.Header.Get("X-Call-Id"))
	}
	for _, id := range ids {
		if call, err := p.client.LaterCall(t.Context(), id, time.Minute); err != nil || call.State != "done" || len(call.Tries) != 1 {
			t.Fatalf("%+v, %v", call, err)
		}
	}
}

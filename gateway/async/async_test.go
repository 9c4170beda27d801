package async

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/testkit/natstest"
	"github.com/graphene-faas/graphene/internal/web"
)

// A rig is a queue with its HTTP side, a broker, and functions that a test
// plays. Its worker runs when the test says so.
type rig struct {
	*Queue
	t       testing.TB
	nc      *nats.Conn
	url     string
	gateway http.Handler // answers /function/…, and the API's paths
	quick   Policy       // retries without waiting long
	options WorkerOptions
}

// annotations are those of the functions of a rig, by name. A function exists
// if its name begins with "fn" or is a key.
type annotations map[string]map[string]string

func newRig(t testing.TB, functions http.HandlerFunc, adjust ...func(*Options)) *rig {
	t.Helper()
	return rigOn(t, natstest.Start(t), functions, adjust...)
}

func rigOn(t testing.TB, nc *nats.Conn, functions http.HandlerFunc, adjust ...func(*Options)) *rig {
	t.Helper()
	o := Options{Log: testkit.Log(t)}
	for _, f := range adjust {
		f(&o)
	}
	q, err := Open(t.Context(), nc, o)
	if err != nil {
		t.Fatal(err)
	}
	return rigWith(t, q, functions)
}

// rigWith returns a rig around q.
func rigWith(t testing.TB, q *Queue, functions http.HandlerFunc) *rig {
	t.Helper()
	known := annotations{
		"slowqueue": {function.AnnotationQueue: "slow"},
		"badqueue":  {function.AnnotationQueue: "no good"},
	}
	api := NewAPI(APIOptions{
		Queue: q,
		Find: func(_ context.Context, name string) (function.Endpoints, error) {
			ref, err := function.ParseRef(name, function.DefaultNamespace)
			if err != nil || known[ref.Name] == nil && !strings.HasPrefix(ref.Name, "fn") {
				return function.Endpoints{}, fault.NotFound.Errorf("error finding function %s: not deployed", name)
			}
			return function.Endpoints{Ref: ref, Annotations: known[ref.Name]}, nil
		},
		May: func(context.Context, string, string, string) error { return nil },
		Log: testkit.Log(t),
	})
	system := http.NewServeMux()
	for _, r := range api.Routes() {
		system.Handle(r.Method+" "+r.Path, web.Handler(testkit.Log(t), r.Handle))
	}
	mux := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.EscapedPath(); {
		case strings.HasPrefix(path, "/function/"):
			functions(w, r)
		case strings.HasPrefix(path, "/system/"):
			system.ServeHTTP(w, r)
		default:
			api.ServeHTTP(w, r)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	quick := DefaultPolicy()
	quick.MinWait, quick.MaxWait, quick.Attempts = time.Millisecond, 5*time.Millisecond, 3
	return &rig{Queue: q, t: t, nc: q.nc, url: server.URL, gateway: mux, quick: quick, options: WorkerOptions{
		Name: "*", Gateway: web.InProcess(mux), URL: &url.URL{Scheme: "http", Host: "gateway"}, Queued: "X-Queued",
		Policy: quick, Poll: 50 * time.Millisecond, Drain: 10 * time.Second, Callback: CallbackOptions{Policy: quick},
	}}
}

// work runs a worker until the function it returns is called, or the test
// ends.
func (r *rig) work(adjust ...func(*WorkerOptions)) (stop func()) {
	r.t.Helper()
	o := r.options
	for _, f := range adjust {
		f(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	w := NewWorker(r.Queue, o)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("the worker ends with %v", err)
		}
	})
	r.t.Cleanup(stop)
	return stop
}

// An answer_ is a whole HTTP response.
type answer_ struct {
	status int
	header http.Header
	body   string
}

func (r *rig) do(method, path, body string, header ...string) answer_ {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer_{resp.StatusCode, resp.Header, string(text)}
}

// submit submits a call that must be accepted, and returns its id.
func (r *rig) submit(path, body string, header ...string) string {
	r.t.Helper()
	a := r.do("POST", CallsPath+path, body, header...)
	if a.status != http.StatusAccepted {
		r.t.Fatalf("POST %s = %d %s", path, a.status, a.body)
	}
	return strings.TrimPrefix(a.header.Get("Location"), CallsPath)
}

// await returns a call once it has ended.
func (r *rig) await(id string) *Call {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	c, err := r.Await(ctx, id)
	if err != nil {
		r.t.Fatal(err)
	}
	if !c.State.Ended() {
		r.t.Fatalf("call %s is %s after a minute: %+v", id, c.State, c)
	}
	return c
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Seen", r.Header.Get("X-Ask"))
	fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), body)
}

func TestACallRunsAndItsResultIsKept(t *testing.T) {
	var seen atomic.Pointer[http.Request]
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		seen.Store(req)
		echo(w, req)
	})
	a := r.do("POST", CallsPath+"fn/a%2Fb//c?x=1&y", "hello", "X-Ask", "me", "User-Agent", "curl")
	if a.status != 202 || a.body != "" || a.header.Get("X-Start-Time") == "" || !isID(a.header.Get("X-Call-Id")) {
		t.Fatalf("%+v; want 202, empty, with X-Call-Id and X-Start-Time", a)
	}
	id := a.header.Get("X-Call-Id")
	if c, err := r.Lookup(t.Context(), id); err != nil || c.State != Queued || c.Function != "fn.openfaas-fn" {
		t.Fatalf("before a worker: %+v, %v", c, err)
	}
	if a := r.do("GET", CallsPath+id+"/result", ""); a.status != 202 {
		t.Errorf("result before a worker: %d, want 202", a.status)
	}
	r.work()
	c := r.await(id)
	if c.State != Done || c.Status != 200 || len(c.Tries) != 1 || c.Started == nil || c.Ended == nil {
		t.Errorf("call %+v", c)
	}
	a = r.do("GET", CallsPath+id+"/result", "")
	if want := "POST /function/fn/a%2Fb//c?x=1&y hello"; a.status != 200 || a.body != want {
		t.Errorf("result %d %q, want %q", a.status, a.body, want)
	}
	if a.header.Get("X-Seen") != "me" || a.header.Get("X-Function-Status") != "200" {
		t.Errorf("headers %v", a.header)
	}
	h := seen.Load().Header
	for name, want := range map[string]string{"X-Call-Id": id, "X-Queued": "1+0", "User-Agent": "curl", "X-Forwarded-Uri": "/async-function/fn/a%2Fb//c"} {
		if h.Get(name) != want {
			t.Errorf("the function sees %s: %q, want %q", name, h.Get(name), want)
		}
	}
	if h.Get("Traceparent") == "" || h.Get("X-Forwarded-For") == "" {
		t.Errorf("the function sees neither a trace nor where the call came from: %v", h)
	}
	if n, _ := r.backlog(t.Context()); len(n) != 0 {
		t.Errorf("the backlog is %v, want none", n)
	}
}

func TestRequestsThatCannotBeAccepted(t *testing.T) {
	r := newRig(t, echo, func(o *Options) { o.MaxBody = 1 << 20 })
	for _, c := range []struct {
		method, path, body string
		header             []string
		status             int
	}{
		{"POST", CallsPath + "nothing", "", nil, 404},
		{"POST", CallsPath, "", nil, 404},
		{"POST", CallsPath + "fn", "", []string{"X-Callback-Url", "not a url"}, 400},
		{"POST", CallsPath + "fn", "", []string{"X-Callback-Url", "ftp://x/"}, 400},
		{"POST", CallsPath + "fn", "", []string{"Idempotency-Key", strings.Repeat("k", 257)}, 400},
		{"POST", CallsPath + "badqueue", "", nil, 400},
		{"POST", CallsPath + "fn", strings.Repeat("x", 1<<20+1), nil, 413},
		{"PUT", CallsPath + "fn", "", nil, 405},
		{"GET", CallsPath + "fn", "", nil, 404},
		{"GET", CallsPath + "*", "", nil, 404},
		{"GET", CallsPath + "0192b6a0-0000-7000-8000-000000000001", "", nil, 404},
		{"GET", CallsPath + "0192b6a0-0000-7000-8000-000000000001/result", "", nil, 404},
		{"DELETE", CallsPath + "0192b6a0-0000-4000-8000-000000000001", "", nil, 404},
		{"GET", CallsPath + "x/y", "", nil, 404},
		{"GET", BatchesPath + "0192b6a0-0000-7000-8000-000000000001", "", nil, 404},
		{"GET", BatchesPath + ">", "", nil, 404},
		{"POST", BatchesPath + "fn", "{}\n{", nil, 400},
		{"POST", BatchesPath + "fn?from=3", "{}", nil, 400},
		{"POST", BatchesPath + "fn", "<x/>", []string{"Content-Type", "text/xml"}, 400},
		{"GET", "/system/calls?state=lost", "", nil, 400},
		{"GET", "/system/calls?limit=0", "", nil, 400},
		{"GET", "/system/calls?since=yesterday", "", nil, 400},
		{"GET", "/system/queues/none", "", nil, 404},
		{"POST", "/system/calls/0192b6a0-0000-7000-8000-000000000001/retry", "", nil, 404},
	} {
		if a := r.do(c.method, c.path, c.body, c.header...); a.status != c.status {
			t.Errorf("%s %s = %d %s, want %d", c.method, c.path, a.status, a.body, c.status)
		}
	}
	if n := len(objects(t, r.requests)); n != 0 {
		t.Errorf("%d bodies of refused calls are left in the store", n)
	}
}

func objects(t testing.TB, store jetstream.ObjectStore) []*jetstream.ObjectInfo {
	t.Helper()
	all, err := store.List(t.Context())
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		t.Fatal(err)
	}
	return all
}

func TestABrowserMayAskFirst(t *testing.T) {
	r := newRig(t, echo)
	a := r.do("OPTIONS", CallsPath+"fn", "", "Origin", "https://a.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-mine")
	if a.status != 204 || a.header.Get("Access-Control-Allow-Origin") != "*" || a.header.Get("Access-Control-Allow-Headers") != "x-mine" ||
		!strings.Contains(a.header.Get("Access-Control-Allow-Methods"), "POST") {
		t.Errorf("%+v", a)
	}
}

func TestTheMessageIsThatOfOpenFaaS(t *testing.T) {
	r := newRig(t, echo)
	callback, err := url.Parse("https://user@example.com/back?a=b")
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Submit(t.Context(), Submission{
		Function:    function.Ref{Name: "fn", Namespace: "lab"},
		Annotations: map[string]string{"com.openfaas.queue": "slow", "com.openfaas.retry.attempts": "3", "other": "x"},
		Request: types.QueueRequest{
			Header: http.Header{"Content-Type": {"text/plain"}, "X-Call-Id": {"mine"}, "X-Two": {"a", "b"}},
			Host:   "gateway:8080", Method: "POST", Path: "/a/b", QueryString: "x=1", Function: "fn.lab", CallbackURL: callback,
		},
		Body: strings.NewReader("hello"), Length: 5,
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.calls.GetLastMsgForSubject(t.Context(), callsSubject+"slow.lab.fn")
	if err != nil {
		t.Fatal(err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, m.Data, "", "  "); err != nil {
		t.Fatal(err)
	}
	testkit.Golden(t, "testdata/message.json", append(pretty.Bytes(), '\n'))
}

func TestAFunctionThatIsFullIsNoFailedTry(t *testing.T) {
	var running, most, refused atomic.Int64
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		defer running.Add(-1)
		if n := running.Add(1); n > 2 {
			refused.Add(1)
			w.Header().Set("X-OpenFaaS-Internal", "gateway")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		} else if n > most.Load() {
			most.Store(n)
		}
		time.Sleep(time.Millisecond) // a call takes a while
	})
	var ids []string
	for range 100 {
		ids = append(ids, r.submit("fn", ""))
	}
	r.work()
	for _, id := range ids {
		if c := r.await(id); c.State != Done || len(c.Tries) != 1 {
			t.Fatalf("%s after %d tries, want done after one", c.State, len(c.Tries))
		}
	}
	if most.Load() != 2 {
		t.Errorf("at most %d calls ran at once, want 2", most.Load())
	}
	if refused.Load() > 60 {
		t.Errorf("the function refused %d times: the worker does not adapt", refused.Load())
	}
}

func TestAFailureIsTriedAgainAndATryHasAReason(t *testing.T) {
	var calls atomic.Int64
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if calls.Add(1) < 3 {
			http.Error(w, "not yet", http.StatusBadGateway)
			return
		}
		echo(w, req)
	})
	r.work()
	c := r.await(r.submit("fn", "hello"))
	if c.State != Done || len(c.Tries) != 3 || c.Tries[0].Status != 502 || !strings.Contains(c.Tries[1].Reason, "not yet") || c.Tries[2].Reason != "" {
		t.Errorf("call %+v", c)
	}
}

func TestATokenThatTheWatchdogRefusesIsNotTriedAgain(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-OpenFaaS-Internal", "watchdog")
		http.Error(w, "the token has expired", http.StatusUnauthorized)
	})
	r.work()
	if c := r.await(r.submit("fn", "")); c.State != Failed || len(c.Tries) != 1 || !strings.Contains(c.Tries[0].Reason, "expired") {
		t.Errorf("%+v", c)
	}
}

func TestADeadLetterCanBeRetriedAndPurged(t *testing.T) {
	var healthy atomic.Bool
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if !healthy.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		echo(w, req)
	}, func(o *Options) { o.InlineBody = 10 })
	r.work()
	large := strings.Repeat("large ", 10)
	first, second := r.submit("fn", large), r.submit("fn", "b")
	for _, id := range []string{first, second} {
		if c := r.await(id); c.State != Failed || len(c.Tries) != 3 {
			t.Fatalf("call %+v, want failed after three tries", c)
		}
	}
	if a := r.do("POST", "/system/calls/"+second+"/purge", ""); a.status != 202 {
		t.Errorf("purge = %d %s", a.status, a.body)
	}
	if a := r.do("POST", "/system/calls/"+second+"/retry", ""); a.status != 404 {
		t.Errorf("retry of what was purged = %d, want 404", a.status)
	}
	healthy.Store(true)
	if a := r.do("POST", "/system/calls/retry?function=fn", ""); a.status != 200 || a.body != "{\"calls\":1}\n" {
		t.Errorf("retry of all = %d %s, want one call", a.status, a.body)
	}
	eventually(t, "the retried call is done", func() bool { c, err := r.Lookup(t.Context(), first); return err == nil && c.State == Done })
	if a := r.do("GET", CallsPath+first+"/result", ""); !strings.HasSuffix(a.body, large) {
		t.Errorf("the retried call's result is %q", a.body)
	}
	if n, err := r.PurgeAll(t.Context(), ""); n != 0 || err != nil {
		t.Errorf("%d dead letters are left, %v", n, err)
	}
	eventually(t, "no body is left", func() bool { return len(objects(t, r.requests)) == 0 })
}

func TestAnIdempotencyKeyMakesOneCallOfTwo(t *testing.T) {
	var runs atomic.Int64
	r := newRig(t, func(http.ResponseWriter, *http.Request) { runs.Add(1) })
	first := r.submit("fn", "a", "Idempotency-Key", "k", "X-Call-Id", "order-1")
	if again := r.submit("fn", "a", "Idempotency-Key", "k"); again != first {
		t.Errorf("the same key gives %s and %s", first, again)
	}
	if other := r.submit("fn2", "a", "Idempotency-Key", "k"); other == first {
		t.Error("the same key of another function gives the same call")
	}
	if c, err := r.Lookup(t.Context(), "order-1"); err != nil || c.ID != first {
		t.Errorf("by the caller's id: %+v, %v", c, err)
	}
	r.work()
	r.await(first)
	if again := r.submit("fn", "a", "Idempotency-Key", "k"); again != first {
		t.Errorf("after it is done the same key gives %s, want %s", again, first)
	}
	r.await(r.submit("fn2", "b", "Idempotency-Key", "k"))
	if runs.Load() != 2 {
		t.Errorf("%d runs, want 2", runs.Load())
	}
}

func TestAKeyWhoseCallWasNeverStoredIsCompletedByTheNextSubmission(t *testing.T) {
	r := newRig(t, echo)
	ref := function.Ref{Name: "fn", Namespace: function.DefaultNamespace}
	// A gateway died between the record and the message.
	j := &job{ID: keyedID(ref, "", "k"), Queue: DefaultQueue, Ref: ref, Keyed: true, Submitted: time.Now()}
	if err := r.putRecord(t.Context(), j.call(Queued), nil, 0); err != nil {
		t.Fatal(err)
	}
	id := r.submit("fn", "x", "Idempotency-Key", "k")
	if id != j.ID {
		t.Fatalf("id %s, want %s", id, j.ID)
	}
	r.work()
	if c := r.await(id); c.State != Done {
		t.Errorf("call %+v", c)
	}
}

func TestAMessageThatWasStoredTwiceRunsOnce(t *testing.T) {
	var runs atomic.Int64
	r := newRig(t, func(http.ResponseWriter, *http.Request) { runs.Add(1) })
	id := r.submit("fn", "x", "Idempotency-Key", "k")
	m, err := r.calls.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	// The same message again, as after a broker that forgot its name.
	if _, err := r.js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject, Data: m.Data, Header: nats.Header{
		headerCall: m.Header[headerCall], headerKeyed: m.Header[headerKeyed], headerSubmitted: m.Header[headerSubmitted],
	}}); err != nil {
		t.Fatal(err)
	}
	r.work()
	r.await(id)
	eventually(t, "the queue is empty", func() bool { n, err := r.backlog(t.Context()); return err == nil && len(n) == 0 })
	if runs.Load() != 1 {
		t.Errorf("%d runs, want 1", runs.Load())
	}
}

func TestARepeatedCallIdIsTwoCalls(t *testing.T) {
	var runs atomic.Int64
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
		if req.Header.Get("X-Call-Id") == "mine" {
			runs.Add(1)
		}
	})
	a := r.do("POST", CallsPath+"fn", "", "X-Call-Id", "mine")
	if a.header.Get("X-Call-Id") != "mine" {
		t.Errorf("X-Call-Id %q, want the caller's", a.header.Get("X-Call-Id"))
	}
	second := r.submit("fn", "", "X-Call-Id", "mine")
	if c, err := r.Lookup(t.Context(), "mine"); err != nil || c.ID != second {
		t.Errorf("%+v, %v; want the later call", c, err)
	}
	r.work()
	eventually(t, "both have run", func() bool { return runs.Load() == 2 })
}

func TestLargeBodiesGoByTheObjectStoreBothWays(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if req.ContentLength != 3<<20 {
			t.Errorf("the function sees a length of %d", req.ContentLength)
		}
		_, _ = io.Copy(w, req.Body)
	})
	r.work()
	body := strings.Repeat("0123456789abcdef", 3<<20/16)
	id := r.submit("fn", body)
	if c := r.await(id); c.State != Done || c.Size != int64(len(body)) {
		t.Fatalf("call %+v", c)
	}
	if a := r.do("GET", CallsPath+id+"/result", ""); a.body != body {
		t.Errorf("the result has %d bytes that differ", len(a.body))
	}
	eventually(t, "the request's body is gone", func() bool { return len(objects(t, r.requests)) == 0 })
}

func TestAFullBacklogRefusesAndSaysWhenToComeBack(t *testing.T) {
	r := newRig(t, echo, func(o *Options) { o.MaxBacklog = 2 })
	r.submit("fn", "")
	r.submit("fn", "")
	a := r.do("POST", CallsPath+"fn", "")
	if a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" || a.header.Get("X-Openfaas-Internal") != "gateway" {
		t.Errorf("%+v; want 429 with Retry-After", a)
	}
	r.submit("fn2", "") // another function has a bound of its own
}

func TestNothingIsAcceptedThatCannotBeStored(t *testing.T) {
	full := false
	r := newRig(t, echo, func(o *Options) {
		o.Room = func() error {
			if full {
				return fault.Unavailable.Errorf("no space")
			}
			return nil
		}
	})
	full = true
	if a := r.do("POST", CallsPath+"fn", ""); a.status != 503 {
		t.Errorf("without space: %d, want 503", a.status)
	}
	full = false
	r.nc.Close()
	for _, path := range []string{CallsPath + "fn", BatchesPath + "fn"} {
		if a := r.do("POST", path, "{}"); a.status != 503 {
			t.Errorf("%s without a broker: %d %s, want 503", path, a.status, a.body)
		}
	}
}

func TestACallThatWaitsCanBeCancelled(t *testing.T) {
	var runs atomic.Int64
	r := newRig(t, func(http.ResponseWriter, *http.Request) { runs.Add(1) })
	id, keyed := r.submit("fn", "a"), r.submit("fn", "b", "Idempotency-Key", "k")
	for _, id := range []string{id, keyed} {
		if a := r.do("DELETE", CallsPath+id, ""); a.status != 202 {
			t.Fatalf("cancel = %d %s", a.status, a.body)
		}
	}
	if a := r.do("DELETE", CallsPath+id, ""); a.status != 409 {
		t.Errorf("cancelled twice: %d, want 409", a.status)
	}
	if a := r.do("GET", CallsPath+id+"/result", ""); a.status != http.StatusGone {
		t.Errorf("result: %d, want 410", a.status)
	}
	last := r.submit("fn", "c")
	r.work()
	r.await(last)
	if c := r.await(id); c.State != Cancelled || runs.Load() != 1 {
		t.Errorf("%s, and %d runs; want cancelled, and the other call's only", c.State, runs.Load())
	}
	if n, _ := r.backlog(t.Context()); len(n) != 0 {
		t.Errorf("the backlog is %v", n)
	}
}

func TestACallThatRunsCanBeCancelled(t *testing.T) {
	began := make(chan struct{})
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
		close(began)
		<-req.Context().Done()
	})
	r.work()
	id := r.submit("fn", "")
	<-began
	if c, err := r.Lookup(t.Context(), id); err != nil || c.State != Running {
		t.Errorf("%+v, %v; want running", c, err)
	}
	if a := r.do("DELETE", CallsPath+id, ""); a.status != 202 {
		t.Fatalf("cancel = %d %s", a.status, a.body)
	}
	if c := r.await(id); c.State != Cancelled {
		t.Errorf("call %+v", c)
	}
	eventually(t, "the queue is empty", func() bool { n, err := r.backlog(t.Context()); return err == nil && len(n) == 0 })
}

func TestAWorkerThatStopsFinishesWhatRunsAndGivesBackTheRest(t *testing.T) {
	began, finish := make(chan struct{}, 100), make(chan struct{})
	r := newRig(t, func(http.ResponseWriter, *http.Request) {
		began <- struct{}{}
		<-finish
	})
	stop := r.work(func(o *WorkerOptions) { o.MaxPerFunction = 2 })
	var ids []string
	for range 6 {
		ids = append(ids, r.submit("fn", ""))
	}
	<-began
	<-began
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Fatal("the worker does not wait for its calls")
	case <-time.After(20 * time.Millisecond): // it could only be too soon
	}
	close(finish)
	<-stopped
	done := 0
	for _, id := range ids {
		if c, err := r.Lookup(t.Context(), id); err != nil {
			t.Fatal(err)
		} else if c.State == Done {
			done++
		}
	}
	if done != 2 {
		t.Errorf("%d calls are done, want the two that ran", done)
	}
	r.work()
	for _, id := range ids {
		r.await(id)
	}
}

func TestTheRecordOfATryDoesNotReplaceThatOfALaterOne(t *testing.T) {
	r := newRig(t, echo)
	tries := func(n int) []Try { return make([]Try, n) }
	for _, test := range []struct {
		name  string
		there *Call // what is stored when the record of the second try comes
		want  State
		tries int
	}{
		{"nothing", nil, Waiting, 2},
		{"the first try", &Call{State: Waiting, Tries: tries(1)}, Waiting, 2},
		{"the third try", &Call{State: Waiting, Tries: tries(3)}, Waiting, 3},
		{"the end", &Call{State: Done, Tries: tries(3)}, Done, 3},
		{"the end by somebody who cancels", &Call{State: Cancelled, Tries: tries(1)}, Cancelled, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := r.submit("fn", "")
			if test.there != nil {
				test.there.ID = id
				if err := r.putRecord(t.Context(), test.there, nil, anyRecord); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.putTry(t.Context(), &Call{ID: id, State: Waiting, Tries: tries(2)}); err != nil {
				t.Fatal(err)
			}
			if c, _, err := r.record(t.Context(), id); err != nil || c.State != test.want || len(c.Tries) != test.tries {
				t.Errorf("the record is %+v, %v; want %s with %d tries", c, err, test.want, test.tries)
			}
		})
	}
}

func TestACallThatIsDeliveredAgainAfterItsEndIsNotRunAgain(t *testing.T) {
	var runs atomic.Int64
	r := newRig(t, func(http.ResponseWriter, *http.Request) { runs.Add(1) })
	id := r.submit("fn", "")
	// A worker died between storing the result and the acknowledgement.
	j, err := r.waiting(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.putRecord(t.Context(), j.call(Done), nil, anyRecord); err != nil {
		t.Fatal(err)
	}
	r.work()
	eventually(t, "the queue is empty", func() bool { n, err := r.backlog(t.Context()); return err == nil && len(n) == 0 })
	if runs.Load() != 0 {
		t.Errorf("%d runs, want none", runs.Load())
	}
}

func TestOfTheCallsBeforeAWorkerThoseThatHaveEndedAreNotRunAgain(t *testing.T) {
	var mu sync.Mutex
	var ran []string
	r := newRig(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		ran = append(ran, string(body))
	})
	// A worker has run some calls, of several functions and blocks, and died
	// before their acknowledgements.
	const calls = 2*blockSize + 10
	ended := func(i int) bool { return i < 2*blockSize && i%3 > 0 }
	var endings []ending
	var want []string
	for i := range calls {
		id := r.submit(fmt.Sprintf("fn%d", i%4), strconv.Itoa(i))
		if !ended(i) {
			want = append(want, strconv.Itoa(i))
			continue
		}
		j, err := r.waiting(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 1 {
			if err := r.putRecord(t.Context(), j.call(Done), nil, anyRecord); err != nil {
				t.Fatal(err)
			}
			continue
		}
		seq, _ := sequence(id)
		e, err := (&delivery{job: j, seq: seq}).ending(j.call(Done), []byte("its answer"))
		if err != nil {
			t.Fatal(err)
		}
		endings = append(endings, e)
	}
	messages, _ := bundles(endings)
	p, err := r.newPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	for _, s := range p.store(t.Context(), messages) {
		if s.err != nil {
			t.Fatal(s.err)
		}
	}
	r.work()
	eventually(t, "the queue is empty", func() bool { n, err := r.backlog(t.Context()); return err == nil && len(n) == 0 })
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(ran)
	slices.Sort(want)
	if diff := cmp.Diff(want, ran); diff != "" {
		t.Errorf("what ran (-want +got):\n%s", diff)
	}
}

// nextMillisecond returns in a later millisecond than it was called in.
func nextMillisecond() {
	for began := time.Now().UnixMilli(); time.Now().UnixMilli() == began; {
		time.Sleep(100 * time.Microsecond)
	}
}

func TestOperatorsListAndDescribe(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/function/fnbad") {
			w.WriteHeader(500)
		}
	})
	stop := r.work()
	// Calls are listed by the millisecond of their submission.
	good := r.submit("fn", "")
	nextMillisecond()
	bad := r.submit("fnbad", "")
	r.await(good)
	r.await(bad)
	stop()
	nextMillisecond()
	queued := r.submit("slowqueue", "")
	list := func(query string) (ids []string) {
		t.Helper()
		a := r.do("GET", "/system/calls?"+query, "")
		var calls []Call
		if err := json.Unmarshal([]byte(a.body), &calls); err != nil {
			t.Fatalf("%d %s: %v", a.status, a.body, err)
		}
		for _, c := range calls {
			ids = append(ids, c.ID)
		}
		return ids
	}
	for query, want := range map[string][]string{
		"":               {queued, bad, good},
		"limit=1":        {queued},
		"state=failed":   {bad},
		"state=done":     {good},
		"state=queued":   {queued},
		"function=fnbad": {bad},
		"function=fn":    {good},
		"state=waiting":  nil,
		"since=" + url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339)):  nil,
		"until=" + url.QueryEscape(time.Now().Add(-time.Hour).Format(time.RFC3339)): nil,
	} {
		if diff := cmp.Diff(want, list(query)); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
	}
	var queues []QueueInfo
	a := r.do("GET", "/system/queues", "")
	if err := json.Unmarshal([]byte(a.body), &queues); err != nil {
		t.Fatal(err)
	}
	if len(queues) != 2 || queues[1].Name != "slow" || queues[1].Backlog != 1 || queues[1].Oldest == nil || queues[1].Functions["slowqueue.openfaas-fn"] != 1 {
		t.Errorf("queues %s", a.body)
	}
	if a := r.do("GET", "/system/queues/slow", ""); a.status != 200 {
		t.Errorf("queue slow = %d", a.status)
	}
}

func TestACallbackTellsWhatTheFunctionAnswered(t *testing.T) {
	type received struct {
		header http.Header
		body   string
	}
	got := make(chan received, 10)
	failures := atomic.Int64{}
	failures.Store(2)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		if failures.Add(-1) >= 0 {
			w.WriteHeader(503)
			return
		}
		got <- received{req.Header, string(body)}
	}))
	t.Cleanup(receiver.Close)
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("X-Model", "v7")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(201)
		_, _ = io.Copy(w, req.Body)
	})
	r.work(func(o *WorkerOptions) {
		o.Callback.Permit = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		o.Callback.Secret = []byte("s3cret")
	})
	trace := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, body := range []string{"small", strings.Repeat("large", 1<<18)} {
		id := r.submit("fn", body, "X-Callback-Url", receiver.URL+"/back", "Traceparent", trace)
		c := <-got
		mac := hmac.New(sha256.New, []byte("s3cret"))
		mac.Write([]byte(body))
		for name, want := range map[string]string{
			"X-Call-Id": id, "X-Function-Status": "201", "X-Function-Name": "fn", "X-Model": "v7", "Content-Type": "application/json",
			"X-Retry": "0", "X-Retry-Max": "3", "Traceparent": trace, HeaderSignature: "sha256=" + hex.EncodeToString(mac.Sum(nil)),
		} {
			if c.header.Get(name) != want {
				t.Errorf("%s: %q, want %q", name, c.header.Get(name), want)
			}
		}
		if c.body != body || c.header.Get("X-Duration-Seconds") == "" {
			t.Errorf("body of %d bytes, want %d; headers %v", len(c.body), len(body), c.header)
		}
	}
}

func TestACallbackTellsOfAFailureToo(t *testing.T) {
	got := make(chan http.Header, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { got <- req.Header }))
	t.Cleanup(receiver.Close)
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	r.work(func(o *WorkerOptions) { o.Callback.Permit = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	r.submit("fn", "", "X-Callback-Url", receiver.URL, "X-Call-Id", "mine")
	if h := <-got; h.Get("X-Function-Status") != "500" || h.Get("X-Retry") != "2" || h.Get("X-Call-Id") != "mine" {
		t.Errorf("headers %v", h)
	}
}

func TestACallbackToAPrivateAddressIsRefusedUnlessItIsTheGateway(t *testing.T) {
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a callback went to a private address")
	}))
	t.Cleanup(receiver.Close)
	var chained atomic.Pointer[string]
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		if strings.HasPrefix(req.URL.Path, "/function/fn2") {
			chained.Store(new(string(body)))
		}
		fmt.Fprintf(w, "%s!", body)
	})
	r.work(func(o *WorkerOptions) {
		o.Callback.Gateways = []string{"gateway.openfaas:8080"}
		o.Callback.Policy = DefaultPolicy() // which a second try would have to wait for
	})
	r.submit("fn", "one", "X-Callback-Url", "http://gateway.openfaas:8080/async-function/fn2")
	eventually(t, "the second function is called with the first one's answer", func() bool { b := chained.Load(); return b != nil && *b == "one!" })
	id := r.submit("fn", "", "X-Callback-Url", receiver.URL)
	eventually(t, "the callback is given up", func() bool {
		c, err := r.Lookup(t.Context(), id)
		return err == nil && strings.Contains(c.CallbackFail, "not permitted")
	})
}

func TestPublicAddresses(t *testing.T) {
	for text, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1111": true, "127.0.0.1": false, "10.1.2.3": false, "192.168.1.1": false, "172.16.0.1": false,
		"169.254.169.254": false, "100.64.1.1": false, "0.0.0.0": false, "::1": false, "fe80::1": false, "fd00::1": false, "224.0.0.1": false,
	} {
		if got := public(netip.MustParseAddr(text)); got != want {
			t.Errorf("public(%s) = %v, want %v", text, got, want)
		}
	}
}

func TestABatchGivesOneOrderedResult(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		switch string(body) {
		case `{"n":3}`:
			w.WriteHeader(400)
			fmt.Fprint(w, "three?")
		case `{"n":4}`:
			w.WriteHeader(500)
		case `{"n":5}`:
			_, _ = w.Write([]byte{0xff, 0xfe})
		default:
			fmt.Fprintf(w, `{ "got": %s }`, body)
		}
	})
	var lines strings.Builder
	for n := range 8 {
		fmt.Fprintf(&lines, "{\"n\":%d}\n\n", n)
	}
	a := r.do("POST", BatchesPath+"fn/path?q=1", lines.String(), "Content-Type", "application/x-ndjson")
	if a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	id := a.header.Get("X-Batch-Id")
	r.work()
	var b Batch
	eventually(t, "the batch ends", func() bool {
		if err := json.Unmarshal([]byte(r.do("GET", BatchesPath+id, "").body), &b); err != nil {
			t.Fatal(err)
		}
		return b.Ended()
	})
	if b.Accepted != 8 || b.Done != 7 || b.Failed != 1 {
		t.Errorf("batch %+v", b)
	}
	got := r.do("GET", BatchesPath+id+"/result", "").body
	want := `{"index":0,"state":"done","status":200,"body":{"got":{"n":0}}}
{"index":1,"state":"done","status":200,"body":{"got":{"n":1}}}
{"index":2,"state":"done","status":200,"body":{"got":{"n":2}}}
{"index":3,"state":"done","status":400,"body":"three?"}
{"index":4,"state":"failed","status":500,"error":"the function answered 500: "}
{"index":5,"state":"done","status":200,"base64":"//4="}
{"index":6,"state":"done","status":200,"body":{"got":{"n":6}}}
{"index":7,"state":"done","status":200,"body":{"got":{"n":7}}}
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if rest := r.do("GET", BatchesPath+id+"/result?from=7", "").body; rest != want[strings.LastIndex(want[:len(want)-1], "\n")+1:] {
		t.Errorf("from 7: %s", rest)
	}
	// A failed item that is retried is one of the batch again.
	if n, err := r.RetryAll(t.Context(), ""); n != 1 || err != nil {
		t.Fatalf("%d retried, %v", n, err)
	}
	eventually(t, "the item fails again", func() bool {
		b, err := r.Batch(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return b.Failed == 1 && b.Ended()
	})
}

func TestTheCallsOfABatchCanBeAskedForOneByOne(t *testing.T) {
	var healthy atomic.Bool
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		if string(body) == "1" && !healthy.Load() {
			w.WriteHeader(500)
			return
		}
		fmt.Fprintf(w, `{"got":%s}`, body)
	})
	a := r.do("POST", BatchesPath+"fn", "0\n1\n2\n", "Content-Type", "application/x-ndjson")
	if a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	id := a.header.Get("X-Batch-Id")
	call := func(index int) (c Call) {
		t.Helper()
		a := r.do("GET", CallsPath+itemID(id, index), "")
		if a.status != 200 {
			t.Fatalf("call %d: %d %s", index, a.status, a.body)
		}
		if err := json.Unmarshal([]byte(a.body), &c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := call(2); c.State != Queued || c.Batch != id || c.Function != "fn.openfaas-fn" {
		t.Errorf("before it runs: %+v", c)
	}
	if a := r.do("GET", CallsPath+itemID(id, 3), ""); a.status != 404 {
		t.Errorf("a call that the batch does not have: %d %s", a.status, a.body)
	}
	if a := r.do("DELETE", CallsPath+itemID(id, 2), ""); a.status != 202 {
		t.Errorf("cancel: %d %s", a.status, a.body)
	}
	r.work()
	eventually(t, "the batch ends", func() bool {
		b, err := r.Batch(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return b.Ended() && b.Done == 1 && b.Failed == 1 && b.Cancelled == 1
	})
	for index, want := range []State{Done, Failed, Cancelled} {
		c := call(index)
		if c.State != want {
			t.Errorf("call %d is %s, want %s", index, c.State, want)
		}
		if tries := len(c.Tries); want == Done && (tries != 1 || c.Tries[0].Status != 200 || c.Tries[0].Seconds <= 0) || want == Failed && tries != 3 {
			t.Errorf("call %d tells of these tries: %+v", index, c.Tries)
		}
	}
	if a := r.do("GET", CallsPath+itemID(id, 0)+"/result", ""); a.status != 200 || a.body != `{"got":0}` {
		t.Errorf("result: %d %s", a.status, a.body)
	}
	healthy.Store(true)
	if a := r.do("POST", "/system/calls/"+itemID(id, 1)+"/retry", ""); a.status != 202 {
		t.Errorf("retry: %d %s", a.status, a.body)
	}
	eventually(t, "the batch's failure is mended", func() bool {
		b, err := r.Batch(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return b.Done == 2 && b.Failed == 0
	})
}

func TestABatchOfRowsIsOneOfObjects(t *testing.T) {
	next, err := documents("text/csv; charset=utf-8", strings.NewReader("\ufeffname,\"a \"\"b\"\"\"\r\nx,1\r\n\"y, z\",\r\n")) // as a spreadsheet writes it
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		d, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(d))
	}
	if diff := cmp.Diff([]string{`{"name":"x","a \"b\"":"1"}`, `{"name":"y, z","a \"b\"":""}`}, got); diff != "" {
		t.Error(diff)
	}
}

func TestColumnsOfOneNameAreRefused(t *testing.T) {
	next, err := documents("text/csv", strings.NewReader("a,b,a\n1,2,3\n"))
	if err != nil {
		t.Fatal(err)
	}
	if d, err := next(); !errors.Is(err, fault.Invalid) {
		t.Errorf("next = %s, %v, want %v: a value would be lost", d, err, fault.Invalid)
	}
}

// broken fails after its text, as a connection that breaks does.
type broken struct{ r io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestABatchThatBreaksOffContinuesWhereItWas(t *testing.T) {
	var runs sync.Map
	var total atomic.Int64
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		runs.Store(string(body), true)
		total.Add(1)
	})
	var all strings.Builder
	for n := range 1000 {
		fmt.Fprintf(&all, "{\"n\":%d}\n", n)
	}
	ctx := t.Context()
	s := Submission{Function: function.Ref{Name: "fn", Namespace: "lab"}, Key: "k", Request: types.QueueRequest{Method: "POST", Function: "fn.lab", Header: http.Header{}}}
	send := func(from int, body io.Reader) (*Batch, error) {
		next, err := documents("", body)
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.openBatch(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		return b, r.fill(ctx, b, s, from, next)
	}
	// The last line that arrives is cut in the middle of a number.
	cut := strings.Index(all.String(), `{"n":612}`) + len(`{"n":61`)
	b, err := send(0, broken{strings.NewReader(all.String()[:cut])})
	if !errors.Is(err, fault.Invalid) || b.Accepted != 612 || b.Complete {
		t.Fatalf("%+v, %v; want 612 documents and an error", b, err)
	}
	if again, err := send(0, strings.NewReader(all.String())); err != nil || again.ID != b.ID || again.Accepted != 1000 || !again.Complete {
		t.Fatalf("%+v, %v; want the same batch, complete", again, err)
	}
	if again, err := send(0, strings.NewReader(all.String())); err != nil || again.Accepted != 1000 {
		t.Fatalf("a third time: %+v, %v", again, err)
	}
	r.work()
	eventually(t, "the batch ends", func() bool {
		got, err := r.Batch(ctx, b.ID)
		if err != nil {
			t.Fatal(err)
		}
		return got.Ended() && got.Done == 1000
	})
	n := 0
	runs.Range(func(any, any) bool { n++; return true })
	if n != 1000 || total.Load() != 1000 {
		t.Errorf("%d documents in %d runs, want 1000 in 1000", n, total.Load())
	}
}

func TestABatchWaitsWhileTheBacklogIsFull(t *testing.T) {
	r := newRig(t, echo, func(o *Options) { o.MaxBacklog = 10 })
	r.work()
	a := r.do("POST", BatchesPath+"fn", strings.Repeat("{}\n", 50))
	var b Batch
	if err := json.Unmarshal([]byte(a.body), &b); err != nil || b.Accepted != 50 {
		t.Errorf("%d %s, want 50 accepted", a.status, a.body)
	}
}

func TestManySmallFunctionsAreNotStarvedByALargeOne(t *testing.T) {
	const small, each, large = 100, 10, 20_000
	var bigRuns atomic.Int64
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/function/fnbig" {
			bigRuns.Add(1)
		}
	})
	ctx := t.Context()
	var document = []byte("{}")
	many := func(name string, n int) {
		s := Submission{Function: function.Ref{Name: name, Namespace: "lab"}, Request: types.QueueRequest{Method: "POST", Function: name, Header: http.Header{}}}
		b, err := r.openBatch(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		left := n
		if err := r.fill(ctx, b, s, 0, func() ([]byte, error) {
			if left--; left < 0 {
				return nil, io.EOF
			}
			return document, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	many("fnbig", large)
	for i := range small {
		many("fn"+strconv.Itoa(i), each)
	}
	r.work()
	eventually(t, "the small functions are done", func() bool {
		backlog, err := r.backlog(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return len(backlog) <= 1
	})
	if n := bigRuns.Load(); n >= large {
		t.Errorf("all %d calls of the large function ran first", n)
	}
}

func TestIDs(t *testing.T) {
	now := time.UnixMilli(1795417598994)
	s := newSeed(now)
	for _, seq := range []uint64{1, 1 << 31, 1<<32 + 5, 1<<40 - 1} {
		id := s.id(seq)
		if got, ok := sequence(id); !ok || got != seq || !isID(id) {
			t.Errorf("sequence(%s) = %d, %v; want %d", id, got, ok, seq)
		}
	}
	if back, ok := parseSeed(s.String()); !ok || back != s {
		t.Errorf("parseSeed(%s) = %v, %v", s, back, ok)
	}
	if _, ok := sequence(named("x")); ok {
		t.Error("a named id has a place in the stream")
	}
	if named("a", "bc") == named("ab", "c") {
		t.Error("parts run into each other")
	}
}

func FuzzDocuments(f *testing.F) {
	f.Add("", "{}\n{\"a\":1}\n")
	f.Add("text/csv", "a,b\n1,2\n")
	f.Add("text/csv", "a\n\"")
	f.Add("application/x-ndjson", "\xff\n")
	f.Fuzz(func(t *testing.T, kind, text string) {
		next, err := documents(kind, strings.NewReader(text))
		if err != nil {
			return
		}
		for {
			d, err := next()
			if err != nil {
				return
			}
			if !json.Valid(d) {
				t.Fatalf("%q is no JSON", d)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add("q.ns.fn", "0192b6a0000070008000ab", "1", "", "", `{"Function":"fn"}`)
	f.Add("q.ns.fn", "id", "x", "[]", "1", `{`)
	f.Fuzz(func(t *testing.T, rest, call, submitted, tries, index, payload string) {
		j, err := decode(rest, nats.Header{
			headerCall: {call}, headerSubmitted: {submitted}, headerTries: {tries}, headerIndex: {index}, headerBatch: {index},
		}, []byte(payload), 7)
		if err == nil && (j.ID == "" || j.Queue == "" && strings.Count(rest, ".") != 2) {
			t.Fatalf("%+v", j)
		}
	})
}

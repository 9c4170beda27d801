package invoke

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/web"
)

func nothing(http.ResponseWriter, *http.Request) {}

func TestEveryVerbOfTheContractReachesTheFunctionAndNoOther(t *testing.T) {
	url := startEcho(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Method", r.Method) })
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"} {
		if res, _ := do(t, method, url+"/function/echo", nil); res.StatusCode != 200 || res.Header.Get("X-Method") != method {
			t.Errorf("%s: %d, the function saw %q", method, res.StatusCode, res.Header.Get("X-Method"))
		}
	}
	for _, method := range []string{"TRACE", "PROPFIND"} {
		if res, body := do(t, method, url+"/function/echo", nil); res.StatusCode != 405 || body != "" {
			t.Errorf("%s: %d %q", method, res.StatusCode, body)
		}
	}
}

func TestAnUnknownFunctionIs404WithItsName(t *testing.T) {
	url := startEcho(t, nothing)
	for _, name := range []string{"nope", "nope.openfaas-fn", "NOPE!", "a%2Fb", strings.Repeat("x", 300)} {
		res, body := do(t, "GET", url+"/function/"+name+"/x", nil)
		if res.StatusCode != 404 || !strings.HasPrefix(body, "error finding function") {
			t.Errorf("%s: %d %q", name, res.StatusCode, body)
		}
		if res.Header.Get(web.HeaderInternal) != "gateway" || res.Header.Get(web.HeaderCallID) == "" {
			t.Errorf("%s: headers %v", name, res.Header)
		}
	}
}

func TestEveryAnswerNamesItsCall(t *testing.T) {
	url := startEcho(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get(web.HeaderCallID), " ", r.Header.Get(web.HeaderStartTime))
	})
	res, body := do(t, "GET", url+"/function/echo", nil)
	id, start, _ := strings.Cut(body, " ")
	if id == "" || res.Header.Get(web.HeaderCallID) != id || res.Header.Get(web.HeaderStartTime) != start {
		t.Errorf("the function saw %q, the caller %v", body, res.Header)
	}
	if ns, err := strconv.ParseInt(start, 10, 64); err != nil || time.Since(time.Unix(0, ns)) > time.Hour {
		t.Errorf("start time %q", start)
	}
	if got := res.Header.Get("X-Served-By"); got != "graphene/test" {
		t.Errorf("X-Served-By = %q", got)
	}

	for sent, kept := range map[string]bool{"order-4711": true, "two words": false, strings.Repeat("x", 129): false} {
		req := newRequest(t, "GET", url+"/function/echo", nil)
		req.Header.Set(web.HeaderCallID, sent)
		res, body := send(t, req)
		id, _, _ := strings.Cut(body, " ")
		if got := res.Header.Values(web.HeaderCallID); len(got) != 1 || got[0] != id || (id == sent) != kept {
			t.Errorf("sent %q, the function saw %q, the caller %q", sent, id, got)
		}
	}
}

func TestTheFunctionLearnsWhoAsked(t *testing.T) {
	url := startEcho(t, func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Uri", "Forwarded", HeaderQueued} {
			fmt.Fprintf(w, "%s=%s\n", name, strings.Join(r.Header[http.CanonicalHeaderKey(name)], "|"))
		}
		fmt.Fprintf(w, "host=%s\n", r.Host)
	})
	req := newRequest(t, "GET", url+"/function/echo/a%2Fb?c", nil)
	req.Host = "faas.example.com"
	_, body := send(t, req)
	body, port, ok := cutPort(body)
	want := "X-Forwarded-For=127.0.0.1:PORT\nX-Forwarded-Host=faas.example.com\nX-Forwarded-Proto=http\nX-Forwarded-Uri=/function/echo/a%2Fb\nForwarded=\nX-Graphene-Queued=\nhost=faas.example.com\n"
	if diff := cmp.Diff(want, body); diff != "" || !ok || port == "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	req = newRequest(t, "GET", url+"/function/echo", nil)
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Uri", "Forwarded"} {
		req.Header.Set(name, "the first proxy's")
	}
	req.Header.Set(HeaderQueued, "1")
	_, body = send(t, req)
	if n := strings.Count(body, "=the first proxy's\n"); n != 5 || !strings.Contains(body, HeaderQueued+"=\n") {
		t.Errorf("the function saw\n%s", body)
	}
}

// cutPort replaces the caller's port in a list of headers by PORT.
func cutPort(s string) (rest, port string, ok bool) {
	before, after, ok := strings.Cut(s, "127.0.0.1:")
	port, after, _ = strings.Cut(after, "\n")
	return before + "127.0.0.1:PORT\n" + after, port, ok
}

func TestTheContentTypeOfAnAnswerWithoutOneIsTheRequests(t *testing.T) {
	url := startEcho(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil // keeps the function's server from guessing
		if r.URL.Path != "/empty" {
			fmt.Fprint(w, "<html>")
		}
	})
	for sent, want := range map[string]string{"": "text/plain", "application/json": "application/json"} {
		req := newRequest(t, "POST", url+"/function/echo", nil)
		if sent != "" {
			req.Header.Set("Content-Type", sent)
		}
		if res, _ := send(t, req); res.Header.Get("Content-Type") != want {
			t.Errorf("request of %q: %q, want %q", sent, res.Header.Get("Content-Type"), want)
		}
	}
	if res, _ := do(t, "GET", url+"/function/echo/empty", nil); res.Header.Get("Content-Type") != "" {
		t.Errorf("an empty answer has the type %q", res.Header.Get("Content-Type"))
	}
}

func TestOnlyPlatformPartsMarkTheirErrors(t *testing.T) {
	url := startEcho(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-OpenFaaS-Internal", r.URL.Path[1:])
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	for value, want := range map[string]string{"watchdog": "watchdog", "of-watchdog": "of-watchdog", "gateway": "", "anything": ""} {
		if res, _ := do(t, "GET", url+"/function/echo/"+value, nil); res.Header.Get(web.HeaderInternal) != want {
			t.Errorf("%q comes out as %q", value, res.Header.Get(web.HeaderInternal))
		}
	}
}

func TestServerTimingTellsTheWaitBesidesWhatTheFunctionTold(t *testing.T) {
	url := startEcho(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Server-Timing", "handler;dur=1.5") })
	res, _ := do(t, "GET", url+"/function/echo", nil)
	if got, want := res.Header.Values("Server-Timing"), []string{"handler;dur=1.5, queue;dur=0"}; !slices.Equal(got, want) {
		t.Errorf("Server-Timing = %q, want %q", got, want)
	}
}

func TestAFullFunctionQueuesAndThenRefuses(t *testing.T) {
	began, finish := make(chan struct{}), make(chan struct{})
	in := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-finish
	}))
	in.Slots = 1
	table := startTable(t, TableOptions{MaxWaiting: 1})
	table.Set(endpoints(in))
	table.Synced()
	url := startProxy(t, table)

	var all sync.WaitGroup
	var timing []string
	var mu sync.Mutex
	for range 2 {
		all.Go(func() {
			res, _ := do(t, "POST", url+"/function/echo", nil)
			mu.Lock()
			defer mu.Unlock()
			timing = append(timing, res.Header.Get("Server-Timing"))
			if res.StatusCode != 200 {
				t.Errorf("got %d", res.StatusCode)
			}
		})
	}
	<-began
	for table.Waiting(echo) == 0 {
		time.Sleep(time.Millisecond)
	}
	for _, queued := range []string{"", "1"} {
		req := newRequest(t, "POST", url+"/function/echo", nil)
		if queued != "" {
			req.Header.Set(HeaderQueued, queued)
		}
		res, body := send(t, req)
		if res.StatusCode != 429 || res.Header.Get("Retry-After") != "1" || res.Header.Get(web.HeaderInternal) != "gateway" {
			t.Errorf("queued %q: %d %q, headers %v", queued, res.StatusCode, body, res.Header)
		}
	}
	finish <- struct{}{}
	<-began
	finish <- struct{}{}
	all.Wait()
	slices.Sort(timing)
	if timing[0] != "queue;dur=0" || !strings.HasPrefix(timing[1], "queue;dur=") || timing[1] == timing[0] {
		t.Errorf("timing: %q", timing)
	}
}

func TestABodyIsNotReadBeforeItsRequestHasASlot(t *testing.T) {
	began, finish := make(chan struct{}), make(chan struct{})
	in := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			close(began)
			<-finish
		}
		_, _ = io.Copy(w, r.Body)
	}))
	in.Slots = 1
	table := startTable(t, TableOptions{})
	table.Set(endpoints(in))
	table.Synced()
	url := startProxy(t, table)

	var all sync.WaitGroup
	all.Go(func() { do(t, "GET", url+"/function/echo", nil) })
	<-began
	conn, br := dial(t, url)
	fmt.Fprint(conn, "POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	for table.Waiting(echo) == 0 {
		time.Sleep(time.Millisecond)
	}
	if br.Buffered() != 0 {
		t.Error("the body was asked for while the request waited")
	}
	close(finish)
	if res := readHead(t, br, "POST"); res.StatusCode != http.StatusContinue {
		t.Fatalf("got %d, want 100", res.StatusCode)
	}
	fmt.Fprint(conn, "hello")
	if res := readHead(t, br, "POST"); res.StatusCode != 200 || readAll(t, res.Body) != "hello" {
		t.Errorf("got %d", res.StatusCode)
	}
	all.Wait()
}

func TestASleepingFunctionAnswersItsFirstCall(t *testing.T) {
	in := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "awake") }))
	in.Ready = false
	in.ready.Store(false)
	wake := &scaler{}
	table := startTable(t, TableOptions{Scaler: wake})
	table.Set(endpoints())
	table.Synced()
	url := startProxy(t, table)
	wake.do = func(int) error {
		table.Set(endpoints(in))
		time.AfterFunc(20*time.Millisecond, func() { in.ready.Store(true) })
		return nil
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			res, body := do(t, "POST", url+"/function/echo", strings.NewReader("x"))
			timing := res.Header.Get("Server-Timing")
			if res.StatusCode != 200 || body != "awake" || !strings.Contains(timing, "wake;dur=") {
				t.Errorf("got %d %q, timing %q", res.StatusCode, body, timing)
			}
		})
	}
	all.Wait()
	if n := wake.asked.Load(); n != 1 {
		t.Errorf("the scaler was asked %d times", n)
	}
}

func TestAFunctionThatCannotStartIs503WithTheReason(t *testing.T) {
	table := startTable(t, TableOptions{})
	e := endpoints(startInstance(t, http.HandlerFunc(nothing)))
	e.Replicas[0].Ready, e.Failure = false, "exit status 3: no such model"
	table.Set(e)
	table.Synced()
	res, body := do(t, "GET", startProxy(t, table)+"/function/echo", nil)
	if res.StatusCode != 503 || !strings.Contains(body, "no such model") || res.Header.Get(web.HeaderInternal) != "gateway" {
		t.Errorf("got %d %q, headers %v", res.StatusCode, body, res.Header)
	}
}

func TestExecTimeoutEndsACallThatTakesTooLong(t *testing.T) {
	gone := make(chan struct{}, 2)
	in := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		gone <- struct{}{}
	}))
	table := startTable(t, TableOptions{})
	e := endpoints(in)
	e.Settings.ExecTimeout = function.Duration(10 * time.Millisecond)
	table.Set(e)
	table.Synced()
	url := startProxy(t, table)

	res, body := do(t, "GET", url+"/function/echo", nil)
	if res.StatusCode != 504 || !strings.Contains(body, "exec_timeout of 10ms") || res.Header.Get(web.HeaderInternal) != "gateway" {
		t.Errorf("got %d %q, headers %v", res.StatusCode, body, res.Header)
	}
	<-gone
	res, err := client(t).Do(newRequest(t, "GET", url+"/function/echo/half", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("an answer that took too long looks whole: %q", body)
	}
	<-gone
	for table.InFlight(echo) != 0 {
		time.Sleep(time.Millisecond)
	}
}

func TestExecTimeoutDoesNotEndATunnel(t *testing.T) {
	limit := 50 * time.Millisecond
	in := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, brw)
	}))
	table := startTable(t, TableOptions{})
	e := endpoints(in)
	e.Settings.ExecTimeout = function.Duration(limit)
	table.Set(e)
	table.Synced()
	conn, br := dial(t, startProxy(t, table))
	fmt.Fprint(conn, "GET /function/echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if res := readHead(t, br, "GET"); res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %d", res.StatusCode)
	}
	over := time.After(limit + 2*timeoutGrace)
	for done := false; !done; {
		fmt.Fprint(conn, "still there\n")
		if line, err := br.ReadString('\n'); line != "still there\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		select {
		case <-over:
			done = true
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestACallerThatSendsTooSlowlyLosesItsSlot(t *testing.T) {
	for _, head := range []string{"Content-Length: 10", "Content-Length: 100000", "Transfer-Encoding: chunked"} {
		in := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
		table := startTable(t, TableOptions{})
		e := endpoints(in)
		e.Settings.ExecTimeout = function.Duration(10 * time.Millisecond)
		table.Set(e)
		table.Synced()
		conn, br := dial(t, startProxy(t, table))
		fmt.Fprintf(conn, "POST /function/echo HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n4\r\n", head)
		res := readHead(t, br, "POST")
		body := readAll(t, res.Body)
		if res.StatusCode != 504 || !res.Close || !strings.Contains(body, "exec_timeout") {
			t.Errorf("%s: %d %q, the connection closes: %t", head, res.StatusCode, body, res.Close)
		}
		for table.InFlight(echo) != 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

func TestAConnectionIsKeptUnlessItsAnswerCameBeforeTheBody(t *testing.T) {
	url := startEcho(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		if r.URL.Path == "/early" {
			// As the watchdog does: net/http cannot use a connection again whose
			// body was left unread in full duplex, and panics.
			w.Header().Set("Connection", "close")
		} else {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		fmt.Fprint(w, "done")
	})
	big := strings.Repeat("x", 10*smallBody)
	conn, br := dial(t, url)
	for _, head := range []string{
		"Content-Length: 0\r\n\r\n",
		"Content-Length: 5\r\n\r\nsmall",
		fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(big), big),
		fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(big), big),
	} {
		fmt.Fprintf(conn, "POST /function/echo HTTP/1.1\r\nHost: x\r\n%s", head)
		if res := readHead(t, br, "POST"); res.Close || readAll(t, res.Body) != "done" {
			t.Fatalf("%.30q: %d, the connection closes: %t", head, res.StatusCode, res.Close)
		}
	}
	fmt.Fprintf(conn, "POST /function/echo/early HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(big))
	if res := readHead(t, br, "POST"); !res.Close || readAll(t, res.Body) != "done" {
		t.Errorf("early: %d, the connection closes: %t", res.StatusCode, res.Close)
	}
	fmt.Fprint(conn, big) // the rest must not be taken for a request
	if rest, err := io.ReadAll(br); err != nil && !errors.Is(err, syscall.ECONNRESET) || len(rest) != 0 {
		t.Errorf("after the answer: %q, %v", rest, err)
	}
}

func TestAReplicaThatRefusesIsReplacedByAnother(t *testing.T) {
	gone := startInstance(t, http.HandlerFunc(nothing))
	alive := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	gone.kill()
	table := startTable(t, TableOptions{})
	table.Set(endpoints(gone, alive))
	table.Synced()
	url := startProxy(t, table)
	for range 20 {
		if res, body := do(t, "POST", url+"/function/echo", strings.NewReader("precious")); res.StatusCode != 200 || body != "precious" {
			t.Fatalf("got %d %q", res.StatusCode, body)
		}
	}
}

func TestOnlyIdempotentRequestsAreSentAgainAfterTheyWereSeen(t *testing.T) {
	for method, again := range map[string]bool{"GET": true, "HEAD": true, "OPTIONS": true, "PUT": true, "DELETE": true, "POST": false, "PATCH": false} {
		var calls atomic.Int64
		url := startEcho(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if calls.Add(1) == 1 {
				panic(http.ErrAbortHandler)
			}
		})
		var body io.Reader
		if method == "PUT" || method == "POST" {
			body = strings.NewReader("small")
		}
		res, _ := do(t, method, url+"/function/echo", body)
		want, seen := 502, int64(1)
		if again {
			want, seen = 200, 2
		}
		if res.StatusCode != want || calls.Load() != seen {
			t.Errorf("%s: %d after %d calls", method, res.StatusCode, calls.Load())
		}
	}
}

func TestARequestIsSentAgainOnce(t *testing.T) {
	var calls atomic.Int64
	url := startEcho(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		panic(http.ErrAbortHandler)
	})
	if res, _ := do(t, "GET", url+"/function/echo", nil); res.StatusCode != 502 || calls.Load() != 2 {
		t.Errorf("got %d after %d calls", res.StatusCode, calls.Load())
	}
	// What was streamed is gone.
	if res, _ := do(t, "PUT", url+"/function/echo", bytes.NewReader(make([]byte, smallBody+1))); res.StatusCode != 502 || calls.Load() != 3 {
		t.Errorf("got %d after %d calls", res.StatusCode, calls.Load())
	}
}

func TestABodyThatBreaksOffIsNotTakenForAWholeOne(t *testing.T) {
	for _, head := range []string{"Content-Length: 10", "Content-Length: 100000", "Transfer-Encoding: chunked"} {
		result := make(chan error, 1)
		url := startEcho(t, func(w http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			result <- err
		})
		conn, _ := dial(t, url)
		fmt.Fprintf(conn, "POST /function/echo HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n4\r\nabcd\r\n", head)
		if head == "Content-Length: 10" {
			conn.Close() // it has not all of it, and the function is not even asked
			continue
		}
		conn.Close()
		if err := <-result; err == nil {
			t.Errorf("%s: the function read half a body without an error", head)
		}
	}
}

// tally is Counters.
type tally struct {
	mu       sync.Mutex
	started  int
	finished map[int]int
}

func (c *tally) Started() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started++
}

func (c *tally) Finished(code int, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished == nil {
		c.finished = map[int]int{}
	}
	c.finished[code]++
}

func TestCallsAreCountedWithTheirStatus(t *testing.T) {
	var counted tally
	table := startTable(t, TableOptions{Counters: func(function.Ref) Counters { return &counted }})
	in := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/418":
			w.WriteHeader(http.StatusTeapot)
		case "/abort":
			panic(http.ErrAbortHandler)
		case "/half":
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "half")
		}
	}))
	table.Set(endpoints(in))
	table.Synced()
	url := startProxy(t, table)
	do(t, "GET", url+"/function/echo", nil)
	do(t, "GET", url+"/function/echo/418", nil)
	do(t, "POST", url+"/function/echo/abort", nil)
	do(t, "GET", url+"/function/unknown", nil)
	if res, err := client(t).Do(newRequest(t, "GET", url+"/function/echo/half", nil)); err == nil {
		res.Body.Close()
	}
	counted.mu.Lock()
	defer counted.mu.Unlock()
	for len(counted.finished) < 3 || counted.finished[200] < 2 || table.InFlight(echo) != 0 { // the callers have their answers before
		counted.mu.Unlock()
		time.Sleep(time.Millisecond)
		counted.mu.Lock()
	}
	if diff := cmp.Diff(map[int]int{200: 2, 418: 1, 502: 1}, counted.finished); diff != "" || counted.started != 4 {
		t.Errorf("%d started; (-want +got)\n%s", counted.started, diff)
	}
}

func TestGRPCStaysHTTP2AllTheWay(t *testing.T) {
	url := startEcho(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Header().Set("X-Proto", r.Proto)
		if r.URL.Path == "/fail" {
			w.Header().Set("Grpc-Status", "5") // an answer of trailers alone
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		rc := http.NewResponseController(w)
		_ = rc.Flush()
		head := make([]byte, 5)
		for {
			if _, err := io.ReadFull(r.Body, head); err != nil {
				break
			}
			message := make([]byte, binary.BigEndian.Uint32(head[1:]))
			if _, err := io.ReadFull(r.Body, message); err != nil {
				break
			}
			_, _ = w.Write(append(head, message...))
			_ = rc.Flush()
		}
		w.Header().Set("Grpc-Status", "0")
	})
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}

	body, w := io.Pipe()
	req := newRequest(t, "POST", url+"/function/echo/echo.Echo/Stream", body)
	req.Header.Set("Content-Type", "application/grpc+proto")
	req.Header.Set("Te", "trailers")
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for range 3 {
		sent := []byte("\x00\x00\x00\x00\x03abc")
		_, _ = w.Write(sent)
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(res.Body, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	w.Close()
	if rest := readAll(t, res.Body); rest != "" || res.Trailer.Get("Grpc-Status") != "0" || res.Header.Get("X-Proto") != "HTTP/2.0" {
		t.Errorf("rest %q, trailers %v, the function saw %s", rest, res.Trailer, res.Header.Get("X-Proto"))
	}

	for range 200 {
		req := newRequest(t, "POST", url+"/function/echo/fail", strings.NewReader("\x00\x00\x00\x00\x00"))
		req.Header.Set("Content-Type", "application/grpc")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, res.Body)
		res.Body.Close()
		if res.Header.Get("Grpc-Status") != "5" || len(res.Trailer) != 0 {
			t.Fatalf("an answer of trailers alone comes as headers %v, trailers %v", res.Header, res.Trailer)
		}
	}

	// HTTP/2 that is not gRPC needs no more than HTTP/1 from the replica.
	res, err = c.Do(newRequest(t, "GET", url+"/function/echo/fail", nil))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := res.Header.Get("X-Proto"); got != "HTTP/1.1" {
		t.Errorf("the function saw %s", got)
	}
}

func TestGRPCGoesToAReplicaThatListens(t *testing.T) {
	gone := startInstance(t, http.HandlerFunc(nothing))
	alive := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	gone.kill()
	table := startTable(t, TableOptions{})
	table.Set(endpoints(gone, alive))
	table.Synced()
	proxy := NewProxy(table, ProxyOptions{Log: testkit.Log(t)})
	for range 20 {
		req := httptest.NewRequest("POST", "/function/echo", strings.NewReader("precious"))
		req.Header.Set("Content-Type", "application/grpc")
		req.ProtoMajor = 2
		w := httptest.NewRecorder()
		proxy.ServeHTTP(w, req)
		if w.Code != 200 || w.Body.String() != "precious" {
			t.Fatalf("got %d %q", w.Code, w.Body)
		}
	}
}

func TestACallInTheProcessIsLikeAnyOther(t *testing.T) {
	table := startTable(t, TableOptions{})
	table.Set(endpoints(startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "half")
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))))
	table.Synced()
	c := &http.Client{Transport: web.InProcess(NewProxy(table, ProxyOptions{}))}
	res, err := c.Do(newRequest(t, "POST", "http://gateway/function/echo", strings.NewReader("hello")))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body := readAll(t, res.Body); body != "hello" {
		t.Errorf("got %q", body)
	}
	res, err = c.Do(newRequest(t, "GET", "http://gateway/function/echo/half", nil))
	if err == nil {
		_, err = io.ReadAll(res.Body)
		res.Body.Close()
	}
	if err == nil {
		t.Error("half an answer looks whole")
	}
}

func TestARequestThatCannotBeSentIsTheCallersError(t *testing.T) {
	table := startTable(t, TableOptions{})
	table.Set(endpoints(startInstance(t, http.HandlerFunc(nothing))))
	table.Synced()
	req := httptest.NewRequest("GET", "/function/echo", nil)
	req.URL.RawQuery = "a b\r\nX-Smuggled: yes"
	w := httptest.NewRecorder()
	NewProxy(table, ProxyOptions{}).ServeHTTP(w, req)
	if w.Code != 400 {
		t.Errorf("got %d %q", w.Code, w.Body)
	}
}

// TestNothingIsLostThatWasNotInFlightOnAKilledReplica kills and replaces
// replicas while many callers call, and accounts for every call.
func TestNothingIsLostThatWasNotInFlightOnAKilledReplica(t *testing.T) {
	const callers, kills = 16, 40
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	alive := []*instance{startInstance(t, handler), startInstance(t, handler), startInstance(t, handler)}
	table := startTable(t, TableOptions{})
	table.Set(endpoints(alive...))
	table.Synced()
	url := startProxy(t, table)

	done := make(chan struct{})
	var answered atomic.Int64
	var mu sync.Mutex
	lost := map[string]string{} // what the caller was told, by call
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			c := client(t)
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				id := fmt.Sprintf("%d/%d", i, n)
				status, body, err := post(t.Context(), c, url+"/function/echo", id)
				switch {
				case err == nil && status == 200 && body == id:
					answered.Add(1)
				case err == nil && status == 502:
					mu.Lock()
					lost[id] = body
					mu.Unlock()
				default:
					t.Errorf("call %s: %d %q, %v", id, status, body, err)
				}
			}
		})
	}
	var killed []string
	for k := range kills {
		before := answered.Load()
		for answered.Load() < before+50 {
			time.Sleep(100 * time.Microsecond)
		}
		victim := &alive[k%len(alive)]
		killed = append(killed, (*victim).ID)
		(*victim).kill()
		*victim = startInstance(t, handler)
		table.Set(endpoints(alive...))
	}
	close(done)
	all.Wait()

	perReplica := map[string]int{}
	for id, told := range lost {
		i := slices.IndexFunc(killed, func(replica string) bool { return strings.Contains(told, "replica "+replica+" gave no answer") })
		if i < 0 {
			t.Errorf("call %s was not in flight on a killed replica: %q", id, told)
			continue
		}
		if perReplica[killed[i]]++; perReplica[killed[i]] > callers {
			t.Errorf("more calls are lost on %s than can have been in flight", killed[i])
		}
	}
	t.Logf("%d calls answered, %d lost in flight on %d killed replicas", answered.Load(), len(lost), kills)
	for table.InFlight(echo) != 0 || table.Waiting(echo) != 0 {
		time.Sleep(time.Millisecond)
	}
}

func post(ctx context.Context, c *http.Client, url, body string) (status int, answer string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return res.StatusCode, string(got), err
}

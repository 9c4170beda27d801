package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/web"
)

// States of an asynchronous call, and which of them it ends in.
const (
	CallQueued    = "queued"
	CallRunning   = "running"
	CallWaiting   = "waiting" // for its next try
	CallDone      = "done"
	CallFailed    = "failed" // for good: it is a dead letter
	CallCancelled = "cancelled"
)

// CallStates lists the states of calls.
func CallStates() []string {
	return []string{CallQueued, CallRunning, CallWaiting, CallDone, CallFailed, CallCancelled}
}

// A LaterCall is what a gateway knows about an asynchronous call.
type LaterCall struct {
	ID             string     `json:"id"`
	Function       string     `json:"function"` // NAME.NAMESPACE
	Queue          string     `json:"queue"`
	State          string     `json:"state"`
	CallID         string     `json:"callId,omitempty"` // the caller's own id
	Batch          string     `json:"batch,omitempty"`
	Submitted      time.Time  `json:"submitted"`
	Started        *time.Time `json:"started,omitempty"` // the latest try
	EndedAt        *time.Time `json:"ended,omitempty"`
	Next           *time.Time `json:"next,omitempty"` // the next try
	Tries          []LaterTry `json:"tries,omitempty"`
	Status         int        `json:"status,omitempty"` // of the function's answer
	Size           int64      `json:"size,omitempty"`   // of the answer's body
	CallbackFailed string     `json:"callbackFailed,omitempty"`
	Held           string     `json:"held,omitempty"`          // why the outcome waits: it has no room yet
	ResultDropped  string     `json:"resultDropped,omitempty"` // why the answer's body is not kept
}

// Ended reports whether the call will not run any more by itself.
func (c LaterCall) Ended() bool {
	return c.State == CallDone || c.State == CallFailed || c.State == CallCancelled
}

// A LaterTry is one attempt at an asynchronous call.
type LaterTry struct {
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Status  int       `json:"status,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// A Later is an asynchronous call that was accepted.
type Later struct {
	ID     string // by which the gateway knows it
	CallID string // what X-Call-Id says: the caller's own id, if they gave one
}

// InvokeLater submits a call to be run later. It is stored when InvokeLater
// returns nil. call.Method does not count: it is POST.
func (c *Client) InvokeLater(ctx context.Context, call Call) (Later, error) {
	resp, err := c.post(ctx, "/async-function/", call)
	if err != nil {
		return Later{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return Later{}, c.refused(resp)
	}
	later := Later{CallID: resp.Header.Get(web.HeaderCallID)}
	if where, err := url.Parse(resp.Header.Get("Location")); err == nil {
		_, later.ID, _ = cutLast(where.Path)
	}
	if later.ID == "" {
		later.ID = later.CallID // a gateway of OpenFaaS has nothing else
	}
	return later, nil
}

func cutLast(path string) (before, after string, found bool) {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i], path[i+1:], true
		}
	}
	return path, path, false
}

// post POSTs a call to a path below prefix.
func (c *Client) post(ctx context.Context, prefix string, call Call) (*http.Response, error) {
	name := call.Function.Name
	if call.Function.Namespace != "" {
		name = call.Function.String()
	}
	target := c.base.String() + prefix + url.PathEscape(name) + call.Path
	if call.Query != "" {
		target += "?" + call.Query
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, call.Body)
	if err != nil {
		return nil, fault.Invalid.Errorf("call %s: %w", name, err)
	}
	if call.Header != nil {
		req.Header = call.Header.Clone()
	}
	return c.call(req)
}

// LaterCall returns what is known about an asynchronous call, as soon as it
// has ended or wait is over.
func (c *Client) LaterCall(ctx context.Context, id string, wait time.Duration) (LaterCall, error) {
	query := url.Values{}
	if wait > 0 {
		query.Set("wait", wait.String())
	}
	var call LaterCall
	err := c.do(ctx, request{method: "GET", path: []string{"async-function", id}, query: query}, &call)
	return call, err
}

// LaterResult returns the answer to an asynchronous call that has ended; the
// caller closes its body. Its status is the function's, or 503 if the function
// gave none. A call that has not ended is fault.Busy.
func (c *Client) LaterResult(ctx context.Context, id string) (*http.Response, error) {
	resp, err := c.send(ctx, request{method: "GET", path: []string{"async-function", id, "result"}})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusAccepted {
		resp.Body.Close()
		return nil, fault.Busy.Errorf("call %s has not ended", id)
	}
	if status, err := strconv.Atoi(resp.Header.Get("X-Function-Status")); err == nil {
		resp.StatusCode, resp.Status = status, fmt.Sprintf("%d %s", status, http.StatusText(status))
	}
	return resp, nil
}

// CancelLater stops an asynchronous call, whether it waits or runs.
func (c *Client) CancelLater(ctx context.Context, id string) error {
	return c.do(ctx, request{method: "DELETE", path: []string{"async-function", id}}, nil)
}

// A CallFilter picks asynchronous calls. Zero fields pick all.
type CallFilter struct {
	Function     string
	State        string
	Since, Until time.Time
	Limit        int // how many calls at most
}

// callsPage is how many calls are asked for at once.
const callsPage = 500

// LaterCalls lists asynchronous calls, those first that have changed last, and
// asks for them page by page as they are wanted. After an error nothing
// follows.
func (c *Client) LaterCalls(ctx context.Context, f CallFilter) iter.Seq2[LaterCall, error] {
	query := url.Values{}
	for name, value := range map[string]string{"function": f.Function, "state": f.State} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for name, at := range map[string]time.Time{"since": f.Since, "until": f.Until} {
		if !at.IsZero() {
			query.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	return func(yield func(LaterCall, error) bool) {
		for n := 0; ; {
			page := callsPage
			if f.Limit > 0 {
				page = min(page, f.Limit-n)
			}
			query.Set("limit", strconv.Itoa(page))
			resp, err := c.send(ctx, request{method: "GET", path: []string{"system", "calls"}, query: query})
			if err != nil {
				yield(LaterCall{}, err)
				return
			}
			var calls []LaterCall
			err = json.NewDecoder(resp.Body).Decode(&calls)
			resp.Body.Close()
			if err != nil {
				yield(LaterCall{}, fmt.Errorf("read the list of calls: %w", err))
				return
			}
			for _, call := range calls {
				if !yield(call, nil) {
					return
				}
			}
			next := resp.Header.Get("X-Next-Cursor")
			if n += len(calls); next == "" || n == f.Limit {
				return
			}
			query.Set("cursor", next)
		}
	}
}

// RetryCall puts a dead letter back into the queue.
func (c *Client) RetryCall(ctx context.Context, id string) error {
	return c.do(ctx, request{method: "POST", path: []string{"system", "calls", id, "retry"}}, nil)
}

// PurgeCall deletes a dead letter.
func (c *Client) PurgeCall(ctx context.Context, id string) error {
	return c.do(ctx, request{method: "POST", path: []string{"system", "calls", id, "purge"}}, nil)
}

// RetryCalls puts all dead letters of a function, or with "" of all, back into
// the queue, and returns how many.
func (c *Client) RetryCalls(ctx context.Context, function string) (int, error) {
	return c.manyCalls(ctx, "retry", function)
}

// PurgeCalls deletes all dead letters of a function, or with "" of all, and
// returns how many.
func (c *Client) PurgeCalls(ctx context.Context, function string) (int, error) {
	return c.manyCalls(ctx, "purge", function)
}

func (c *Client) manyCalls(ctx context.Context, verb, function string) (int, error) {
	query := url.Values{}
	if function != "" {
		query.Set("function", function)
	}
	var n struct{ Calls int }
	err := c.do(ctx, request{method: "POST", path: []string{"system", "calls", verb}, query: query}, &n)
	return n.Calls, err
}

// A Queue describes one queue of asynchronous calls.
type Queue struct {
	Name      string         `json:"name"`
	Backlog   int            `json:"backlog"` // calls that wait or run
	Waiting   int            `json:"waiting"` // calls that wait for their next try
	Oldest    *time.Time     `json:"oldest,omitempty"`
	Functions map[string]int `json:"functions,omitempty"`
}

// Queues lists the queues.
func (c *Client) Queues(ctx context.Context) ([]Queue, error) {
	var all []Queue
	err := c.do(ctx, request{method: "GET", path: []string{"system", "queues"}}, &all)
	return all, err
}

// Queue describes one queue, else fault.NotFound.
func (c *Client) Queue(ctx context.Context, name string) (Queue, error) {
	var q Queue
	err := c.do(ctx, request{method: "GET", path: []string{"system", "queues", name}}, &q)
	return q, err
}

// A Batch is many calls of one function, one for each document of a file.
type Batch struct {
	ID        string    `json:"id"`
	Function  string    `json:"function"`
	Submitted time.Time `json:"submitted"`
	Accepted  int       `json:"accepted"`
	Complete  bool      `json:"complete"`
	Waiting   int       `json:"waiting"`
	Done      int       `json:"done"`
	Failed    int       `json:"failed"`
	Cancelled int       `json:"cancelled"`
}

// Ended reports whether all of the batch's calls have.
func (b Batch) Ended() bool { return b.Complete && b.Waiting == 0 }

// SendBatch submits the documents of call.Body, from number from on: NDJSON,
// or CSV if call.Header says text/csv. The header Idempotency-Key names the
// batch: what is sent again under the same key continues where it was.
func (c *Client) SendBatch(ctx context.Context, call Call, from int) (Batch, error) {
	if from > 0 {
		query, err := url.ParseQuery(call.Query)
		if err != nil {
			return Batch{}, fault.Invalid.Errorf("query %q: %w", call.Query, err)
		}
		query.Set("from", strconv.Itoa(from))
		call.Query = query.Encode()
	}
	resp, err := c.post(ctx, "/async-batch/", call)
	if err != nil {
		return Batch{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return Batch{}, c.refused(resp)
	}
	var b Batch
	if err := json.NewDecoder(resp.Body).Decode(&b); err != nil {
		return b, fault.Internal.Errorf("read the answer of %s: %w", c.base.Host, err)
	}
	return b, nil
}

// Batch returns how far a batch is.
func (c *Client) Batch(ctx context.Context, id string) (Batch, error) {
	var b Batch
	err := c.do(ctx, request{method: "GET", path: []string{"async-batch", id}}, &b)
	return b, err
}

// BatchResult calls each with the lines of a batch's result, without their
// ends, from number from on, as far as they are there; it returns how many.
// An error after some lines does not take them back.
func (c *Client) BatchResult(ctx context.Context, id string, from int, each func(line []byte) error) (int, error) {
	resp, err := c.send(ctx, request{method: "GET", path: []string{"async-batch", id, "result"}, query: url.Values{"from": {strconv.Itoa(from)}}})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for n := 0; ; n++ {
		line, err := lines.ReadBytes('\n')
		switch {
		case err == io.EOF && len(line) == 0:
			return n, nil
		case err != nil:
			return n, fault.Unavailable.Errorf("the result of batch %s broke off: %w", id, err)
		}
		if err := each(line[:len(line)-1]); err != nil {
			return n, err
		}
	}
}

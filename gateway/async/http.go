package async

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// Prefixes of the paths that callers use.
const (
	CallsPath   = "/async-function/"
	BatchesPath = "/async-batch/"
)

// Headers of requests.
const (
	headerKey         = "Idempotency-Key"
	headerCallbackURL = "X-Callback-Url"
)

// maxKey bounds an idempotency key, in bytes.
const maxKey = 256

// maxWait bounds how long a request waits for a call to end.
const maxWait = 5 * time.Minute

// APIOptions are what an [API] needs.
type APIOptions struct {
	Queue *Queue
	// Find returns what is known about a function by the name in a path, NAME
	// or NAME.NAMESPACE; fault.NotFound if there is none.
	Find func(ctx context.Context, name string) (function.Endpoints, error)
	// MayInvoke says whether the caller of a request may call a function: who
	// may call it may ask what became of calls. Nil: everybody.
	MayInvoke func(ctx context.Context, ref function.Ref) error
	// May decides about the operators' routes as that of package api does.
	May func(ctx context.Context, action, namespace, name string) error
	// Caller names who sent a request, "" if nobody knows: one caller's
	// idempotency keys are not another's. Nil: nobody knows.
	Caller func(ctx context.Context) string
	// Tracer makes a span of each submission; nil makes none.
	Tracer *trace.Tracer
	Log    *slog.Logger
}

// API is the HTTP side of the queue. It is safe for concurrent use.
type API struct {
	o APIOptions
	q *Queue
}

// NewAPI returns an API. It starts nothing.
func NewAPI(o APIOptions) *API {
	if o.MayInvoke == nil {
		o.MayInvoke = func(context.Context, function.Ref) error { return nil }
	}
	if o.Caller == nil {
		o.Caller = func(context.Context) string { return "" }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &API{o: o, q: o.Queue}
}

// ServeHTTP answers the requests of callers: everything under [CallsPath] and
// [BatchesPath], whose paths must come as they were sent. A request that POSTs
// names a function, the others a call or a batch.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	if err := a.serve(w, r); err != nil {
		w.Header().Set(web.HeaderInternal, "gateway")
		web.WriteError(w, r, a.o.Log, err)
	}
}

func (a *API) serve(w http.ResponseWriter, r *http.Request) error {
	path, batch := strings.CutPrefix(r.URL.EscapedPath(), BatchesPath)
	if !batch {
		path = strings.TrimPrefix(path, CallsPath)
	}
	name, rest, slash := strings.Cut(path, "/")
	if slash {
		rest = "/" + rest
	}
	if name == "" {
		return fault.NotFound.Errorf("the path names neither a function nor a call")
	}
	if r.Method == http.MethodOptions {
		preflight(w, r)
		return nil
	}
	if err := a.q.ready(); err != nil {
		return err
	}
	switch {
	case r.Method == http.MethodPost && batch:
		return a.submitBatch(w, r, name, rest)
	case r.Method == http.MethodPost:
		return a.submit(w, r, name, rest)
	case r.Method == http.MethodGet && batch && rest == "":
		return a.getBatch(w, r, name)
	case r.Method == http.MethodGet && batch && rest == "/result":
		return a.batchResult(w, r, name)
	case r.Method == http.MethodGet && rest == "":
		return a.get(w, r, name)
	case r.Method == http.MethodGet && rest == "/result":
		return a.result(w, r, name)
	case r.Method == http.MethodDelete && !batch && rest == "":
		return a.cancel(w, r, name)
	case r.Method == http.MethodGet || r.Method == http.MethodDelete:
		return fault.NotFound.Errorf("there is nothing at this path")
	}
	w.Header().Set("Allow", "GET, POST, DELETE, OPTIONS")
	w.WriteHeader(http.StatusMethodNotAllowed)
	return nil
}

// preflight answers browsers that ask whether a page of another origin may
// send a request.
func preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS")
	allow := r.Header.Get("Access-Control-Request-Headers")
	if allow == "" {
		allow = "Content-Type, Idempotency-Key, X-Call-Id, X-Callback-Url"
	}
	h.Set("Access-Control-Allow-Headers", allow)
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}

// submission is what a request to run something later says.
func (a *API) submission(r *http.Request, name, rest string) (Submission, error) {
	name, err := url.PathUnescape(name)
	if err != nil {
		return Submission{}, fault.NotFound.Errorf("error finding function: %w", err)
	}
	e, err := a.o.Find(r.Context(), name)
	if err != nil {
		return Submission{}, err
	}
	if err := a.o.MayInvoke(r.Context(), e.Ref); err != nil {
		return Submission{}, err
	}
	key := r.Header.Get(headerKey)
	if len(key) > maxKey {
		return Submission{}, fault.Invalid.Errorf("%s has %d bytes, at most %d are allowed", headerKey, len(key), maxKey)
	}
	s := Submission{
		Function: e.Ref, Annotations: e.Annotations, Key: key, Caller: a.o.Caller(r.Context()),
		Request: types.QueueRequest{
			Header: endToEnd(r.Header), Host: r.Host, Method: r.Method, Path: rest, QueryString: r.URL.RawQuery, Function: name,
		},
	}
	if callback := r.Header.Get(headerCallbackURL); callback != "" {
		if s.Request.CallbackURL, err = parseCallback(callback); err != nil {
			return Submission{}, err
		}
	}
	h := s.Request.Header
	if !web.ValidCallID(h.Get(web.HeaderCallID)) {
		h.Del(web.HeaderCallID)
	}
	h.Del("Expect")
	h.Set(web.HeaderStartTime, strconv.FormatInt(time.Now().UnixNano(), 10))
	// What the function is to know of the request that the caller made; the
	// worker's own would say nothing.
	if h.Get("Forwarded") == "" {
		setNew(h, "X-Forwarded-For", r.RemoteAddr)
		setNew(h, "X-Forwarded-Host", r.Host)
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		setNew(h, "X-Forwarded-Proto", scheme)
	}
	setNew(h, "X-Forwarded-Uri", r.URL.EscapedPath())
	if h.Get("Traceparent") == "" {
		h.Set("Traceparent", newTrace())
	}
	return s, nil
}

func setNew(h http.Header, name, value string) {
	if h.Get(name) == "" {
		h.Set(name, value)
	}
}

func (a *API) submit(w http.ResponseWriter, r *http.Request, name, rest string) error {
	s, err := a.submission(r, name, rest)
	if err != nil {
		return err
	}
	s.Body, s.Length = r.Body, r.ContentLength
	span := a.beginSubmission(r, s)
	defer span.End()
	id, err := a.q.Submit(r.Context(), s)
	if err != nil {
		span.Fail(err.Error())
		return err
	}
	h := w.Header()
	h.Set("Access-Control-Expose-Headers", "X-Call-Id, X-Start-Time, Location")
	span.Text("graphene.call_id", id)
	h.Set("Location", CallsPath+id)
	h.Set(web.HeaderCallID, id)
	if own := s.Request.Header.Get(web.HeaderCallID); own != "" {
		h.Set(web.HeaderCallID, own)
	}
	h.Set(web.HeaderStartTime, s.Request.Header.Get(web.HeaderStartTime))
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// find returns the call that a path names, once it has ended if the request
// can wait.
func (a *API) find(r *http.Request, id string) (*Call, error) {
	wait, err := readWait(r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	c, err := a.q.Lookup(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := a.o.MayInvoke(ctx, c.Ref()); err != nil {
		return nil, err
	}
	if wait == 0 || c.State.Ended() {
		return c, nil
	}
	ctx, cancel := web.UntilDrain(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, wait)
	defer stop()
	return a.q.Await(ctx, id)
}

// readWait reads how long a request may wait, from its query.
func readWait(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get("wait")
	if text == "" {
		return 0, nil
	}
	var d function.Duration
	if err := d.UnmarshalText([]byte(text)); err != nil {
		return 0, fault.Invalid.Errorf("wait is %q: %w", text, err)
	}
	return min(d.Std(), maxWait), nil
}

func (a *API) get(w http.ResponseWriter, r *http.Request, id string) error {
	c, err := a.find(r, id)
	if err != nil {
		return err
	}
	web.WriteJSON(w, http.StatusOK, c)
	return nil
}

// result answers with the function's answer: its body and its headers, with
// its status in X-Function-Status, as callbacks have it, so that it cannot be
// mistaken for one of the platform's. A call that has not ended is 202.
func (a *API) result(w http.ResponseWriter, r *http.Request, id string) error {
	c, err := a.find(r, id)
	if err != nil {
		return err
	}
	switch {
	case !c.State.Ended():
		w.Header().Set("Retry-After", "1")
		web.WriteJSON(w, http.StatusAccepted, c)
		return nil
	case c.State == Cancelled:
		return fault.Gone.Errorf("call %s was cancelled", id)
	case c.Dropped != "":
		return fault.Gone.Errorf("the result of call %s is not kept: %s", id, c.Dropped)
	}
	c, body, err := a.q.Result(r.Context(), c.ID)
	if err != nil {
		return err
	}
	defer body.Close()
	h := w.Header()
	maps.Copy(h, c.Header)
	status := c.Status
	if status == 0 {
		status = http.StatusServiceUnavailable
	}
	h.Del(web.HeaderInternal)
	h.Set("X-Function-Status", strconv.Itoa(status))
	h.Set("X-Function-Name", c.Function)
	h.Set("Content-Length", strconv.FormatInt(c.Size, 10))
	w.WriteHeader(http.StatusOK)
	_, _ = io.Copy(w, body) // a caller that went away needs no answer
	return nil
}

func (a *API) cancel(w http.ResponseWriter, r *http.Request, id string) error {
	c, err := a.q.Lookup(r.Context(), id)
	if err != nil {
		return err
	}
	if err := a.o.MayInvoke(r.Context(), c.Ref()); err != nil {
		return err
	}
	if err := a.q.Cancel(r.Context(), c.ID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// A Route is one operation for operators, as package api has them. Path is a
// pattern of gorilla/mux whose variables whoever mounts it sets as path values
// of the request.
type Route struct {
	Method string
	Path   string
	Action string
	Handle web.HandlerFunc
}

// Routes lists the operations for operators.
func (a *API) Routes() []Route {
	route := func(method, path, action string, handle web.HandlerFunc) Route {
		return Route{method, path, action, func(w http.ResponseWriter, r *http.Request) error {
			if err := a.o.May(r.Context(), action, "", ""); err != nil {
				return err
			}
			if err := a.q.ready(); err != nil {
				return err
			}
			return handle(w, r)
		}}
	}
	return []Route{
		route("GET", "/system/calls", "Call:List", a.list),
		route("POST", "/system/calls/retry", "Call:Retry", a.many(func(ctx context.Context, fn string) (int, error) { return a.q.RetryAll(ctx, fn) })),
		route("POST", "/system/calls/purge", "Call:Purge", a.many(func(ctx context.Context, fn string) (int, error) { return a.q.PurgeAll(ctx, fn) })),
		route("POST", "/system/calls/{id}/retry", "Call:Retry", a.one(func(ctx context.Context, id string) error { return a.q.Retry(ctx, id) })),
		route("POST", "/system/calls/{id}/purge", "Call:Purge", a.one(func(ctx context.Context, id string) error { return a.q.Purge(ctx, id) })),
		route("GET", "/system/queues", "Queue:List", a.queues),
		route("GET", "/system/queues/{queue}", "Queue:Get", a.queue),
	}
}

// maxPage bounds a page of a listing.
const maxPage = 1000

// headerNext names, on a page of a listing, the cursor of the next.
const headerNext = "X-Next-Cursor"

// list answers with a page of calls, and says in a header where the next
// begins, if there is one.
func (a *API) list(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilter(r.URL.Query())
	if err != nil {
		return err
	}
	page, err := a.q.List(r.Context(), f)
	if err != nil {
		return err
	}
	if page.Next != "" {
		w.Header().Set(headerNext, page.Next)
	}
	if page.Calls == nil {
		page.Calls = []*Call{}
	}
	web.WriteJSON(w, http.StatusOK, page.Calls)
	return nil
}

func readFilter(query url.Values) (Filter, error) {
	f := Filter{State: State(query.Get("state")), Cursor: query.Get("cursor")}
	if name := query.Get("function"); name != "" {
		ref, err := function.ParseRef(name, function.DefaultNamespace)
		if err != nil {
			return f, err
		}
		f.Function = ref.String()
	}
	if f.State != "" && !slices.Contains(States(), f.State) {
		return f, fault.Invalid.Errorf("state is %q, want one of %v", f.State, States())
	}
	for name, at := range map[string]*time.Time{"since": &f.Since, "until": &f.Until} {
		text := query.Get(name)
		if text == "" {
			continue
		}
		var err error
		if *at, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return f, fault.Invalid.Errorf("%s is %q, want a time such as 2026-01-02T15:04:05Z", name, text)
		}
	}
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPage {
			return f, fault.Invalid.Errorf("limit is %q, want a number from 1 to %d", text, maxPage)
		}
		f.Limit = n
	}
	return f, nil
}

func (a *API) one(do func(context.Context, string) error) web.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := do(r.Context(), r.PathValue("id")); err != nil {
			return err
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
}

// many does something with all dead letters, or those of the function that the
// query names.
func (a *API) many(do func(context.Context, string) (int, error)) web.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		n, err := do(r.Context(), r.URL.Query().Get("function"))
		if err != nil {
			return err
		}
		web.WriteJSON(w, http.StatusOK, map[string]int{"calls": n})
		return nil
	}
}

func (a *API) queues(w http.ResponseWriter, r *http.Request) error {
	all, err := a.q.Queues(r.Context())
	if err != nil {
		return err
	}
	web.WriteJSON(w, http.StatusOK, all)
	return nil
}

func (a *API) queue(w http.ResponseWriter, r *http.Request) error {
	all, err := a.q.Queues(r.Context())
	if err != nil {
		return err
	}
	for _, info := range all {
		if info.Name == r.PathValue("queue") {
			web.WriteJSON(w, http.StatusOK, info)
			return nil
		}
	}
	return fault.NotFound.Errorf("queue %s has no calls", r.PathValue("queue"))
}

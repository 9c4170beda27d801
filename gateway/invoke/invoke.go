// Package invoke carries a request to a function and its answer back.
//
// A [Table] knows where the replicas of every function are; a [Watcher] keeps
// it true by the provider's stream, so that no request asks the provider
// anything. The [Proxy] is the http.Handler: it takes a slot of a replica,
// waits for one when all are taken, wakes the function when it has no replica,
// and then streams bytes both ways, holding no body but small ones whole. A
// request that was never sent is tried again on another replica; one that a
// function may have begun to handle is so only once, and only if its method is
// idempotent.
//
// Errors made here carry the header X-OpenFaaS-Internal, and every answer says
// by Server-Timing how long its request waited, and for what.
//
// Start with [NewTable], [NewProxy] and [Watcher.Run].
package invoke

import (
	"log"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// HeaderQueued marks a request from the queue worker. It is refused at once
// where others wait for a slot, because it waits better in the queue. Its value
// tells how many calls of the function wait there: "5+95" if five would be sent
// now if there were room for all of them, those in flight included, and 95
// besides. Functions do not see it.
const HeaderQueued = "X-Graphene-Queued"

// HeaderSubmitter names, on a request from the queue worker, who submitted the
// call. Functions do not see it.
const HeaderSubmitter = "X-Graphene-Submitter"

// internal is the value of [web.HeaderInternal] on errors made here.
const internal = "gateway"

// ProxyOptions tune a [Proxy].
type ProxyOptions struct {
	// Version is shown in the header X-Served-By.
	Version string
	// Admit is asked before a function is called whether r may do so; its error
	// goes to the caller. For a function that does not exist it is asked too,
	// without annotations, so that names show only to those who could call
	// them. It may change r's headers. Nil admits everybody.
	Admit func(r *http.Request, ref function.Ref, annotations map[string]string) error
	// Vouched reports whether a request that HeaderQueued marks is the queue
	// worker's, whose word about its calls counts. Nil believes nobody.
	Vouched func(*http.Request) bool
	// Tracer makes a span of each call; nil makes none.
	Tracer *trace.Tracer
	Log    *slog.Logger
}

// A Proxy serves /function/NAME[.NAMESPACE]/…. It must be given paths as they
// were sent, neither cleaned nor decoded. It is safe for concurrent use.
//
// A request that waits leaves when its caller goes away. Over HTTP/1 that is
// seen only once the body, if there is one, has been read; until then such a
// request keeps its place.
type Proxy struct {
	table    *Table
	admit    func(r *http.Request, ref function.Ref, annotations map[string]string) error
	vouched  func(*http.Request) bool
	tracer   *trace.Tracer
	servedBy string
	log      *slog.Logger
	errors   *log.Logger // where httputil complains
	calls    sync.Pool   // of *call
}

// NewProxy returns a proxy to the functions in t.
func NewProxy(t *Table, o ProxyOptions) *Proxy {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	if o.Vouched == nil {
		o.Vouched = func(*http.Request) bool { return false }
	}
	p := &Proxy{
		table:    t,
		admit:    o.Admit,
		vouched:  o.Vouched,
		tracer:   o.Tracer,
		servedBy: "graphene/" + o.Version,
		log:      o.Log,
		errors:   slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	p.calls.New = func() any { return newCall(p) }
	return p
}

// ServeHTTP sends r to the function its path names and the answer to w.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := p.calls.Get().(*call)
	c.begin(r, time.Now())
	defer func() {
		c.end()
		p.calls.Put(c)
	}()
	if !allowed(r.Method) {
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		c.mark(w.Header())
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	where, ok := split(r.URL)
	if !ok {
		http.NotFound(w, r)
		return
	}
	route, err := p.table.find(r.Context(), where.name)
	if denied := p.denied(r, where.name, route); denied != nil {
		err = denied
	}
	if err != nil {
		c.fail(w, r, err)
		return
	}
	c.serve(w, r, route, where)
}

// denied returns why r may not call the function of that name, or nil. The
// route is nil if there is none.
func (p *Proxy) denied(r *http.Request, name string, to *route) error {
	switch {
	case p.admit == nil:
		return nil
	case to != nil:
		return p.admit(r, to.ref, to.view.Load().Annotations)
	}
	ref, err := function.ParseRef(name, p.table.o.Namespace)
	if err != nil {
		ref = function.Ref{}
	}
	return p.admit(r, ref, nil)
}

func allowed(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return true
	}
	return false
}

// idempotent reports whether handling a request twice does no more than
// handling it once, by what its method promises.
func idempotent(method string) bool {
	return allowed(method) && method != http.MethodPost && method != http.MethodPatch
}

// fromWatchdog reports whether an answer's [web.HeaderInternal] was set by a
// watchdog, which lets nothing through that the handler set.
func fromWatchdog(h http.Header) bool {
	switch h.Get(web.HeaderInternal) {
	case "watchdog", "of-watchdog", "faas-middleware":
		return true
	}
	return false
}

package invoke

import (
	"net/http"
	"time"

	"github.com/graphene-faas/graphene/gateway/trace"
)

// traced is a call as its spans tell of it. All of it is nil unless somebody
// asked for spans.
type traced struct {
	call    *trace.Span // from the request to the end of the answer
	sent    *trace.Span // the part of it in which the function has the request
	timings []string    // what the function's watchdog says of its time
	failure error       // why the answer is the gateway's
}

// beginSpans begins the span of a call, as a part of what its caller does.
func (c *call) beginSpans(r *http.Request) {
	s := c.proxy.tracer.Start(r.Context(), trace.Server, c.route.ref.String(), r.Header, c.start)
	s.Text("faas.invoked_name", c.route.ref.Name)
	s.Text("graphene.namespace", c.route.ref.Namespace)
	s.Text("graphene.call_id", c.id[0])
	s.Text("http.request.method", r.Method)
	c.traced.call = s
}

// traceSending tells of the wait, which is over, and makes what the function
// does a part of the call by the headers that it gets.
func (c *call) traceSending(h http.Header) {
	now := time.Now()
	if c.grant.wake > 0 {
		began := now.Add(-c.grant.waited)
		wake := c.traced.call.Child(trace.Internal, "wake", began)
		at := began
		for name, part := range c.grant.startup.parts {
			wake.Child(trace.Internal, name, at).EndAt(at.Add(part))
			at = at.Add(part)
		}
		wake.EndAt(began.Add(c.grant.wake))
	}
	if queued := c.grant.waited - c.grant.wake; queued > 0 {
		c.traced.call.Child(trace.Internal, "queue", now.Add(-queued)).EndAt(now)
	}
	c.traced.sent = c.traced.call.Child(trace.Client, "handle", now)
	c.traced.sent.Inject(h)
}

// endSpans ends the spans of a call that is over.
func (c *call) endSpans() {
	t := &c.traced
	if c.grant.replica != nil {
		t.sent.Text("graphene.replica", c.grant.replica.ID)
	}
	t.sent.Timings(t.timings)
	t.call.Number("http.response.status_code", c.status)
	if c.resent {
		t.call.Text("graphene.resent", "true")
	}
	switch {
	case t.failure != nil:
		t.call.Fail(t.failure.Error())
	case c.status >= http.StatusInternalServerError:
		t.call.Fail(http.StatusText(c.status))
		t.sent.Fail(http.StatusText(c.status))
	}
	t.sent.End()
	t.call.End()
}

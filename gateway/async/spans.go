package async

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/function"
)

// beginSubmission begins the span of a submission, and makes all that comes of
// the call a part of it, by the headers that are stored with the call.
func (a *API) beginSubmission(r *http.Request, s Submission) *trace.Span {
	if a.o.Tracer == nil {
		return nil
	}
	span := a.o.Tracer.Start(r.Context(), trace.Producer, "submit "+s.Function.String(), r.Header, time.Now())
	about(span, s.Function)
	span.Inject(s.Request.Header)
	return span
}

// beginTry begins the span of one try, as a part of the call's submission.
func (w *Worker) beginTry(ctx context.Context, d *delivery, started time.Time) {
	if w.o.Tracer == nil {
		return
	}
	d.span = w.o.Tracer.Start(ctx, trace.Consumer, "try "+d.Ref.String(), d.Request.Header, started)
	about(d.span, d.Ref)
	d.span.Text("graphene.call_id", d.ID)
	d.span.Number("graphene.try", len(d.Tries)+1)
	d.span.Text("graphene.queue", d.Queue)
}

// endTry ends it, with what became of the call.
func (d *delivery) endTry(v verdict, a *answer) {
	if d.span == nil {
		return
	}
	d.span.Text("graphene.verdict", map[verdict]string{
		settle: "done", giveBack: "no room", tryAgain: "again", bury: "dead", callItOff: "cancelled",
	}[v])
	d.span.Number("http.response.status_code", a.status)
	if v != settle {
		d.span.Fail(cmp.Or(http.StatusText(a.status), a.reason))
	}
	d.span.End()
	d.span = nil
}

// begin begins the span of one delivery of a callback.
func (c *callbacks) begin(ctx context.Context, cb callback) *trace.Span {
	if c.w.o.Tracer == nil {
		return nil
	}
	span := c.w.o.Tracer.Start(ctx, trace.Client, "callback", cb.Header, time.Now())
	span.Text("graphene.call_id", cb.Call)
	span.Number("graphene.try", cb.Tries+1)
	return span
}

func endCallback(span *trace.Span, o outcome, err error) {
	if err != nil {
		span.Number("http.response.status_code", o.status)
		span.Fail(err.Error())
	}
	span.End()
}

// about notes which function a span is about.
func about(span *trace.Span, ref function.Ref) {
	span.Text("faas.invoked_name", ref.Name)
	span.Text("graphene.namespace", ref.Namespace)
}

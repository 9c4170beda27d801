// Package trace tells an OpenTelemetry collector what became of calls: a span
// for each call of a function, for the submission of an asynchronous one, for
// each of its tries, and for its callback, tied together by W3C's traceparent.
//
// A nil [Tracer] makes nil [Span]s, and every method of those does nothing: a
// program that nobody asked for spans has none of their cost. It is the home of
// the OpenTelemetry libraries; watchdogs, which are in every function, do
// without, and say in the header Server-Timing what spans tell of them.
//
// Start with [Open].
package trace

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// flushTimeout bounds how long Close waits for a collector.
const flushTimeout = 5 * time.Second

// A Tracer makes spans and sends them to a collector, some seconds later and
// many at once. Its methods are safe for concurrent use.
type Tracer struct {
	provider *sdk.TracerProvider
	spans    trace.Tracer
}

// Open returns a Tracer for the program that service names, or nil if c does
// not ask for spans. It must be closed. A collector that cannot be reached is
// no error: spans are lost then, and the log says so.
func Open(ctx context.Context, c Settings, service, version string, log *slog.Logger) (*Tracer, error) {
	if !c.asked() {
		return nil, nil
	}
	options, err := c.exporter()
	if err != nil {
		return nil, err
	}
	sampler, err := c.sampler()
	if err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, err
	}
	about, err := c.resource(service, version)
	if err != nil {
		return nil, errors.Join(err, exporter.Shutdown(ctx))
	}
	provider := sdk.NewTracerProvider(
		sdk.WithBatcher(&logged{SpanExporter: exporter, log: log}),
		sdk.WithResource(resource.NewSchemaless(about...)),
		sdk.WithSampler(sampler),
	)
	return &Tracer{provider: provider, spans: provider.Tracer("github.com/graphene-faas/graphene")}, nil
}

// Close sends what has not been sent, for at most five seconds, also if ctx has
// ended. Spans that end later are lost.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	return t.provider.Shutdown(ctx)
}

// logged says in the log what cannot be sent, once per failure of the
// collector and not once per batch.
type logged struct {
	sdk.SpanExporter
	log  *slog.Logger
	lost bool // the last batch; the SDK sends one at a time
}

func (l *logged) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := l.SpanExporter.ExportSpans(ctx, spans)
	if lost := err != nil; lost != l.lost {
		if l.lost = lost; lost {
			l.log.Warn("spans cannot be sent and are lost", "err", err)
		} else {
			l.log.Info("spans are sent again")
		}
	}
	return nil // or the SDK would log it in a way of its own
}

// A Kind says which side of a conversation a span is.
type Kind = trace.SpanKind

const (
	Server   = trace.SpanKindServer   // answers a request
	Client   = trace.SpanKindClient   // sends a request and waits for the answer
	Producer = trace.SpanKindProducer // hands over what is done later
	Consumer = trace.SpanKindConsumer // does what was handed over
	Internal = trace.SpanKindInternal
)

// A Span is one part of what happened. It is used by one goroutine at a time.
type Span struct {
	tracer *Tracer
	ctx    context.Context // carries the span to its children
	span   trace.Span
}

// Start begins a span at a time that may be past. Its parent is the span whose
// traceparent is in h; without one it begins a trace. It returns nil for a nil
// Tracer.
func (t *Tracer) Start(ctx context.Context, kind Kind, name string, h http.Header, begun time.Time) *Span {
	if t == nil {
		return nil
	}
	return t.start(propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(h)), kind, name, begun)
}

func (t *Tracer) start(parent context.Context, kind Kind, name string, begun time.Time) *Span {
	ctx, span := t.spans.Start(parent, name, trace.WithSpanKind(kind), trace.WithTimestamp(begun))
	return &Span{tracer: t, ctx: ctx, span: span}
}

// Child begins a part of s.
func (s *Span) Child(kind Kind, name string, begun time.Time) *Span {
	if s == nil {
		return nil
	}
	return s.tracer.start(s.ctx, kind, name, begun)
}

// Inject makes s the parent of whatever the receiver of h does, by W3C's
// traceparent and tracestate.
func (s *Span) Inject(h http.Header) {
	if s != nil {
		propagation.TraceContext{}.Inject(s.ctx, propagation.HeaderCarrier(h))
	}
}

// Text notes a text about s. An empty one is left out.
func (s *Span) Text(key, value string) {
	if s != nil && value != "" {
		s.span.SetAttributes(attribute.String(key, value))
	}
}

// Number notes a number about s.
func (s *Span) Number(key string, value int) {
	if s != nil {
		s.span.SetAttributes(attribute.Int(key, value))
	}
}

// Timings notes what the values of a Server-Timing header say, each metric
// as an attribute with its seconds: "handler;dur=12.5" becomes
// graphene.timing.handler=0.0125. What is not of that form is left out.
func (s *Span) Timings(values []string) {
	if s == nil {
		return
	}
	for _, value := range values {
		for metric := range strings.SplitSeq(value, ",") {
			name, parameters, _ := strings.Cut(strings.TrimSpace(metric), ";")
			for parameter := range strings.SplitSeq(parameters, ";") {
				text, ok := strings.CutPrefix(strings.TrimSpace(parameter), "dur=")
				if !ok || name == "" {
					continue
				}
				if ms, err := strconv.ParseFloat(text, 64); err == nil {
					s.span.SetAttributes(attribute.Float64("graphene.timing."+name, ms/1000))
				}
			}
		}
	}
}

// Fail says that what s stands for went wrong, and why.
func (s *Span) Fail(reason string) {
	if s != nil {
		s.span.SetStatus(codes.Error, reason)
	}
}

// End ends s now.
func (s *Span) End() {
	if s != nil {
		s.span.End()
	}
}

// EndAt ends s at a time that is past.
func (s *Span) EndAt(at time.Time) {
	if s != nil {
		s.span.End(trace.WithTimestamp(at))
	}
}

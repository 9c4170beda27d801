// Package metrics counts what the gateway does, under the names that OpenFaaS
// dashboards and recording rules already query.
//
// Every gateway has a registry of its own, so that several can live in one
// process. What a function was called is held in a [Function], which the
// request path keeps, so that counting costs no look-up; replica counts are
// read from the route table when somebody asks for them. The series of a
// function end when it is removed.
package metrics

import (
	"iter"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// A Definition describes one metric for people and for the registry.
type Definition struct {
	Name   string
	Kind   string // counter, gauge or histogram
	Labels []string
	Help   string
}

var (
	functionsSeconds = Definition{"gateway_functions_seconds", "histogram", []string{"function_name", "code"},
		"Time from the arrival of a call to the end of its answer, in seconds."}
	invocationTotal = Definition{"gateway_function_invocation_total", "counter", []string{"function_name", "code"},
		"Calls answered, by the status of the answer."}
	invocationStarted = Definition{"gateway_function_invocation_started", "counter", []string{"function_name"},
		"Calls that arrived."}
	invocationInflight = Definition{"gateway_function_invocation_inflight", "gauge", []string{"function_name"},
		"Calls that arrived and are not answered yet, waiting ones included."}
	serviceCount = Definition{"gateway_service_count", "gauge", []string{"function_name"},
		"Replicas a function should have."}
	serviceReadyCount = Definition{"gateway_service_ready_count", "gauge", []string{"function_name"},
		"Replicas that are ready to take calls."}
	serviceTier = Definition{"gateway_service_tier_count", "gauge", []string{"function_name", "tier"},
		"Replicas by how warm they are: hot, frozen or zygote; and 1 for asleep, without any."}
	serviceMin = Definition{"gateway_service_min", "gauge", []string{"function_name"},
		"Replicas a function is woken with."}
	requestsTotal = Definition{"http_requests_total", "counter", []string{"method", "path", "status"},
		"Requests to the management API answered. The path is that of the route, not of the request."}
	requestSeconds = Definition{"http_request_duration_seconds", "histogram", []string{"method", "path", "status"},
		"Time the management API took to answer, in seconds."}
)

// Definitions lists the gateway's own metrics. The registry also holds those
// of the Go runtime (go_*) and of the process (process_*).
func Definitions() []Definition {
	return []Definition{
		functionsSeconds, invocationTotal, invocationStarted, invocationInflight,
		serviceCount, serviceReadyCount, serviceMin, serviceTarget, serviceTier,
		requestsTotal, requestSeconds,
		queueSubmitted, queueProcessed, queueInflight, queuePending, queueAge, queueReconnects,
		identityRules, identityIssuer, identityRefused,
	}
}

// Metrics is one gateway's registry. It is safe for concurrent use.
type Metrics struct {
	registry  *prometheus.Registry
	functions *functions

	requests       *prometheus.CounterVec
	requestSeconds *prometheus.HistogramVec
}

// New returns an empty registry. Each time the metrics are read, services
// yields every function the gateway knows; nil is none.
func New(services iter.Seq[function.Endpoints]) *Metrics {
	m := &Metrics{
		registry:       prometheus.NewRegistry(),
		functions:      newFunctions(),
		requests:       counterVec(requestsTotal),
		requestSeconds: histogramVec(requestSeconds),
	}
	m.registry.MustRegister(
		m.functions.seconds, m.functions.total, m.functions.started, m.functions.inflight,
		m.requests, m.requestSeconds,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	if services != nil {
		m.registry.MustRegister(newServices(services))
	}
	return m
}

// Handler answers with the metrics in the format the caller asks for.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Route counts the requests to next under path, which is the pattern of a
// route: paths as callers send them would make as many series.
func (m *Metrics) Route(path string, next http.Handler) http.Handler {
	return web.Observe(next, func(r *http.Request, o web.Observation) {
		status := strconv.Itoa(o.Status)
		m.requests.WithLabelValues(r.Method, path, status).Inc()
		m.requestSeconds.WithLabelValues(r.Method, path, status).Observe(o.Duration.Seconds())
	})
}

func counterVec(d Definition) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: d.Name, Help: d.Help}, d.Labels)
}

func gaugeVec(d Definition) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: d.Name, Help: d.Help}, d.Labels)
}

func histogramVec(d Definition) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: d.Name, Help: d.Help}, d.Labels)
}

// A services collector reads replica counts from the route table.
type services struct {
	all                     iter.Seq[function.Endpoints]
	count, ready, min, tier *prometheus.Desc
}

func newServices(all iter.Seq[function.Endpoints]) *services {
	desc := func(d Definition) *prometheus.Desc { return prometheus.NewDesc(d.Name, d.Help, d.Labels, nil) }
	return &services{all: all, count: desc(serviceCount), ready: desc(serviceReadyCount), min: desc(serviceMin), tier: desc(serviceTier)}
}

func (s *services) Describe(ch chan<- *prometheus.Desc) {
	ch <- s.count
	ch <- s.ready
	ch <- s.min
	ch <- s.tier
}

func (s *services) Collect(ch chan<- prometheus.Metric) {
	for e := range s.all {
		ready := 0
		tiers := map[function.Tier]int{}
		for _, r := range e.Replicas {
			if r.Ready {
				ready++
			}
			tiers[r.Tier]++
		}
		if e.Tier() == function.Asleep {
			tiers[function.Asleep] = 1
		}
		name := e.Ref.String()
		gauge := func(d *prometheus.Desc, v int, labels ...string) prometheus.Metric {
			return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), append([]string{name}, labels...)...)
		}
		ch <- gauge(s.count, e.Desired)
		ch <- gauge(s.ready, ready)
		ch <- gauge(s.min, e.Min)
		for _, tier := range []function.Tier{function.Hot, function.Frozen, function.Zygote, function.Asleep} {
			ch <- gauge(s.tier, tiers[tier], tier.String())
		}
	}
}

package watchdog

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// latencyBuckets are upper bounds in seconds, those that dashboards for
// of-watchdog expect.
var latencyBuckets = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// metrics counts calls and writes itself in Prometheus' text format.
type metrics struct {
	mu     sync.Mutex
	calls  map[callLabels]*callCounts
	recent callLabels  // of the last call, since the next is likely to be the same
	counts *callCounts // of recent
}

type callLabels struct {
	code   int
	method string
}

type callCounts struct {
	buckets [len(latencyBuckets)]uint64 // not cumulative; the rest is beyond the last
	count   uint64
	seconds float64
}

func newMetrics() *metrics { return &metrics{calls: map[callLabels]*callCounts{}} }

func (m *metrics) observe(method string, status int, d time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
	default:
		method = "unknown" // a client may invent any number of methods
	}
	seconds := d.Seconds()
	labels := callLabels{status, method}
	m.mu.Lock()
	defer m.mu.Unlock()
	if labels != m.recent || m.counts == nil {
		if m.calls[labels] == nil {
			m.calls[labels] = &callCounts{}
		}
		m.recent, m.counts = labels, m.calls[labels]
	}
	c := m.counts
	c.count++
	c.seconds += seconds
	for i, bound := range latencyBuckets {
		if seconds <= bound {
			c.buckets[i]++
			break
		}
	}
}

func (m *metrics) write(w io.Writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	order := slices.SortedFunc(maps.Keys(m.calls), func(a, b callLabels) int {
		return cmp.Or(cmp.Compare(a.code, b.code), strings.Compare(a.method, b.method))
	})
	writeHelp(w, "http_requests_total", "counter", "Calls answered.")
	for _, l := range order {
		fmt.Fprintf(w, "http_requests_total{code=\"%d\",method=%q} %d\n", l.code, l.method, m.calls[l].count)
	}
	writeHelp(w, "http_request_duration_seconds", "histogram", "Time from a call's arrival to the end of its answer.")
	for _, l := range order {
		c := m.calls[l]
		var sum uint64
		for i, bound := range latencyBuckets {
			sum += c.buckets[i]
			fmt.Fprintf(w, "http_request_duration_seconds_bucket{code=\"%d\",method=%q,le=\"%g\"} %d\n", l.code, l.method, bound, sum)
		}
		fmt.Fprintf(w, "http_request_duration_seconds_bucket{code=\"%d\",method=%q,le=\"+Inf\"} %d\n", l.code, l.method, c.count)
		fmt.Fprintf(w, "http_request_duration_seconds_sum{code=\"%d\",method=%q} %g\n", l.code, l.method, c.seconds)
		fmt.Fprintf(w, "http_request_duration_seconds_count{code=\"%d\",method=%q} %d\n", l.code, l.method, c.count)
	}
}

func writeHelp(w io.Writer, name, kind, help string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// metricCPU is what gateways scale by in the mode cpu.
const metricCPU = "function_cpu_seconds_total"

func (wd *Watchdog) serveMetricsText(w http.ResponseWriter, r *http.Request) {
	if !isGet(w, r) {
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	wd.metrics.write(w)
	writeHelp(w, "http_requests_in_flight", "gauge", "Calls running now.")
	fmt.Fprintf(w, "http_requests_in_flight %d\n", wd.calls.running())
	if used, ok := cpuTime(); ok {
		writeHelp(w, metricCPU, "counter", "Processor time that all processes of the replica have used.")
		fmt.Fprintf(w, metricCPU+" %g\n", used.Seconds())
	}
	wd.mode.writeMetrics(w)
}

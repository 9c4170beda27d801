package metrics

import (
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/graphene-faas/graphene/internal/function"
)

// functions holds the series of every function.
type functions struct {
	seconds  *prometheus.HistogramVec
	total    *prometheus.CounterVec
	started  *prometheus.CounterVec
	inflight *prometheus.GaugeVec

	mu    sync.Mutex // guards known, and the series of one function against its removal
	known map[function.Ref]*Function
}

func newFunctions() *functions {
	return &functions{
		seconds:  histogramVec(functionsSeconds),
		total:    counterVec(invocationTotal),
		started:  counterVec(invocationStarted),
		inflight: gaugeVec(invocationInflight),
		known:    map[function.Ref]*Function{},
	}
}

// Function counts the calls of one function. It is safe for concurrent use,
// also after [Metrics.Forget], when it counts for nobody.
type Function struct {
	all  *functions
	name string

	started  prometheus.Counter
	inflight prometheus.Gauge
	finished atomic.Uint64
	// codes is replaced, never changed, so that reading it takes no lock.
	codes     atomic.Pointer[map[int]series]
	forgotten bool // guarded by all.mu
}

// series are those of one function and one status.
type series struct {
	total   prometheus.Counter
	seconds prometheus.Observer
}

// Function returns the counters of ref. The caller keeps them as long as ref
// is deployed.
func (m *Metrics) Function(ref function.Ref) *Function {
	all := m.functions
	all.mu.Lock()
	defer all.mu.Unlock()
	if f, ok := all.known[ref]; ok {
		return f
	}
	name := ref.String()
	f := &Function{
		all:      all,
		name:     name,
		started:  all.started.WithLabelValues(name),
		inflight: all.inflight.WithLabelValues(name),
	}
	f.codes.Store(&map[int]series{})
	all.known[ref] = f
	return f
}

// Forget ends the series of ref. A function of the same name that is deployed
// later starts from zero.
func (m *Metrics) Forget(ref function.Ref) {
	all := m.functions
	all.mu.Lock()
	defer all.mu.Unlock()
	f, ok := all.known[ref]
	if !ok {
		return
	}
	f.forgotten = true
	delete(all.known, ref)
	labels := prometheus.Labels{"function_name": f.name}
	all.seconds.DeletePartialMatch(labels)
	all.total.DeletePartialMatch(labels)
	all.started.Delete(labels)
	all.inflight.Delete(labels)
}

// Invocations returns how many calls of ref have been answered since the
// gateway started.
func (m *Metrics) Invocations(ref function.Ref) float64 {
	m.functions.mu.Lock()
	defer m.functions.mu.Unlock()
	f, ok := m.functions.known[ref]
	if !ok {
		return 0
	}
	return float64(f.finished.Load())
}

// Started counts a call that arrived. Exactly one call of Finished follows.
func (f *Function) Started() {
	f.started.Inc()
	f.inflight.Inc()
}

// Finished counts the answer to a call: its status, and the time since the
// call arrived.
func (f *Function) Finished(code int, took time.Duration) {
	s, ok := (*f.codes.Load())[code]
	if !ok {
		s = f.add(code)
	}
	s.total.Inc()
	s.seconds.Observe(took.Seconds())
	f.inflight.Dec()
	f.finished.Add(1)
}

// add makes the series of a code that f has not answered before.
func (f *Function) add(code int) series {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	old := *f.codes.Load()
	if s, ok := old[code]; ok {
		return s
	}
	labels := []string{f.name, strconv.Itoa(code)}
	total, seconds := f.all.total, f.all.seconds
	if f.forgotten {
		// The last calls of a removed function must not bring its series back.
		total, seconds = counterVec(invocationTotal), histogramVec(functionsSeconds)
	}
	s := series{total: total.WithLabelValues(labels...), seconds: seconds.WithLabelValues(labels...)}
	codes := maps.Clone(old)
	codes[code] = s
	f.codes.Store(&codes)
	return s
}

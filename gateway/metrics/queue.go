package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/graphene-faas/graphene/internal/function"
)

var (
	queueSubmitted = Definition{"queue_worker_messages_submitted_total", "counter", []string{"queue_name"},
		"Asynchronous calls accepted."}
	queueProcessed = Definition{"queue_worker_messages_processed_total", "counter", []string{"queue_name"},
		"Asynchronous calls that have ended: answered, failed for good, or cancelled while they ran."}
	queueInflight = Definition{"queue_worker_function_invocation_inflight", "gauge", []string{"queue_name", "function_name"},
		"Asynchronous calls that run."}
	queuePending = Definition{"queue_worker_pending_messages", "gauge", []string{"queue_name", "function_name"},
		"Asynchronous calls that wait or run."}
	queueAge = Definition{"queue_worker_oldest_message_age_seconds", "gauge", []string{"queue_name"},
		"Time since the oldest asynchronous call that waits or runs was submitted, in seconds."}
	queueReconnects = Definition{"queue_worker_nats_reconnect_total", "counter", nil,
		"Times that the connection to NATS was lost and made again."}
)

// A QueueState is what a queue holds at one moment.
type QueueState struct {
	Name    string
	Pending map[string]uint64 // calls, by NAME.NAMESPACE
	Oldest  time.Time         // when the oldest of them was submitted; zero if there are none
}

// Queue counts what goes through the queue of asynchronous calls. It is safe
// for concurrent use, and a prometheus.Collector.
type Queue struct {
	submitted, processed *prometheus.CounterVec
	reconnects           prometheus.Counter

	mu      sync.Mutex
	running map[[2]string]int // by queue and function; without zeros, so that functions that are gone leave nothing behind
	states  func(context.Context) ([]QueueState, error)
}

// NewQueue returns counters at zero. [Metrics.AddQueue] shows them.
func NewQueue() *Queue {
	return &Queue{
		submitted:  counterVec(queueSubmitted),
		processed:  counterVec(queueProcessed),
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{Name: queueReconnects.Name, Help: queueReconnects.Help}),
		running:    map[[2]string]int{},
	}
}

// Submitted counts a call that was accepted.
func (q *Queue) Submitted(queue string) { q.submitted.WithLabelValues(queue).Inc() }

// Processed counts a call that has ended.
func (q *Queue) Processed(queue string) { q.processed.WithLabelValues(queue).Inc() }

// Running tells by how much the number of calls that run has changed.
func (q *Queue) Running(queue string, ref function.Ref, delta int) {
	key := [2]string{queue, ref.String()}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running[key] += delta; q.running[key] == 0 {
		delete(q.running, key)
	}
}

// Reconnected counts a connection to NATS that was made again.
func (q *Queue) Reconnected() { q.reconnects.Inc() }

// AddQueue shows q with m's own. Each time the metrics are read, states is
// asked what the queues hold; what it cannot tell is left out.
func (m *Metrics) AddQueue(q *Queue, states func(context.Context) ([]QueueState, error)) {
	q.states = states
	m.registry.MustRegister(q)
}

var (
	inflightDesc = prometheus.NewDesc(queueInflight.Name, queueInflight.Help, queueInflight.Labels, nil)
	pendingDesc  = prometheus.NewDesc(queuePending.Name, queuePending.Help, queuePending.Labels, nil)
	ageDesc      = prometheus.NewDesc(queueAge.Name, queueAge.Help, queueAge.Labels, nil)
)

// Describe implements prometheus.Collector.
func (q *Queue) Describe(ch chan<- *prometheus.Desc) {
	q.submitted.Describe(ch)
	q.processed.Describe(ch)
	q.reconnects.Describe(ch)
	ch <- inflightDesc
	ch <- pendingDesc
	ch <- ageDesc
}

// statesTime bounds how long the queue may take to tell what it holds.
const statesTime = 2 * time.Second

// Collect implements prometheus.Collector.
func (q *Queue) Collect(ch chan<- prometheus.Metric) {
	q.submitted.Collect(ch)
	q.processed.Collect(ch)
	q.reconnects.Collect(ch)
	q.mu.Lock()
	for key, n := range q.running {
		ch <- prometheus.MustNewConstMetric(inflightDesc, prometheus.GaugeValue, float64(n), key[0], key[1])
	}
	q.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), statesTime) //nolint:forbidigo // a collector is given none
	defer cancel()
	states, err := q.states(ctx)
	if err != nil {
		return // the queue is down, and other metrics say so
	}
	for _, s := range states {
		age := 0.0
		if !s.Oldest.IsZero() {
			age = max(0, time.Since(s.Oldest).Seconds())
		}
		ch <- prometheus.MustNewConstMetric(ageDesc, prometheus.GaugeValue, age, s.Name)
		for name, n := range s.Pending {
			ch <- prometheus.MustNewConstMetric(pendingDesc, prometheus.GaugeValue, float64(n), s.Name, name)
		}
	}
}

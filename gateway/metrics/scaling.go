package metrics

import (
	"iter"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/graphene-faas/graphene/internal/function"
)

var serviceTarget = Definition{"gateway_service_target_load", "gauge", []string{"function_name", "scaling_type"},
	"Load that one replica is for, in the unit of the function's type of scaling."}

// AddScaling shows what load replicas are for. Each time the metrics are read,
// services yields every function, and target tells its type of scaling and its
// target.
func (m *Metrics) AddScaling(services iter.Seq[function.Endpoints], target func(function.Endpoints) (function.ScaleType, float64)) {
	desc := prometheus.NewDesc(serviceTarget.Name, serviceTarget.Help, serviceTarget.Labels, nil)
	m.registry.MustRegister(targets{services, target, desc})
}

type targets struct {
	services iter.Seq[function.Endpoints]
	of       func(function.Endpoints) (function.ScaleType, float64)
	desc     *prometheus.Desc
}

func (t targets) Describe(ch chan<- *prometheus.Desc) { ch <- t.desc }

func (t targets) Collect(ch chan<- prometheus.Metric) {
	for e := range t.services {
		kind, load := t.of(e)
		ch <- prometheus.MustNewConstMetric(t.desc, prometheus.GaugeValue, load, e.Ref.String(), string(kind))
	}
}

package metrics

import "github.com/prometheus/client_golang/prometheus"

var (
	identityRules = Definition{"gateway_auth_rules_valid", "gauge", nil,
		"1 if the file of issuers, policies and roles could be read when it last changed; while it is 0, what it said before is in force."}
	identityIssuer = Definition{"gateway_auth_issuer_up", "gauge", []string{"issuer"},
		"1 if an issuer answered when it was last asked for its keys; while it is 0, the keys that are known go on working."}
	identityRefused = Definition{"gateway_auth_tokens_refused_total", "counter", []string{"issuer"},
		"Tokens that were refused, by the issuer they claim to be from; unknown is one that is not trusted, or none."}
)

// An Identity counts what the verification of tokens does. It is safe for
// concurrent use.
type Identity struct {
	rules   prometheus.Gauge
	issuers *prometheus.GaugeVec
	refused *prometheus.CounterVec
}

// NewIdentity returns counters at zero. [Metrics.AddIdentity] shows them.
func NewIdentity() *Identity {
	return &Identity{
		rules:   prometheus.NewGauge(prometheus.GaugeOpts{Name: identityRules.Name, Help: identityRules.Help}),
		issuers: gaugeVec(identityIssuer),
		refused: counterVec(identityRefused),
	}
}

// AddIdentity shows i with the other metrics.
func (m *Metrics) AddIdentity(i *Identity) {
	m.registry.MustRegister(i.rules, i.issuers, i.refused)
}

// Rules tells whether the file of rules could be read when it last changed.
func (i *Identity) Rules(valid bool) { i.rules.Set(truth(valid)) }

// Issuer tells whether an issuer answered when it was last asked.
func (i *Identity) Issuer(name string, answers bool) {
	i.issuers.WithLabelValues(name).Set(truth(answers))
}

// IssuerGone ends the series of an issuer.
func (i *Identity) IssuerGone(name string) {
	i.issuers.DeleteLabelValues(name)
	i.refused.DeleteLabelValues(name)
}

// Refused counts a token. The issuer is "" if it is none of the trusted ones.
func (i *Identity) Refused(issuer string) {
	if issuer == "" {
		issuer = "unknown"
	}
	i.refused.WithLabelValues(issuer).Inc()
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

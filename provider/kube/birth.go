package kube

import (
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/graphene-faas/graphene/internal/function"
)

// A birth is what was seen of the start of a pod, by our own clock: those of
// Kubernetes count in whole seconds.
type birth struct {
	placed    time.Time     // when it had a node; zero if that was not seen to happen
	addressed time.Time     // when it had an address
	pulled    time.Duration // what its image took
}

// see notes how far p is at a time.
func (b *birth) see(p *corev1.Pod, now time.Time) {
	if !b.addressed.IsZero() {
		return
	}
	if p.Status.PodIP != "" {
		b.addressed = now
		return
	}
	if b.placed.IsZero() && scheduled(p).Status == corev1.ConditionTrue {
		b.placed = now
	}
}

// startup is what the start has taken, if it was seen.
func (b *birth) startup() function.Startup {
	if b.placed.IsZero() || b.addressed.IsZero() {
		return function.Startup{}
	}
	all := b.addressed.Sub(b.placed)
	pull := min(b.pulled, all)
	return function.Startup{Pull: function.Duration(pull), Start: function.Duration(all - pull)}
}

// reasonPulled is that of the event by which the kubelet tells that a pod has
// its image.
const reasonPulled = "Pulled"

// pulledIn finds in such an event how long that has taken, with the time until
// the kubelet came to it.
var pulledIn = regexp.MustCompile(` in [0-9.a-zµ]+ \(([0-9.a-zµ]+) including waiting\)`)

// pullTime returns how long an image took to come, by what the kubelet says of
// it; 0 if it was there or nothing is said.
func pullTime(message string) time.Duration {
	said := pulledIn.FindStringSubmatch(message)
	if said == nil {
		return 0
	}
	took, err := time.ParseDuration(said[1])
	if err != nil {
		return 0
	}
	return took
}

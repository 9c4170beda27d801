package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8stypes "k8s.io/apimachinery/pkg/types"

	"github.com/graphene-faas/graphene/internal/function"
)

// loadFor is how long a gateway's report counts: one that has died has no
// calls in flight any more.
const loadFor = 10 * time.Second

// loads are the calls in flight, as gateways report them.
type loads struct {
	mu       sync.Mutex // guards what follows
	gateways map[string]load
	marks    map[marked]time.Time // when those pods were last known to be busy
}

type load struct {
	at       time.Time
	inFlight map[function.Ref]map[string]int // by pod
}

func newLoads() *loads { return &loads{gateways: map[string]load{}, marks: map[marked]time.Time{}} }

// ReportLoad notes how many calls one gateway has in flight, by function and
// replica. Each report replaces the gateway's last one and counts for ten
// seconds.
func (r *Runtime) ReportLoad(gateway string, inFlight map[function.Ref]map[string]int) {
	r.loads.report(gateway, inFlight, time.Now())
}

func (l *loads) report(gateway string, inFlight map[function.Ref]map[string]int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, old := range l.gateways {
		if now.Sub(old.at) > loadFor {
			delete(l.gateways, name)
		}
	}
	l.gateways[gateway] = load{now, inFlight}
}

// of returns the calls in flight of a function, by pod.
func (l *loads) of(ref function.Ref, now time.Time) map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := map[string]int{}
	for _, g := range l.gateways {
		if now.Sub(g.at) > loadFor {
			continue
		}
		for pod, n := range g.inFlight[ref] {
			sum[pod] += n
		}
	}
	return sum
}

// refs returns the functions that have calls in flight, or marked pods.
func (l *loads) refs(now time.Time) []function.Ref {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := map[function.Ref]bool{}
	for m := range l.marks {
		found[m.ref] = true
	}
	for _, g := range l.gateways {
		if now.Sub(g.at) > loadFor {
			continue
		}
		for ref := range g.inFlight {
			found[ref] = true
		}
	}
	return slices.Collect(maps.Keys(found))
}

// Others than us scale down too: people by kubectl, a HorizontalPodAutoscaler.
// For them the pods of functions of which some are busy and others are not are
// marked, now and then: those that are busy cost something.
const (
	// costsEvery is the time between two looks at which pods to mark.
	costsEvery = 5 * time.Second
	// costsKept is for how long a pod must have been idle for its mark to go.
	costsKept = 30 * time.Second
	// mostCosts bounds how many pods are marked at one look.
	mostCosts = 20
	// costsAtOnce bounds how many pods are annotated at a time.
	costsAtOnce = 8
)

// A marked pod is one that this process has marked as busy.
type marked struct {
	ref function.Ref
	pod string
}

// keepCosts marks busy pods until ctx ends. Each provider does so by what is
// reported to it, and takes away only marks of its own, since others may know
// better of those of theirs.
func (r *Runtime) keepCosts(ctx context.Context) {
	tick := time.NewTicker(costsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, left := time.Now(), mostCosts
		for _, ref := range r.loads.refs(now) {
			s, err := r.seen.look(ref)
			if err != nil {
				s = snapshot{} // it was removed, and its pods go in any order
			}
			changes := r.loads.costs(ref, s, now, left)
			left -= len(changes)
			r.setCosts(ctx, ref, changes)
		}
	}
}

// costs is the function of that name, of what is reported.
func (l *loads) costs(ref function.Ref, s snapshot, now time.Time, most int) map[string]string {
	busy := l.of(ref, now)
	l.mu.Lock()
	defer l.mu.Unlock()
	return costs(ref, s, busy, l.marks, now, most)
}

// exactCosts returns what the pods of one function should cost, of those for
// which that changes: as much as they have calls.
func (l *loads) exactCosts(ref function.Ref, s snapshot, now time.Time) map[string]string {
	busy := l.of(ref, now)
	l.mu.Lock()
	defer l.mu.Unlock()
	changes := map[string]string{}
	for name, p := range s.pods {
		cost := strconv.Itoa(busy[name])
		if serves(s.function, p) && cost != p.Annotations[annotationCost] && (busy[name] > 0 || p.Annotations[annotationCost] != "") {
			changes[name] = cost
		}
		if busy[name] > 0 {
			l.marks[marked{ref, name}] = now
		}
	}
	return changes
}

// costs returns what at most that many pods of one function should cost from
// now on, of those for which that changes, and notes in last which of them are
// marked and when they were busy.
func costs(ref function.Ref, s snapshot, busy map[string]int, last map[marked]time.Time, now time.Time, most int) map[string]string {
	var pods []*corev1.Pod
	idle := false
	for _, p := range s.pods {
		if serves(s.function, p) {
			pods = append(pods, p)
			idle = idle || busy[p.Name] == 0
		}
	}
	for m := range last {
		if _, there := s.pods[m.pod]; m.ref == ref && !there {
			delete(last, m)
		}
	}
	changes := map[string]string{}
	for _, p := range pods {
		m := marked{ref, p.Name}
		at, ours := last[m]
		costs := p.Annotations[annotationCost] != "" && p.Annotations[annotationCost] != "0"
		switch {
		case busy[p.Name] > 0 && costs && ours:
			last[m] = now
		case busy[p.Name] > 0 && !costs && idle && len(changes) < most:
			changes[p.Name], last[m] = "1", now
		case busy[p.Name] == 0 && ours && now.Sub(at) >= costsKept && len(changes) < most:
			delete(last, m)
			if costs {
				changes[p.Name] = "0"
			}
		}
	}
	return changes
}

// preferIdle has the replicas of a function that do the least removed first
// when it is scaled down. It is done just before, and exactly.
func (r *Runtime) preferIdle(ctx context.Context, s snapshot) {
	ref := function.Ref{Name: s.function.Name, Namespace: s.function.Namespace}
	r.setCosts(ctx, ref, r.loads.exactCosts(ref, s, time.Now()))
}

// setCosts says of pods what their deletion costs.
func (r *Runtime) setCosts(ctx context.Context, ref function.Ref, changes map[string]string) {
	var patches errgroup.Group
	patches.SetLimit(costsAtOnce)
	for name, cost := range changes {
		patches.Go(func() error {
			patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, annotationCost, cost)
			_, err := r.clients.CoreV1().Pods(ref.Namespace).Patch(ctx, name, k8stypes.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: managerScale})
			return err
		})
	}
	if err := patches.Wait(); err != nil && ctx.Err() == nil {
		// The pods that go still finish what they are doing.
		r.Log.Warn("a busy replica may be removed before an idle one", "function", ref, "err", err)
	}
}

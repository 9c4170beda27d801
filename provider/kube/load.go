package kube

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8stypes "k8s.io/apimachinery/pkg/types"

	"github.com/graphene-faas/graphene/internal/function"
)

// loadFor is how long a gateway's report counts: one that has died has no
// calls in flight any more.
const loadFor = 10 * time.Second

// loads are the calls in flight, as gateways report them.
type loads struct {
	mu       sync.Mutex
	gateways map[string]load
}

type load struct {
	at       time.Time
	inFlight map[function.Ref]map[string]int // by pod
}

func newLoads() *loads { return &loads{gateways: map[string]load{}} }

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

// costsAtOnce bounds how many pods are annotated at a time.
const costsAtOnce = 8

// preferIdle has the replicas of a function that do the least removed first
// when it is scaled down. It is done just before, since nobody else asks.
func (r *Runtime) preferIdle(ctx context.Context, s snapshot) {
	ref := function.Ref{Name: s.function.Name, Namespace: s.function.Namespace}
	busy := r.loads.of(ref, time.Now())
	var patches errgroup.Group
	patches.SetLimit(costsAtOnce)
	for name, p := range s.pods {
		cost := strconv.Itoa(busy[name])
		if !serves(s.function, p) || cost == p.Annotations[annotationCost] || busy[name] == 0 && p.Annotations[annotationCost] == "" {
			continue
		}
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

package kube

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// observed is what is known of all functions: what the informers have seen,
// and what this process itself has written and they will see. Reports to
// watchers happen while its lock is held, which keeps them in order.
type observed struct {
	throughService bool
	usable         func(namespace string) bool
	changed        func(function.Ref) // told of everything; must not block

	mu       sync.Mutex
	subjects map[function.Ref]*subject
	watchers map[*watcher]struct{}
}

// A watcher is told about every change of endpoints.
type watcher struct{ report func(function.Event) }

// A subject is one function, or what is left of it.
type subject struct {
	ref      function.Ref
	function *Function // nil: there is none
	gone     types.UID // of a Function that this process has deleted; what the informer still says about it is old
	workload *workload
	service  string // identifies the Service's content; empty: there is none
	pods     map[string]*corev1.Pod
	births   map[string]*birth // of pods
	reported *function.Endpoints
	next     chan struct{} // closed at the next change; nil when nobody waits
}

func newObserved(throughService bool, usable func(string) bool, changed func(function.Ref)) *observed {
	return &observed{
		throughService: throughService,
		usable:         usable,
		changed:        changed,
		subjects:       map[function.Ref]*subject{},
		watchers:       map[*watcher]struct{}{},
	}
}

// newer reports whether an object of version a may replace one of version b.
func newer(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err != nil || order >= 0
}

// change applies a change to one subject and tells whom it concerns.
func (o *observed) change(ref function.Ref, apply func(s *subject)) {
	o.mu.Lock()
	s, known := o.subjects[ref]
	if !known {
		s = &subject{ref: ref, pods: map[string]*corev1.Pod{}, births: map[string]*birth{}}
		o.subjects[ref] = s
	}
	apply(s)
	o.report(s)
	if s.function == nil && s.gone == "" && s.workload == nil && s.service == "" && len(s.pods) == 0 {
		delete(o.subjects, ref)
	}
	o.mu.Unlock()
	o.changed(ref)
}

// report tells watchers and waiters about s if it has changed. o.mu is held.
func (o *observed) report(s *subject) {
	if s.next != nil {
		close(s.next)
		s.next = nil
	}
	if s.function == nil || !o.usable(s.ref.Namespace) {
		if s.reported != nil {
			s.reported = nil
			o.tell(function.Event{Removed: &s.ref})
		}
		return
	}
	e := endpoints(s.function, s.workload, s.pods, o.throughService)
	for i, rep := range e.Replicas {
		if b, known := s.births[rep.ID]; known {
			e.Replicas[i].Startup = b.startup()
		}
	}
	if s.reported != nil && reflect.DeepEqual(*s.reported, e) {
		return
	}
	s.reported = &e
	o.tell(function.Event{Endpoints: &e})
}

func (o *observed) tell(e function.Event) {
	for w := range o.watchers {
		w.report(e)
	}
}

// watch begins to report to w, with all there is.
func (o *observed) watch(w *watcher) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.watchers[w] = struct{}{}
	for _, s := range o.subjects {
		if s.reported != nil {
			w.report(function.Event{Endpoints: s.reported})
		}
	}
	w.report(function.Event{Synced: true})
}

func (o *observed) unwatch(w *watcher) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.watchers, w)
}

func (o *observed) setFunction(f *Function) {
	o.change(function.Ref{Name: f.Name, Namespace: f.Namespace}, func(s *subject) {
		switch {
		case f.UID == s.gone:
		case f.DeletionTimestamp != nil:
			if s.function != nil && s.function.UID == f.UID {
				s.function = nil
			}
		case s.function == nil || s.function.UID != f.UID || newer(f.ResourceVersion, s.function.ResourceVersion):
			s.function = f
		}
	})
}

// dropFunction notes that a Function is gone. asked: this process has deleted
// it, and the informer does not know yet.
func (o *observed) dropFunction(ref function.Ref, uid types.UID, asked bool) {
	o.change(ref, func(s *subject) {
		switch {
		case asked && s.function != nil && s.function.UID == uid:
			s.gone = uid
		case asked: // the informer was faster
		case s.gone == uid:
			s.gone = ""
		}
		if s.function != nil && s.function.UID == uid {
			s.function = nil
		}
	})
}

func (o *observed) setWorkload(ref function.Ref, w *workload) {
	o.change(ref, func(s *subject) {
		if s.workload == nil || s.workload.uid != w.uid || newer(w.resourceVersion, s.workload.resourceVersion) {
			s.workload = w
		}
	})
}

func (o *observed) dropWorkload(ref function.Ref, uid types.UID) {
	o.change(ref, func(s *subject) {
		if s.workload != nil && s.workload.uid == uid {
			s.workload = nil
		}
	})
}

// scaled notes that the number of replicas has been set.
func (o *observed) scaled(ref function.Ref, replicas int, resourceVersion string) {
	o.change(ref, func(s *subject) {
		if s.workload == nil || !newer(resourceVersion, s.workload.resourceVersion) {
			return
		}
		w := *s.workload
		w.replicas, w.resourceVersion = replicas, resourceVersion
		if w.replicas != s.workload.replicas {
			w.settled = false
		}
		s.workload = &w
	})
}

func (o *observed) setService(ref function.Ref, spec string) {
	o.change(ref, func(s *subject) { s.service = spec })
}

func (o *observed) setPod(p *corev1.Pod) {
	o.change(refOf(p), func(s *subject) {
		s.pods[p.Name] = p
		s.birth(p.Name).see(p, time.Now())
	})
}

func (o *observed) dropPod(p *corev1.Pod) {
	o.change(refOf(p), func(s *subject) {
		delete(s.pods, p.Name)
		delete(s.births, p.Name)
	})
}

// pulled notes how long the image of a pod took to come. Of pods that are not
// known, such as those that are no function's, it takes no note.
func (o *observed) pulled(namespace, pod string, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for ref, s := range o.subjects {
		if _, its := s.pods[pod]; its && ref.Namespace == namespace {
			s.birth(pod).pulled = took
			return
		}
	}
}

func (s *subject) birth(pod string) *birth {
	b, known := s.births[pod]
	if !known {
		b = &birth{}
		s.births[pod] = b
	}
	return b
}

// reconsider looks again at all functions of a namespace, which has become
// usable or has ceased to be.
func (o *observed) reconsider(namespace string) {
	var refs []function.Ref
	o.mu.Lock()
	for ref, s := range o.subjects {
		if ref.Namespace == namespace {
			o.report(s)
			refs = append(refs, ref)
		}
	}
	o.mu.Unlock()
	for _, ref := range refs {
		o.changed(ref)
	}
}

// A snapshot is a subject at one moment.
type snapshot struct {
	function *Function
	workload *workload
	service  string
	ready    int // replicas of any version
	pods     map[string]*corev1.Pod
}

func (s *subject) snapshot() snapshot {
	shot := snapshot{function: s.function, workload: s.workload, service: s.service}
	for _, p := range s.pods {
		if s.function != nil && serves(s.function, p) && isReady(p) {
			shot.ready++
		}
	}
	return shot
}

// look returns what is known of a function that is deployed where functions
// may be, or fault.NotFound.
func (o *observed) look(ref function.Ref) (snapshot, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s, known := o.subjects[ref]
	if !known || s.function == nil || !o.usable(ref.Namespace) {
		return snapshot{}, fault.NotFound.Errorf("function %s is not deployed", ref)
	}
	shot := s.snapshot()
	shot.pods = maps.Clone(s.pods)
	// Those of a function of this name that was removed are on their way out.
	maps.DeleteFunc(shot.pods, func(_ string, p *corev1.Pod) bool { return !belongs(s.function, p) })
	return shot, nil
}

// changes returns a channel that is closed when something about a function has
// changed.
func (o *observed) changes(ref function.Ref) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	s, known := o.subjects[ref]
	if !known { // and so it is about to
		ready := make(chan struct{})
		close(ready)
		return ready
	}
	if s.next == nil {
		s.next = make(chan struct{})
	}
	return s.next
}

// refs returns all functions that are deployed somewhere.
func (o *observed) refs() []function.Ref {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []function.Ref
	for ref, s := range o.subjects {
		if s.function != nil {
			all = append(all, ref)
		}
	}
	return all
}

// list returns the functions of a namespace in the order of their names,
// without their pods.
func (o *observed) list(namespace string) []snapshot {
	if !o.usable(namespace) {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []snapshot
	for ref, s := range o.subjects {
		if ref.Namespace == namespace && s.function != nil {
			all = append(all, s.snapshot())
		}
	}
	slices.SortFunc(all, func(a, b snapshot) int { return strings.Compare(a.function.Name, b.function.Name) })
	return all
}

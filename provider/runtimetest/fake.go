package runtimetest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// A Fake keeps the contract, secrets and namespaces and logs included, and runs
// nothing: it remembers what it should run. A replica is ready at once, at an
// address that the test serves. Start with [NewFake]. Its methods are safe for
// concurrent use; its fields are set before the first of them is called.
type Fake struct {
	// Refused is an image that cannot be deployed.
	Refused string
	// Fails returns why replicas of a deployment never become ready, "" if
	// they do. Without it all do.
	Fails func(types.FunctionDeployment) string
	// Says returns what a replica prints when it starts, a line a second.
	// Without it that is nothing.
	Says func(types.FunctionDeployment) []string
	// Now is the time at which things are made, by default the real one.
	Now func() time.Time

	address string // of every replica

	mu         sync.Mutex // guards what follows
	functions  map[function.Ref]*faked
	secrets    map[function.Ref]types.Secret
	namespaces map[string]types.FunctionNamespace
	watchers   map[int]func(function.Event)
	watched    int // watchers there ever were
}

// faked is a function of a Fake.
type faked struct {
	types.FunctionStatus
	spec     types.FunctionDeployment
	min      int
	revision int64
	failure  string
	replicas []function.Replica
	started  int // replicas there ever were: each has a name of its own
	lines    []logs.Message
	said     *signal // of lines, and of the function's end
	removed  bool
}

// NewFake returns a fake whose replicas are all at address.
func NewFake(address string) *Fake {
	return &Fake{
		Now:        time.Now,
		address:    address,
		functions:  map[function.Ref]*faked{},
		secrets:    map[function.Ref]types.Secret{},
		namespaces: map[string]types.FunctionNamespace{function.DefaultNamespace: {Name: function.DefaultNamespace}},
		watchers:   map[int]func(function.Event){},
	}
}

// Deploy implements provider.Runtime.
func (f *Fake) Deploy(_ context.Context, d types.FunctionDeployment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Refused != "" && d.Image == f.Refused {
		return fault.Invalid.Errorf("image %s cannot run here", d.Image)
	}
	scale, err := function.ReadScale(value(d.Labels))
	if err != nil {
		return err
	}
	ref := function.Ref{Name: d.Service, Namespace: d.Namespace}
	fn := f.functions[ref]
	if fn == nil {
		fn = &faked{said: newSignal()}
		f.functions[ref] = fn
	}
	fn.FunctionStatus = types.FunctionStatus{
		Name: d.Service, Namespace: d.Namespace, Image: d.Image, EnvProcess: d.EnvProcess, EnvVars: d.EnvVars,
		Constraints: d.Constraints, Secrets: d.Secrets, Labels: d.Labels, Annotations: d.Annotations, Limits: d.Limits,
		Requests: d.Requests, ReadOnlyRootFilesystem: d.ReadOnlyRootFilesystem, CreatedAt: f.Now(),
		Replicas: max(fn.Replicas, uint64(scale.Min)),
	}
	fn.spec, fn.min = d, scale.Min
	fn.revision++
	if fn.failure = ""; f.Fails != nil {
		fn.failure = f.Fails(d)
	}
	if fn.failure == "" {
		fn.replicas = nil
	}
	f.settle(fn)
	return nil
}

// settle gives fn the replicas it should have, and reports it. The caller holds mu.
func (f *Fake) settle(fn *faked) {
	if n := int(fn.Replicas); n < len(fn.replicas) {
		fn.replicas = fn.replicas[:n:n]
	}
	for fn.failure == "" && len(fn.replicas) < int(fn.Replicas) {
		r := function.Replica{ID: fmt.Sprintf("%s-%d", fn.Name, fn.started), Address: f.address, Revision: fn.revision, Ready: true}
		fn.started++
		fn.replicas = append(slices.Clip(fn.replicas), r)
		if f.Says == nil {
			continue
		}
		for i, line := range f.Says(fn.spec) {
			at := f.Now().Add(time.Duration(i) * time.Second)
			fn.lines = append(fn.lines, logs.Message{Name: fn.Name, Namespace: fn.Namespace, Instance: r.ID, Timestamp: at, Text: line + "\n"})
		}
	}
	fn.AvailableReplicas = uint64(len(fn.replicas))
	fn.said.wake()
	f.report(fn.event())
}

func (fn *faked) event() function.Event {
	annotations := value(fn.Annotations)
	settings, _ := function.ReadSettings(annotations, fn.EnvVars) // the provider has read them before
	return function.Event{Endpoints: &function.Endpoints{
		Ref: function.Ref{Name: fn.Name, Namespace: fn.Namespace}, Revision: fn.revision, Desired: int(fn.Replicas), Min: max(1, fn.min),
		Settings: settings, Annotations: function.CallAnnotations(annotations), Failure: fn.failure, Replicas: fn.replicas,
	}}
}

// report tells everybody who watches. The caller holds mu.
func (f *Fake) report(e function.Event) {
	for _, report := range f.watchers {
		report(e)
	}
}

// find returns a function. The caller holds mu.
func (f *Fake) find(ref function.Ref) (*faked, error) {
	fn, ok := f.functions[ref]
	if !ok {
		return nil, fault.NotFound.Errorf("function %s is not deployed", ref)
	}
	return fn, nil
}

// Remove implements provider.Runtime.
func (f *Fake) Remove(_ context.Context, ref function.Ref) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn, err := f.find(ref)
	if err != nil {
		return err
	}
	delete(f.functions, ref)
	fn.removed = true
	fn.said.wake()
	f.report(function.Event{Removed: &ref})
	return nil
}

// Scale implements provider.Runtime.
func (f *Fake) Scale(_ context.Context, ref function.Ref, replicas int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn, err := f.find(ref)
	if err != nil {
		return err
	}
	fn.Replicas = uint64(replicas)
	f.settle(fn)
	return nil
}

// List implements provider.Runtime.
func (f *Fake) List(_ context.Context, namespace string) ([]types.FunctionStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []types.FunctionStatus
	for _, ref := range sorted(f.functions, namespace) {
		all = append(all, f.functions[ref].FunctionStatus)
	}
	return all, nil
}

// Status implements provider.Runtime.
func (f *Fake) Status(_ context.Context, ref function.Ref) (types.FunctionStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn, err := f.find(ref)
	if err != nil {
		return types.FunctionStatus{}, err
	}
	return fn.FunctionStatus, nil
}

// Usage implements provider.Runtime: it is always the same.
func (f *Fake) Usage(_ context.Context, ref function.Ref) (types.FunctionUsage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.find(ref); err != nil {
		return types.FunctionUsage{}, err
	}
	return types.FunctionUsage{CPU: 12.5, TotalMemoryBytes: 1 << 20}, nil
}

// Watch implements provider.Runtime.
func (f *Fake) Watch(ctx context.Context, report func(function.Event)) error {
	f.mu.Lock()
	for _, fn := range f.functions {
		report(fn.event())
	}
	report(function.Event{Synced: true})
	f.watched++
	id := f.watched
	f.watchers[id] = report
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, id)
	return nil
}

// Query implements provider.Logs.
func (f *Fake) Query(ctx context.Context, r logs.Request) (<-chan logs.Message, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn, err := f.find(function.Ref{Name: r.Name, Namespace: r.Namespace})
	if err != nil {
		return nil, err
	}
	wanted := func(all []logs.Message) []logs.Message {
		return slices.DeleteFunc(slices.Clone(all), func(m logs.Message) bool {
			return r.Instance != "" && r.Instance != m.Instance || r.Since != nil && !m.Timestamp.After(*r.Since)
		})
	}
	said := wanted(fn.lines)
	if r.Tail > 0 {
		said = said[max(0, len(said)-r.Tail):]
	}
	seen := len(fn.lines)
	out := make(chan logs.Message)
	go func() {
		defer close(out)
		for {
			for _, m := range said {
				select {
				case out <- m:
				case <-ctx.Done():
					return
				}
			}
			f.mu.Lock()
			more, over := fn.said.ch, fn.removed || !r.Follow
			said = wanted(fn.lines[seen:])
			seen = len(fn.lines)
			f.mu.Unlock()
			if len(said) > 0 && r.Follow {
				continue
			}
			if over {
				return
			}
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// ListSecrets implements provider.Secrets.
func (f *Fake) ListSecrets(_ context.Context, namespace string) ([]types.Secret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []types.Secret
	for _, ref := range sorted(f.secrets, namespace) {
		all = append(all, types.Secret{Name: ref.Name, Namespace: ref.Namespace})
	}
	return all, nil
}

// CreateSecret implements provider.Secrets.
func (f *Fake) CreateSecret(_ context.Context, s types.Secret) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return put(f.secrets, function.Ref{Name: s.Name, Namespace: s.Namespace}, s, "secret "+s.Name, false)
}

// UpdateSecret implements provider.Secrets.
func (f *Fake) UpdateSecret(_ context.Context, s types.Secret) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return put(f.secrets, function.Ref{Name: s.Name, Namespace: s.Namespace}, s, "secret "+s.Name, true)
}

// DeleteSecret implements provider.Secrets.
func (f *Fake) DeleteSecret(_ context.Context, namespace, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	ref := function.Ref{Name: name, Namespace: namespace}
	if _, ok := f.secrets[ref]; !ok {
		return fault.NotFound.Errorf("secret %s does not exist", name)
	}
	delete(f.secrets, ref)
	return nil
}

// ListNamespaces implements provider.Namespaces.
func (f *Fake) ListNamespaces(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.namespaces)), nil
}

// Namespace implements provider.Namespaces.
func (f *Fake) Namespace(_ context.Context, name string) (types.FunctionNamespace, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.namespaces[name]
	if !ok {
		return n, fault.NotFound.Errorf("namespace %s does not exist", name)
	}
	return n, nil
}

// CreateNamespace implements provider.Namespaces.
func (f *Fake) CreateNamespace(_ context.Context, n types.FunctionNamespace) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return put(f.namespaces, n.Name, n, "namespace "+n.Name, false)
}

// UpdateNamespace implements provider.Namespaces.
func (f *Fake) UpdateNamespace(_ context.Context, n types.FunctionNamespace) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return put(f.namespaces, n.Name, n, "namespace "+n.Name, true)
}

// DeleteNamespace implements provider.Namespaces.
func (f *Fake) DeleteNamespace(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch _, ok := f.namespaces[name]; {
	case !ok:
		return fault.NotFound.Errorf("namespace %s does not exist", name)
	case name == function.DefaultNamespace || len(sorted(f.functions, name)) > 0 || len(sorted(f.secrets, name)) > 0:
		return fault.Invalid.Errorf("namespace %s is in use", name)
	}
	delete(f.namespaces, name)
	return nil
}

// put keeps v in m, which has something of that key or does not, as it should.
func put[K comparable, V any](m map[K]V, key K, v V, what string, there bool) error {
	switch _, ok := m[key]; {
	case ok && !there:
		return fault.Exists.Errorf("%s exists", what)
	case !ok && there:
		return fault.NotFound.Errorf("%s does not exist", what)
	}
	m[key] = v
	return nil
}

// sorted returns what m has of a namespace, by name.
func sorted[V any](m map[function.Ref]V, namespace string) []function.Ref {
	refs := slices.DeleteFunc(slices.Collect(maps.Keys(m)), func(r function.Ref) bool { return r.Namespace != namespace })
	slices.SortFunc(refs, func(a, b function.Ref) int { return cmp.Compare(a.Name, b.Name) })
	return refs
}

func value(m *map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	return *m
}

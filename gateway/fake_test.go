package gateway_test

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// A fakeRuntime runs nothing, and remembers what it should run. Functions are
// ready as soon as they are deployed, at an address the test gives.
type fakeRuntime struct {
	address string

	mu         sync.Mutex // guards what follows
	functions  map[function.Ref]types.FunctionStatus
	secrets    map[function.Ref]types.Secret
	namespaces map[string]types.FunctionNamespace
	report     func(function.Event) // nil until somebody watches
}

func newFakeRuntime(address string) *fakeRuntime {
	return &fakeRuntime{
		address:    address,
		functions:  map[function.Ref]types.FunctionStatus{},
		secrets:    map[function.Ref]types.Secret{},
		namespaces: map[string]types.FunctionNamespace{function.DefaultNamespace: {Name: function.DefaultNamespace}},
	}
}

// created is when every function of the fake was.
var created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (f *fakeRuntime) Deploy(_ context.Context, d types.FunctionDeployment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := types.FunctionStatus{
		Name: d.Service, Namespace: d.Namespace, Image: d.Image, EnvProcess: d.EnvProcess, EnvVars: d.EnvVars,
		Constraints: d.Constraints, Secrets: d.Secrets, Labels: d.Labels, Annotations: d.Annotations, Limits: d.Limits,
		Requests: d.Requests, ReadOnlyRootFilesystem: d.ReadOnlyRootFilesystem,
		Replicas: 1, AvailableReplicas: 1, CreatedAt: created,
	}
	f.set(s)
	return nil
}

// set keeps s and reports it. The caller holds mu.
func (f *fakeRuntime) set(s types.FunctionStatus) {
	ref := function.Ref{Name: s.Name, Namespace: s.Namespace}
	f.functions[ref] = s
	if f.report != nil {
		f.report(f.event(s))
	}
}

func (f *fakeRuntime) event(s types.FunctionStatus) function.Event {
	e := &function.Endpoints{Ref: function.Ref{Name: s.Name, Namespace: s.Namespace}, Desired: int(s.Replicas), Min: 1}
	if s.Annotations != nil {
		e.Annotations = function.CallAnnotations(*s.Annotations)
	}
	if s.AvailableReplicas > 0 {
		e.Replicas = []function.Replica{{ID: "1", Address: f.address, Ready: true}}
	}
	return function.Event{Endpoints: e}
}

func (f *fakeRuntime) Remove(_ context.Context, ref function.Ref) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.functions[ref]; !ok {
		return fault.NotFound.Errorf("function %s is not deployed", ref)
	}
	delete(f.functions, ref)
	if f.report != nil {
		f.report(function.Event{Removed: &ref})
	}
	return nil
}

func (f *fakeRuntime) Scale(_ context.Context, ref function.Ref, replicas int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.functions[ref]
	if !ok {
		return fault.NotFound.Errorf("function %s is not deployed", ref)
	}
	s.Replicas, s.AvailableReplicas = uint64(replicas), uint64(replicas)
	f.set(s)
	return nil
}

func (f *fakeRuntime) List(_ context.Context, namespace string) ([]types.FunctionStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []types.FunctionStatus
	for ref, s := range f.functions {
		if ref.Namespace == namespace {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b types.FunctionStatus) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

func (f *fakeRuntime) Status(_ context.Context, ref function.Ref) (types.FunctionStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.functions[ref]
	if !ok {
		return s, fault.NotFound.Errorf("function %s is not deployed", ref)
	}
	return s, nil
}

func (f *fakeRuntime) Usage(context.Context, function.Ref) (types.FunctionUsage, error) {
	return types.FunctionUsage{CPU: 12.5, TotalMemoryBytes: 1 << 20}, nil
}

func (f *fakeRuntime) Watch(ctx context.Context, report func(function.Event)) error {
	f.mu.Lock()
	for _, s := range f.functions {
		report(f.event(s))
	}
	report(function.Event{Synced: true})
	f.report = report
	f.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (f *fakeRuntime) ListSecrets(_ context.Context, namespace string) ([]types.Secret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []types.Secret
	for ref := range f.secrets {
		if ref.Namespace == namespace {
			all = append(all, types.Secret{Name: ref.Name, Namespace: ref.Namespace})
		}
	}
	slices.SortFunc(all, func(a, b types.Secret) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

func (f *fakeRuntime) CreateSecret(_ context.Context, s types.Secret) error {
	return f.putSecret(s, false)
}

func (f *fakeRuntime) UpdateSecret(_ context.Context, s types.Secret) error {
	return f.putSecret(s, true)
}

func (f *fakeRuntime) putSecret(s types.Secret, there bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	ref := function.Ref{Name: s.Name, Namespace: s.Namespace}
	switch _, ok := f.secrets[ref]; {
	case ok && !there:
		return fault.Exists.Errorf("secret %s exists", ref)
	case !ok && there:
		return fault.NotFound.Errorf("secret %s does not exist", ref)
	}
	f.secrets[ref] = s
	return nil
}

func (f *fakeRuntime) DeleteSecret(_ context.Context, namespace, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	ref := function.Ref{Name: name, Namespace: namespace}
	if _, ok := f.secrets[ref]; !ok {
		return fault.NotFound.Errorf("secret %s does not exist", ref)
	}
	delete(f.secrets, ref)
	return nil
}

func (f *fakeRuntime) Query(_ context.Context, r logs.Request) (<-chan logs.Message, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.functions[function.Ref{Name: r.Name, Namespace: r.Namespace}]; !ok {
		return nil, fault.NotFound.Errorf("function %s is not deployed", r.Name)
	}
	ch := make(chan logs.Message, 2)
	defer close(ch)
	for _, text := range []string{"Forking fprocess\n", "Wrote 5 Bytes\n"} {
		ch <- logs.Message{Name: r.Name, Namespace: r.Namespace, Instance: "1", Timestamp: created, Text: text}
	}
	return ch, nil
}

func (f *fakeRuntime) ListNamespaces(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.namespaces)), nil
}

func (f *fakeRuntime) Namespace(_ context.Context, name string) (types.FunctionNamespace, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.namespaces[name]
	if !ok {
		return n, fault.NotFound.Errorf("namespace %s does not exist", name)
	}
	return n, nil
}

func (f *fakeRuntime) CreateNamespace(_ context.Context, n types.FunctionNamespace) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.namespaces[n.Name]; ok {
		return fault.Exists.Errorf("namespace %s exists", n.Name)
	}
	f.namespaces[n.Name] = n
	return nil
}

func (f *fakeRuntime) UpdateNamespace(_ context.Context, n types.FunctionNamespace) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.namespaces[n.Name]; !ok {
		return fault.NotFound.Errorf("namespace %s does not exist", n.Name)
	}
	f.namespaces[n.Name] = n
	return nil
}

func (f *fakeRuntime) DeleteNamespace(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.namespaces[name]; !ok {
		return fault.NotFound.Errorf("namespace %s does not exist", name)
	}
	delete(f.namespaces, name)
	return nil
}

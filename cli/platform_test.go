package cli_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/gateway/quota"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/pyenv"
	"github.com/graphene-faas/graphene/internal/web"
	"github.com/graphene-faas/graphene/provider"
	"github.com/graphene-faas/graphene/provider/local"
)

const password = "open sesame"

// startPlatform serves a real gateway and a real provider over a runtime that
// pretends, until stop is called. Its functions answer what they are asked. It
// is an embedded platform unless builds says how a cluster's images are made.
func startPlatform(ctx context.Context, dir string, builds function.Builds) (url string, stop func(), err error) {
	replicas := httptest.NewUnstartedServer(http.HandlerFunc(answer))
	socket := filepath.Join(dir, "s")
	if replicas.Listener, err = net.Listen("unix", socket); err != nil {
		return "", nil, err
	}
	replicas.Start()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		replicas.Close()
		return "", nil, err
	}

	python, err := pyenv.Find(ctx, "python3")
	if err != nil {
		python.Target = function.Target{OS: runtime.GOOS, Arch: runtime.GOARCH}
	}
	fake := newRuntime("unix:" + socket)
	version := types.VersionInfo{Release: "v1.2.3", SHA: "abc"}
	keys, err := local.OpenAPIKeys(filepath.Join(dir, "api-keys.json"))
	if err != nil {
		replicas.Close()
		return "", nil, err
	}
	functions := provider.New(provider.Options{
		APIKeys:    keys,
		Objects:    keys,
		Runtime:    fake,
		Secrets:    fake,
		Logs:       fake,
		Namespaces: fake,
		Info:       types.ProviderInfo{Name: "fake", Orchestration: "nothing", Version: &version},
	})
	calls, err := openQueue(dir)
	if err != nil {
		replicas.Close()
		return "", nil, err
	}
	usage, err := quota.NewBucket(calls.conn, 1)
	if err != nil {
		replicas.Close()
		return "", nil, err
	}
	var own http.Handler
	if builds == (function.Builds{}) {
		own = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	}
	front := gateway.New(gateway.Options{
		Queue:         calls.Queue,
		Account:       quota.NewAccount(usage, discard()),
		Listener:      listener,
		Provider:      web.InProcess(functions.Handler()),
		Authenticator: auth.NewBasic("admin", password),
		Registry:      own,
		Builds:        builds,
		Version:       version,
		Target:        func(context.Context) (function.Target, error) { return python.Target, nil },
		Log:           discard(),
	})
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = functions.Run(ctx) })
	wg.Go(func() { _ = front.Run(ctx) })
	wg.Go(func() { _ = calls.work(ctx, front.Handler()) })
	return "http://" + listener.Addr().String(), func() {
		cancel()
		wg.Wait()
		calls.close()
		replicas.Close()
	}, nil
}

// answer is what every function of the pretending runtime does.
func answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/_/ready" || r.URL.Path == "/_/health" {
		return
	}
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Server-Timing", "handler;dur=1.5")
	w.Header().Set("X-Asked", r.Header.Get("X-Ask"))
	if r.URL.Path == "/fail" {
		w.WriteHeader(http.StatusTeapot)
	}
	fmt.Fprintf(w, "%s %s?%s %s %s\n", r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Content-Type"), body)
}

// A pretender is a runtime that runs nothing and remembers what it should
// run. A function is ready as soon as it is deployed, unless its image has
// "broken" in its name.
type pretender struct {
	address string

	mu         sync.Mutex // guards what follows
	functions  map[function.Ref]pretended
	secrets    map[function.Ref]types.Secret
	namespaces map[string]types.FunctionNamespace
	report     func(function.Event)
}

type pretended struct {
	types.FunctionStatus
	revision, serving int64 // the newest version, and the one that is ready; 0 is none
	failure           string
}

func newRuntime(address string) *pretender {
	return &pretender{
		address:    address,
		functions:  map[function.Ref]pretended{},
		secrets:    map[function.Ref]types.Secret{},
		namespaces: map[string]types.FunctionNamespace{function.DefaultNamespace: {Name: function.DefaultNamespace}},
		report:     func(function.Event) {},
	}
}

func (p *pretender) Deploy(_ context.Context, d types.FunctionDeployment) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ref := function.Ref{Name: d.Service, Namespace: d.Namespace}
	f := p.functions[ref]
	f.FunctionStatus = types.FunctionStatus{
		Name: d.Service, Namespace: d.Namespace, Image: d.Image, EnvProcess: d.EnvProcess, EnvVars: d.EnvVars,
		Constraints: d.Constraints, Secrets: d.Secrets, Labels: d.Labels, Annotations: d.Annotations, Limits: d.Limits,
		Requests: d.Requests, ReadOnlyRootFilesystem: d.ReadOnlyRootFilesystem,
		Replicas: 1, CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	f.revision++
	if f.failure = ""; strings.Contains(d.Image, "broken") {
		f.failure = "exit status 1: ModuleNotFoundError: No module named 'numpy'"
	} else {
		f.serving = f.revision
	}
	p.set(ref, f)
	return nil
}

// set keeps f and reports it, with mu held.
func (p *pretender) set(ref function.Ref, f pretended) {
	f.AvailableReplicas = 0
	if f.serving > 0 {
		f.AvailableReplicas = f.Replicas
	}
	p.functions[ref] = f
	p.report(p.event(ref, f))
}

func (p *pretender) event(ref function.Ref, f pretended) function.Event {
	settings, _ := function.ReadSettings(*f.Annotations, f.EnvVars) // the provider has read them before
	e := &function.Endpoints{Ref: ref, Revision: f.revision, Desired: int(f.Replicas), Min: 1, Settings: settings, Failure: f.failure, Annotations: function.CallAnnotations(*f.Annotations)}
	for i := range f.AvailableReplicas {
		e.Replicas = append(e.Replicas, function.Replica{ID: fmt.Sprintf("%s-%d", ref.Name, i), Address: p.address, Revision: f.serving, Ready: true})
	}
	return function.Event{Endpoints: e}
}

func (p *pretender) Remove(_ context.Context, ref function.Ref) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.functions[ref]; !ok {
		return missing("function", ref)
	}
	delete(p.functions, ref)
	p.report(function.Event{Removed: &ref})
	return nil
}

func (p *pretender) Scale(_ context.Context, ref function.Ref, replicas int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, ok := p.functions[ref]
	if !ok {
		return missing("function", ref)
	}
	f.Replicas = uint64(replicas)
	p.set(ref, f)
	return nil
}

func (p *pretender) List(_ context.Context, namespace string) ([]types.FunctionStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []types.FunctionStatus
	for _, ref := range p.sorted() {
		if ref.Namespace == namespace {
			all = append(all, p.functions[ref].FunctionStatus)
		}
	}
	return all, nil
}

func (p *pretender) sorted() []function.Ref {
	return slices.SortedFunc(maps.Keys(p.functions), func(a, b function.Ref) int { return strings.Compare(a.String(), b.String()) })
}

func (p *pretender) Status(_ context.Context, ref function.Ref) (types.FunctionStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, ok := p.functions[ref]
	if !ok {
		return types.FunctionStatus{}, missing("function", ref)
	}
	return f.FunctionStatus, nil
}

func (p *pretender) Usage(context.Context, function.Ref) (types.FunctionUsage, error) {
	return types.FunctionUsage{CPU: 12, TotalMemoryBytes: 2_000_000}, nil
}

func (p *pretender) Watch(ctx context.Context, report func(function.Event)) error {
	p.mu.Lock()
	p.report = report
	for _, ref := range p.sorted() {
		report(p.event(ref, p.functions[ref]))
	}
	report(function.Event{Synced: true})
	p.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (p *pretender) Query(ctx context.Context, r logs.Request) (<-chan logs.Message, error) {
	ref := function.Ref{Name: r.Name, Namespace: r.Namespace}
	if _, err := p.Status(ctx, ref); err != nil {
		return nil, err
	}
	all := make(chan logs.Message, 3)
	defer close(all)
	for i, text := range []string{"starting", "import numpy", "ModuleNotFoundError: No module named 'numpy'"} {
		if at := time.Date(2026, 1, 2, 3, 4, i, 0, time.UTC); r.Tail <= 0 || i >= 3-r.Tail {
			if r.Since == nil || at.After(*r.Since) {
				all <- logs.Message{Name: r.Name, Namespace: r.Namespace, Instance: r.Name + "-0", Timestamp: at, Text: text + "\n"}
			}
		}
	}
	return all, nil
}

func (p *pretender) ListSecrets(_ context.Context, namespace string) ([]types.Secret, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []types.Secret
	for ref := range p.secrets {
		if ref.Namespace == namespace {
			all = append(all, types.Secret{Name: ref.Name, Namespace: ref.Namespace})
		}
	}
	slices.SortFunc(all, func(a, b types.Secret) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (p *pretender) CreateSecret(_ context.Context, s types.Secret) error {
	return p.putSecret(s, false)
}

func (p *pretender) UpdateSecret(_ context.Context, s types.Secret) error {
	return p.putSecret(s, true)
}

func (p *pretender) putSecret(s types.Secret, replace bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ref := function.Ref{Name: s.Name, Namespace: s.Namespace}
	switch _, ok := p.secrets[ref]; {
	case ok && !replace:
		return fault.Exists.Errorf("secret %s exists", s.Name)
	case !ok && replace:
		return missing("secret", ref)
	}
	p.secrets[ref] = s
	return nil
}

func (p *pretender) DeleteSecret(_ context.Context, namespace, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ref := function.Ref{Name: name, Namespace: namespace}
	if _, ok := p.secrets[ref]; !ok {
		return missing("secret", ref)
	}
	delete(p.secrets, ref)
	return nil
}

func (p *pretender) ListNamespaces(context.Context) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.namespaces)), nil
}

func (p *pretender) Namespace(_ context.Context, name string) (types.FunctionNamespace, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, ok := p.namespaces[name]
	if !ok {
		return n, fault.NotFound.Errorf("namespace %s does not exist", name)
	}
	return n, nil
}

func (p *pretender) CreateNamespace(_ context.Context, n types.FunctionNamespace) error {
	return p.putNamespace(n, false)
}

func (p *pretender) UpdateNamespace(_ context.Context, n types.FunctionNamespace) error {
	return p.putNamespace(n, true)
}

func (p *pretender) putNamespace(n types.FunctionNamespace, replace bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch _, ok := p.namespaces[n.Name]; {
	case ok && !replace:
		return fault.Exists.Errorf("namespace %s exists", n.Name)
	case !ok && replace:
		return fault.NotFound.Errorf("namespace %s does not exist", n.Name)
	}
	p.namespaces[n.Name] = n
	return nil
}

func (p *pretender) DeleteNamespace(_ context.Context, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.namespaces[name]; !ok {
		return fault.NotFound.Errorf("namespace %s does not exist", name)
	}
	delete(p.namespaces, name)
	return nil
}

func missing(what string, ref function.Ref) error {
	return fault.NotFound.Errorf("%s %s does not exist", what, ref.Name)
}

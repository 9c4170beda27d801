// Package runtimetest is the contract of package provider's interfaces as
// tests. Every runtime runs it, so that functions behave the same wherever they
// run: start with [Run]. [Fake] is the smallest runtime that passes it, for the
// tests of what stands above runtimes.
package runtimetest

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/provider"
)

// A Subject is what is tested, freshly made, running, and empty.
type Subject struct {
	Runtime    provider.Runtime
	Secrets    provider.Secrets
	Logs       provider.Logs
	Namespaces provider.Namespaces

	// Image can be deployed and becomes ready. It prints the value of its
	// environment variable "say" when it starts.
	Image string
	// Refused cannot run here, which is found out when it is deployed.
	Refused string
	// Failing makes a deployment of Image one that never becomes ready.
	Failing func(*types.FunctionDeployment)
}

// Run runs the contract against what make returns, once per test.
func Run(t *testing.T, make func(t *testing.T) Subject) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s *suite)
	}{
		{"a deployed function becomes ready and is listed", testDeploy},
		{"what was deployed comes back as it was given", testRoundTrip},
		{"functions are listed by namespace and in order", testList},
		{"what is not deployed is not found", testUnknown},
		{"a deploy that is refused changes nothing", testRefused},
		{"an update has a new revision and replaces the replicas", testUpdate},
		{"an update that fails leaves the old version serving", testFailedUpdate},
		{"a function that cannot start says why", testFailure},
		{"scaling changes the number of replicas", testScale},
		{"a removed function is gone at once", testRemove},
		{"of several deploys at once one wins whole", testConcurrentDeploys},
		{"a watcher gets everything and then changes", testWatch},
		{"secrets are made, changed and deleted", testSecrets},
		{"namespaces are made, changed and deleted", testNamespaces},
		{"logs are found by tail, time and instance", testLogs},
		{"following logs ends with the function", testFollow},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{Subject: make(t), t: t, changed: newSignal(), seen: map[function.Ref]function.Endpoints{}}
			s.watch()
			test.run(t, s)
		})
	}
}

// patience bounds every wait; only a test that fails waits for so long.
const patience = 30 * time.Second

// suite is a Subject with what is known of its endpoints.
type suite struct {
	Subject
	t *testing.T

	mu      sync.Mutex
	seen    map[function.Ref]function.Endpoints
	changed *signal
}

// signal wakes everybody who waits for a change.
type signal struct{ ch chan struct{} }

func newSignal() *signal { return &signal{make(chan struct{})} }

// wake wakes them. Calls of it and reads of ch exclude each other.
func (s *signal) wake() {
	close(s.ch)
	s.ch = make(chan struct{})
}

func (s *suite) watch() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	var done sync.WaitGroup
	done.Go(func() {
		if err := s.Runtime.Watch(ctx, s.record); err != nil {
			s.t.Errorf("watch: %v", err)
		}
	})
	s.t.Cleanup(func() {
		cancel()
		done.Wait()
	})
}

func (s *suite) record(e function.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e.Endpoints != nil:
		s.seen[e.Endpoints.Ref] = *e.Endpoints
	case e.Removed != nil:
		delete(s.seen, *e.Removed)
	}
	s.changed.wake()
}

// until waits for the endpoints of ref to be as they should.
func (s *suite) until(ref function.Ref, what string, ok func(function.Endpoints) bool) function.Endpoints {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		e, changed := s.seen[ref], s.changed.ch
		s.mu.Unlock()
		if ok(e) {
			return e
		}
		select {
		case <-changed:
		case <-deadline:
			text, _ := json.Marshal(e) // plain data, which can always be written so
			s.t.Fatalf("%s: no %s; endpoints are %s", ref, what, text)
		}
	}
}

func readyReplicas(e function.Endpoints) []function.Replica {
	return slices.DeleteFunc(slices.Clone(e.Replicas), func(r function.Replica) bool { return !r.Ready })
}

func (s *suite) untilReady(ref function.Ref, n int) function.Endpoints {
	s.t.Helper()
	return s.until(ref, "ready replicas", func(e function.Endpoints) bool {
		current := slices.DeleteFunc(readyReplicas(e), func(r function.Replica) bool { return r.Revision != e.Revision })
		return len(current) == n && len(e.Replicas) == n
	})
}

func refOf(spec types.FunctionDeployment) function.Ref {
	return function.Ref{Name: spec.Service, Namespace: spec.Namespace}
}

func (s *suite) spec(name string) types.FunctionDeployment {
	return types.FunctionDeployment{Service: name, Namespace: function.DefaultNamespace, Image: s.Image}
}

func (s *suite) deploy(spec types.FunctionDeployment) function.Ref {
	s.t.Helper()
	if err := s.Runtime.Deploy(s.t.Context(), spec); err != nil {
		s.t.Fatalf("deploy %s: %v", spec.Service, err)
	}
	return refOf(spec)
}

func (s *suite) want(kind fault.Kind, what string, err error) {
	s.t.Helper()
	if !errors.Is(err, kind) {
		s.t.Errorf("%s: got error %v, want one of kind %q", what, err, kind)
	}
}

func (s *suite) no(what string, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
}

func testDeploy(t *testing.T, s *suite) {
	ref := s.deploy(s.spec("echo"))
	e := s.untilReady(ref, 1)
	if e.Revision != 1 || e.Desired != 1 || e.Min != 1 || e.Failure != "" {
		t.Errorf("endpoints are %+v", e)
	}
	if r := e.Replicas[0]; r.ID == "" || r.Address == "" || r.Revision != 1 {
		t.Errorf("replica is %+v", r)
	}
	status, err := s.Runtime.Status(t.Context(), ref)
	s.no("status", err)
	if status.Replicas != 1 || status.AvailableReplicas != 1 || status.CreatedAt.IsZero() {
		t.Errorf("status is %+v", status)
	}
	_, err = s.Runtime.Usage(t.Context(), ref)
	s.no("usage", err)
}

func testRoundTrip(t *testing.T, s *suite) {
	s.no("create secret", s.Secrets.CreateSecret(t.Context(), types.Secret{Name: "key", Namespace: function.DefaultNamespace, Value: "v"}))
	spec := s.spec("verbatim")
	spec.EnvVars = map[string]string{"say": "hello", "empty": ""}
	spec.Labels = &map[string]string{"team": "a/b", function.LabelScaleMin: "1"}
	spec.Annotations = &map[string]string{"json": "{\n  \"a\": 1\n}\n"}
	spec.Secrets = []string{"key"}
	spec.Limits = &types.FunctionResources{Memory: "512Mi", CPU: "1500m"}
	spec.Requests = &types.FunctionResources{Memory: "5Mi"}
	spec.ReadOnlyRootFilesystem = true
	spec.Constraints = []string{"zone=a"}
	status, err := s.Runtime.Status(t.Context(), s.deploy(spec))
	s.no("status", err)
	got := types.FunctionDeployment{
		Service: status.Name, Namespace: status.Namespace, Image: status.Image, EnvProcess: status.EnvProcess,
		EnvVars: status.EnvVars, Labels: status.Labels, Annotations: status.Annotations, Secrets: status.Secrets,
		Limits: status.Limits, Requests: status.Requests, ReadOnlyRootFilesystem: status.ReadOnlyRootFilesystem,
		Constraints: status.Constraints,
	}
	if diff := cmp.Diff(spec, got); diff != "" {
		t.Errorf("(-deployed +status)\n%s", diff)
	}
}

func testList(t *testing.T, s *suite) {
	s.no("create namespace", s.Namespaces.CreateNamespace(t.Context(), types.FunctionNamespace{Name: "other", Labels: marked(nil)}))
	for _, name := range []string{"b", "a"} {
		s.deploy(s.spec(name))
	}
	elsewhere := s.spec("a")
	elsewhere.Namespace = "other"
	s.deploy(elsewhere)
	for namespace, want := range map[string][]string{function.DefaultNamespace: {"a", "b"}, "other": {"a"}, "empty": nil} {
		list, err := s.Runtime.List(t.Context(), namespace)
		s.no("list", err)
		var names []string
		for _, f := range list {
			names = append(names, f.Name)
			if f.Namespace != namespace {
				t.Errorf("%s lists a function of %s", namespace, f.Namespace)
			}
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("%s (-want +got)\n%s", namespace, diff)
		}
	}
}

func testUnknown(t *testing.T, s *suite) {
	ref := function.Ref{Name: "nobody", Namespace: function.DefaultNamespace}
	ctx := t.Context()
	_, err := s.Runtime.Status(ctx, ref)
	s.want(fault.NotFound, "status", err)
	_, err = s.Runtime.Usage(ctx, ref)
	s.want(fault.NotFound, "usage", err)
	s.want(fault.NotFound, "scale", s.Runtime.Scale(ctx, ref, 1))
	s.want(fault.NotFound, "remove", s.Runtime.Remove(ctx, ref))
	_, err = s.Logs.Query(ctx, logs.Request{Name: ref.Name, Namespace: ref.Namespace})
	s.want(fault.NotFound, "logs", err)
}

func testRefused(t *testing.T, s *suite) {
	bad := s.spec("echo")
	bad.Image = s.Refused
	s.want(fault.Invalid, "deploy", s.Runtime.Deploy(t.Context(), bad))
	_, err := s.Runtime.Status(t.Context(), refOf(bad))
	s.want(fault.NotFound, "status after a refused deploy", err)

	ref := s.deploy(s.spec("echo"))
	s.untilReady(ref, 1)
	s.want(fault.Invalid, "update", s.Runtime.Deploy(t.Context(), bad))
	if e := s.untilReady(ref, 1); e.Revision != 1 {
		t.Errorf("a refused update made revision %d", e.Revision)
	}
	status, err := s.Runtime.Status(t.Context(), ref)
	s.no("status", err)
	if status.Image != s.Image {
		t.Errorf("a refused update changed the image to %s", status.Image)
	}
}

func testUpdate(t *testing.T, s *suite) {
	spec := s.spec("echo")
	ref := s.deploy(spec)
	first := s.untilReady(ref, 1)
	spec.EnvVars = map[string]string{"say": "second"}
	s.deploy(spec)
	second := s.untilReady(ref, 1)
	if second.Revision != first.Revision+1 {
		t.Errorf("revision went from %d to %d", first.Revision, second.Revision)
	}
	if first.Replicas[0].ID == second.Replicas[0].ID {
		t.Errorf("the replica was not replaced")
	}
	before, err := s.Runtime.Status(t.Context(), ref)
	s.no("status", err)
	if before.EnvVars["say"] != "second" {
		t.Errorf("status shows the environment %v", before.EnvVars)
	}
}

func testFailedUpdate(t *testing.T, s *suite) {
	spec := s.spec("echo")
	ref := s.deploy(spec)
	first := s.untilReady(ref, 1)
	s.Failing(&spec)
	s.deploy(spec)
	e := s.until(ref, "failure", func(e function.Endpoints) bool { return e.Failure != "" })
	if e.Revision != first.Revision+1 {
		t.Errorf("the failed version has revision %d", e.Revision)
	}
	if r := readyReplicas(e); len(r) != 1 || r[0].ID != first.Replicas[0].ID {
		t.Errorf("ready are %+v, want the replica of before", r)
	}
	// The next deploy puts it right.
	s.deploy(s.spec("echo"))
	if e := s.untilReady(ref, 1); e.Failure != "" {
		t.Errorf("failure remains after it was put right: %s", e.Failure)
	}
}

func testFailure(t *testing.T, s *suite) {
	spec := s.spec("broken")
	s.Failing(&spec)
	ref := s.deploy(spec)
	s.until(ref, "failure", func(e function.Endpoints) bool { return e.Failure != "" && len(readyReplicas(e)) == 0 })
	status, err := s.Runtime.Status(t.Context(), ref)
	s.no("status", err)
	if status.Replicas != 1 || status.AvailableReplicas != 0 {
		t.Errorf("status has %d of %d replicas", status.AvailableReplicas, status.Replicas)
	}
}

func testScale(t *testing.T, s *suite) {
	spec := s.spec("echo")
	spec.Labels = &map[string]string{function.LabelScaleMin: "2"}
	ref := s.deploy(spec)
	if e := s.untilReady(ref, 2); e.Min != 2 {
		t.Errorf("min is %d", e.Min)
	}
	for _, n := range []int{3, 1, 0, 2} {
		s.no("scale", s.Runtime.Scale(t.Context(), ref, n))
		status, err := s.Runtime.Status(t.Context(), ref)
		s.no("status", err)
		if status.Replicas != uint64(n) {
			t.Errorf("scaled to %d, status has %d", n, status.Replicas)
		}
		s.untilReady(ref, n)
	}
}

func testRemove(t *testing.T, s *suite) {
	ref := s.deploy(s.spec("echo"))
	s.untilReady(ref, 1)
	s.no("remove", s.Runtime.Remove(t.Context(), ref))
	s.mu.Lock()
	_, known := s.seen[ref]
	s.mu.Unlock()
	if known {
		t.Errorf("its endpoints are still there")
	}
	_, err := s.Runtime.Status(t.Context(), ref)
	s.want(fault.NotFound, "status", err)
	list, err := s.Runtime.List(t.Context(), ref.Namespace)
	s.no("list", err)
	if len(list) != 0 {
		t.Errorf("list has %d functions", len(list))
	}
	// The name is free.
	s.deploy(s.spec("echo"))
	s.untilReady(ref, 1)
}

func testConcurrentDeploys(t *testing.T, s *suite) {
	const n = 5
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			spec := s.spec("echo")
			mark := strings.Repeat("x", i+1)
			spec.EnvVars = map[string]string{"say": mark}
			spec.Labels = &map[string]string{"mark": mark}
			if err := s.Runtime.Deploy(t.Context(), spec); err != nil {
				t.Errorf("deploy %d: %v", i, err)
			}
		})
	}
	group.Wait()
	ref := refOf(s.spec("echo"))
	if e := s.untilReady(ref, 1); e.Revision != n {
		t.Errorf("%d deploys made revision %d", n, e.Revision)
	}
	status, err := s.Runtime.Status(t.Context(), ref)
	s.no("status", err)
	if status.EnvVars["say"] != (*status.Labels)["mark"] {
		t.Errorf("a mixture is deployed: %v and %v", status.EnvVars, *status.Labels)
	}
}

func testWatch(t *testing.T, s *suite) {
	a := s.deploy(s.spec("a"))
	s.untilReady(a, 1)

	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan function.Event, 1000)
	var done sync.WaitGroup
	done.Go(func() {
		if err := s.Runtime.Watch(ctx, func(e function.Event) { events <- e }); err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	defer done.Wait()
	defer cancel()
	next := func(what string, ok func(function.Event) bool) {
		t.Helper()
		deadline := time.After(patience)
		for {
			select {
			case e := <-events:
				if ok(e) {
					return
				}
			case <-deadline:
				t.Fatalf("no event: %s", what)
			}
		}
	}
	next("what there was", func(e function.Event) bool {
		if e.Synced {
			t.Fatalf("synced before anything was reported")
		}
		return e.Endpoints != nil && e.Endpoints.Ref == a && len(readyReplicas(*e.Endpoints)) == 1
	})
	next("synced", func(e function.Event) bool { return e.Synced })
	b := s.deploy(s.spec("b"))
	next("a new function", func(e function.Event) bool { return e.Endpoints != nil && e.Endpoints.Ref == b })
	s.no("remove", s.Runtime.Remove(t.Context(), a))
	next("a removal", func(e function.Event) bool { return e.Removed != nil && *e.Removed == a })
}

func testSecrets(t *testing.T, s *suite) {
	ctx := t.Context()
	one := types.Secret{Name: "one", Namespace: function.DefaultNamespace, RawValue: []byte("1\n\x00")}
	s.want(fault.NotFound, "update of none", s.Secrets.UpdateSecret(ctx, one))
	s.want(fault.NotFound, "delete of none", s.Secrets.DeleteSecret(ctx, one.Namespace, one.Name))
	s.no("create", s.Secrets.CreateSecret(ctx, one))
	s.want(fault.Exists, "second create", s.Secrets.CreateSecret(ctx, one))
	s.no("create", s.Secrets.CreateSecret(ctx, types.Secret{Name: "a.two", Namespace: function.DefaultNamespace, Value: "2"}))
	s.no("update", s.Secrets.UpdateSecret(ctx, one))
	list, err := s.Secrets.ListSecrets(ctx, function.DefaultNamespace)
	s.no("list", err)
	want := []types.Secret{{Name: "a.two", Namespace: function.DefaultNamespace}, {Name: "one", Namespace: function.DefaultNamespace}}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("list (-want +got)\n%s", diff)
	}
	s.no("delete", s.Secrets.DeleteSecret(ctx, one.Namespace, one.Name))
	s.want(fault.NotFound, "second delete", s.Secrets.DeleteSecret(ctx, one.Namespace, one.Name))
	list, err = s.Secrets.ListSecrets(ctx, "elsewhere")
	s.no("list", err)
	if len(list) != 0 {
		t.Errorf("another namespace lists %v", list)
	}
}

// marked returns labels of a namespace with the one by which the API marks
// those for functions.
func marked(labels map[string]string) map[string]string {
	all := map[string]string{"openfaas": "1"}
	maps.Copy(all, labels)
	return all
}

func testNamespaces(t *testing.T, s *suite) {
	ctx := t.Context()
	other := types.FunctionNamespace{Name: "other", Labels: marked(map[string]string{"a": "b"}), Annotations: map[string]string{"c": "d"}}
	_, err := s.Namespaces.Namespace(ctx, other.Name)
	s.want(fault.NotFound, "get of none", err)
	s.want(fault.NotFound, "update of none", s.Namespaces.UpdateNamespace(ctx, other))
	s.want(fault.NotFound, "delete of none", s.Namespaces.DeleteNamespace(ctx, other.Name))
	s.no("create", s.Namespaces.CreateNamespace(ctx, other))
	s.want(fault.Exists, "second create", s.Namespaces.CreateNamespace(ctx, other))
	other.Labels = marked(map[string]string{"e": "f"})
	s.no("update", s.Namespaces.UpdateNamespace(ctx, other))
	got, err := s.Namespaces.Namespace(ctx, other.Name)
	s.no("get", err)
	if diff := cmp.Diff(other, got); diff != "" {
		t.Errorf("get (-want +got)\n%s", diff)
	}
	names, err := s.Namespaces.ListNamespaces(ctx)
	s.no("list", err)
	if diff := cmp.Diff([]string{function.DefaultNamespace, "other"}, names); diff != "" {
		t.Errorf("list (-want +got)\n%s", diff)
	}
	spec := s.spec("echo")
	spec.Namespace = other.Name
	ref := s.deploy(spec)
	s.want(fault.Invalid, "delete while in use", s.Namespaces.DeleteNamespace(ctx, other.Name))
	s.no("remove", s.Runtime.Remove(ctx, ref))
	s.want(fault.Invalid, "delete of the default", s.Namespaces.DeleteNamespace(ctx, function.DefaultNamespace))
}

func testLogs(t *testing.T, s *suite) {
	spec := s.spec("echo")
	// What a function of this name said that was removed is nobody's business.
	spec.EnvVars = map[string]string{"say": "stranger"}
	removed := s.deploy(spec)
	s.untilReady(removed, 1)
	s.untilSaid(removed, "stranger\n")
	s.no("remove", s.Runtime.Remove(t.Context(), removed))

	spec.EnvVars = map[string]string{"say": "first\nsecond\nthird"}
	before := time.Now()
	ref := s.deploy(spec)
	replica := s.untilReady(ref, 1).Replicas[0].ID
	s.untilSaid(ref, "third\n")
	later := time.Now().Add(time.Hour)
	for _, tt := range []struct {
		what string
		with logs.Request
		want []string
	}{
		{"all", logs.Request{}, []string{"first\n", "second\n", "third\n"}},
		{"tail", logs.Request{Tail: 1000}, []string{"first\n", "second\n", "third\n"}},
		{"since", logs.Request{Since: &before}, []string{"first\n", "second\n", "third\n"}},
		{"since later", logs.Request{Since: &later}, nil},
		{"instance", logs.Request{Instance: replica}, []string{"first\n", "second\n", "third\n"}},
		{"another instance", logs.Request{Instance: "nobody"}, nil},
	} {
		tt.with.Name, tt.with.Namespace = ref.Name, ref.Namespace
		messages, err := s.Logs.Query(t.Context(), tt.with)
		s.no("query", err)
		var said []string
		for m := range messages {
			if m.Name != ref.Name || m.Namespace != ref.Namespace || m.Instance != replica || m.Timestamp.Before(before.Add(-time.Second)) {
				t.Errorf("%s: message is %+v", tt.what, m)
			}
			if slices.Contains([]string{"first\n", "second\n", "third\n"}, m.Text) {
				said = append(said, m.Text)
			}
		}
		if diff := cmp.Diff(tt.want, said); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.what, diff)
		}
	}
	messages, err := s.Logs.Query(t.Context(), logs.Request{Name: ref.Name, Namespace: ref.Namespace, Tail: 1})
	s.no("query", err)
	n := 0
	for range messages {
		n++
	}
	if n != 1 {
		t.Errorf("a tail of one line has %d", n)
	}
}

// untilSaid waits for a line of a function's log: what is printed may arrive
// after the function is ready.
func (s *suite) untilSaid(ref function.Ref, text string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	messages, err := s.Logs.Query(ctx, logs.Request{Name: ref.Name, Namespace: ref.Namespace, Follow: true})
	s.no("query", err)
	for m := range messages {
		if m.Text == text {
			return
		}
	}
	s.t.Fatalf("%s never said %q", ref, text)
}

func testFollow(t *testing.T, s *suite) {
	spec := s.spec("echo")
	spec.EnvVars = map[string]string{"say": "hello"}
	ref := s.deploy(spec)
	s.untilReady(ref, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	messages, err := s.Logs.Query(ctx, logs.Request{Name: ref.Name, Namespace: ref.Namespace, Follow: true})
	s.no("query", err)
	instances := map[string]bool{}
	wait := func(n int) {
		t.Helper()
		for len(instances) < n {
			m, more := <-messages
			if !more {
				t.Fatalf("the stream ended after %d instances, want %d", len(instances), n)
			}
			if m.Text == "hello\n" {
				instances[m.Instance] = true
			}
		}
	}
	wait(1)
	s.no("scale", s.Runtime.Scale(t.Context(), ref, 2))
	wait(2) // of a replica that was not there when the stream began
	s.no("remove", s.Runtime.Remove(t.Context(), ref))
	for range messages {
	}
	if ctx.Err() != nil {
		t.Errorf("the stream did not end with the function")
	}
}

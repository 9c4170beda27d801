package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/openfaas/faas-provider/types"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// Deploy implements package provider's Runtime. It writes the Function; what
// follows from it is the controller's. What the API server would refuse is
// refused here, by asking it first.
func (r *Runtime) Deploy(ctx context.Context, spec types.FunctionDeployment) error {
	if err := r.whenSynced(ctx); err != nil {
		return err
	}
	ref := function.Ref{Name: spec.Service, Namespace: spec.Namespace}
	if !r.namespaces.usable(ref.Namespace) {
		return fault.Invalid.Errorf("namespace %s is not for functions: create it, or mark it with the annotation %s=1", ref.Namespace, namespaceMark)
	}
	f := &Function{
		TypeMeta:   metav1.TypeMeta{APIVersion: groupVersion.String(), Kind: "Function"},
		ObjectMeta: metav1.ObjectMeta{Name: ref.Name, Namespace: ref.Namespace},
		Spec:       specOf(spec),
	}
	f.Spec.Rollout = time.Now().UTC().Format(time.RFC3339Nano)
	if err := r.accept(ctx, f); err != nil {
		return err
	}
	s, err := r.seen.look(ref)
	current := s.function
	if err != nil {
		current = nil
	}
	for {
		written, err := r.write(ctx, f, current)
		switch {
		case err == nil:
			written.ManagedFields = nil
			r.seen.setFunction(written)
			return nil
		case apierrors.IsNotFound(err) && current != nil:
			current = nil // it has been removed meanwhile
		case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
			// Somebody else has written it. The later deploy wins.
			current, err = r.clients.functions(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("read the Function: %w", kind(err))
			}
			if err != nil {
				current = nil
			}
		default:
			return fmt.Errorf("write the Function: %w", kind(err))
		}
		if ctx.Err() != nil {
			return fmt.Errorf("write the Function: %w", context.Cause(ctx))
		}
	}
}

// write makes f's spec that of current, or makes f if there is none.
func (r *Runtime) write(ctx context.Context, f, current *Function) (*Function, error) {
	client := r.clients.functions(f.Namespace)
	if current == nil {
		return client.Create(ctx, f, metav1.CreateOptions{FieldManager: managerApply})
	}
	next := current.DeepCopy()
	next.Spec = f.Spec.clone()
	return client.Update(ctx, next, metav1.UpdateOptions{FieldManager: managerApply})
}

// imageName is what registries and the kubelet accept: a name in lower case,
// with a host that may have a port, a tag and a digest.
var imageName = regexp.MustCompile(`^([a-zA-Z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)

// accept reports, as fault.Invalid, why f cannot be deployed.
func (r *Runtime) accept(ctx context.Context, f *Function) error {
	if !imageName.MatchString(f.Spec.Image) {
		return fault.Invalid.Errorf("image %q: want a name such as registry.example/team/function:1.0", f.Spec.Image)
	}
	if problems := validServiceName(f.Name); len(problems) > 0 {
		return fault.Invalid.Errorf("function %s cannot have a Service of its name: %s", f.Name, strings.Join(problems, "; "))
	}
	src, err := r.source(ctx, f)
	if err != nil {
		return err
	}
	o, err := render(src, r.Pods)
	if err != nil {
		return err
	}
	o.Deployment.OwnerReferences = nil // the owner does not exist yet
	_, err = applied(ctx, r.clients.AppsV1().Deployments(f.Namespace), o.Deployment,
		metav1.PatchOptions{FieldManager: managerApply, Force: new(true), DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return fmt.Errorf("try it: %w", err)
	}
	return nil
}

// specOf is what a deployment says, as a Function says it.
func specOf(d types.FunctionDeployment) FunctionSpec {
	return FunctionSpec{
		Name: d.Service, Image: d.Image, Handler: d.EnvProcess,
		Environment: d.EnvVars, Labels: pointedTo(d.Labels), Annotations: pointedTo(d.Annotations),
		Constraints: d.Constraints, Secrets: d.Secrets,
		Limits: (*Resources)(d.Limits), Requests: (*Resources)(d.Requests),
		ReadOnlyRootFilesystem: d.ReadOnlyRootFilesystem,
	}.clone()
}

func pointedTo(m *map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	return *m
}

func pointerTo(m map[string]string) *map[string]string {
	if m == nil {
		return nil
	}
	return new(maps.Clone(m))
}

// Remove implements package provider's Runtime.
func (r *Runtime) Remove(ctx context.Context, ref function.Ref) error {
	s, err := r.find(ctx, ref)
	if err != nil {
		return err
	}
	uid := s.function.UID
	err = r.clients.functions(ref.Namespace).Delete(ctx, ref.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: new(metav1.DeletePropagationBackground),
	})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // removed by somebody else, and maybe made anew
		r.seen.dropFunction(ref, uid, true)
		return fault.NotFound.Errorf("function %s is not deployed", ref)
	case err != nil:
		return kind(err)
	}
	r.seen.dropFunction(ref, uid, true)
	return nil
}

func (r *Runtime) find(ctx context.Context, ref function.Ref) (snapshot, error) {
	if err := r.whenSynced(ctx); err != nil {
		return snapshot{}, err
	}
	return r.seen.look(ref)
}

// scaleWait is how long scaling waits for a Deployment that is about to be
// made.
const scaleWait = 10 * time.Second

// Scale implements package provider's Runtime. It does not need the
// controller: whoever is woken is woken by any provider.
func (r *Runtime) Scale(ctx context.Context, ref function.Ref, replicas int) error {
	ctx, cancel := context.WithTimeout(ctx, scaleWait)
	defer cancel()
	for {
		changes := r.seen.changes(ref)
		s, err := r.find(ctx, ref)
		if err != nil {
			return err
		}
		if w := s.workload; w != nil && w.owner == s.function.UID {
			if replicas < w.replicas {
				r.preferIdle(ctx, s)
			}
			version, err := r.applyScale(ctx, ref, int32(min(replicas, math.MaxInt32)))
			if err != nil {
				return err
			}
			r.seen.scaled(ref, replicas, version)
			return nil
		}
		select {
		case <-changes:
		case <-ctx.Done():
			if reason := refusal(s.function); reason != "" {
				return fault.Unavailable.Errorf("function %s cannot run: %s", ref, reason)
			}
			return fault.Unavailable.Errorf("function %s has no Deployment yet: is a provider the controller?", ref)
		}
	}
}

// List implements package provider's Runtime.
func (r *Runtime) List(ctx context.Context, namespace string) ([]types.FunctionStatus, error) {
	if err := r.whenSynced(ctx); err != nil {
		return nil, err
	}
	var list []types.FunctionStatus
	for _, s := range r.seen.list(namespace) {
		list = append(list, s.status())
	}
	return list, nil
}

// Status implements package provider's Runtime.
func (r *Runtime) Status(ctx context.Context, ref function.Ref) (types.FunctionStatus, error) {
	s, err := r.find(ctx, ref)
	if err != nil {
		return types.FunctionStatus{}, err
	}
	return s.status(), nil
}

// status describes the function as it was deployed last.
func (s snapshot) status() types.FunctionStatus {
	spec := s.function.Spec.clone()
	return types.FunctionStatus{
		Name: s.function.Name, Namespace: s.function.Namespace,
		Image: spec.Image, EnvProcess: spec.Handler, EnvVars: spec.Environment,
		Constraints: spec.Constraints, Secrets: spec.Secrets,
		Labels: pointerTo(spec.Labels), Annotations: pointerTo(spec.Annotations),
		Limits: (*types.FunctionResources)(spec.Limits), Requests: (*types.FunctionResources)(spec.Requests),
		ReadOnlyRootFilesystem: spec.ReadOnlyRootFilesystem,
		Replicas:               uint64(desired(s.function, s.workload)),
		AvailableReplicas:      uint64(s.ready),
		CreatedAt:              s.function.CreationTimestamp.UTC(),
	}
}

// Usage implements package provider's Runtime, where the cluster has a metrics
// server; elsewhere nothing is known and everything is zero.
func (r *Runtime) Usage(ctx context.Context, ref function.Ref) (types.FunctionUsage, error) {
	var sum types.FunctionUsage
	if _, err := r.find(ctx, ref); err != nil {
		return sum, err
	}
	text, err := r.clients.CoreV1().RESTClient().Get().
		AbsPath("/apis/metrics.k8s.io/v1beta1/namespaces", ref.Namespace, "pods").
		Param("labelSelector", function.LabelName+"="+ref.Name).
		SetHeader("Accept", "application/json").DoRaw(ctx)
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err), apierrors.IsServiceUnavailable(err):
		return sum, nil
	case err != nil:
		return sum, kind(err)
	}
	var measured struct {
		Items []struct {
			Containers []struct {
				Usage map[string]resource.Quantity `json:"usage"`
			} `json:"containers"`
		} `json:"items"`
	}
	if err := json.Unmarshal(text, &measured); err != nil {
		return sum, fmt.Errorf("read what the metrics server says: %w", err)
	}
	for _, pod := range measured.Items {
		for _, c := range pod.Containers {
			cpu, memory := c.Usage["cpu"], c.Usage["memory"]
			sum.CPU += float64(cpu.MilliValue())
			sum.TotalMemoryBytes += float64(memory.Value())
		}
	}
	return sum, nil
}

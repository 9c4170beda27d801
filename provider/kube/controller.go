package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	autoscalingac "k8s.io/client-go/applyconfigurations/autoscaling/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/workqueue"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

const (
	// leaseName is that of the lease by which providers agree who controls.
	leaseName = "graphene-provider"
	// A controller that vanishes is succeeded after leaseDuration; one that
	// stops as it should, at once. Calls and scaling do not wait for that.
	leaseDuration, renewDeadline, retryPeriod = 10 * time.Second, 7 * time.Second, 2 * time.Second
	// What fails is tried again after pauses that double.
	firstRetry, lastRetry = 100 * time.Millisecond, 30 * time.Second
)

// lead is the controller whenever this process is the one that should, until
// ctx ends.
func (r *Runtime) lead(ctx context.Context) error {
	if r.Identity == "" {
		r.runController(ctx)
		return nil
	}
	for ctx.Err() == nil {
		var term sync.WaitGroup
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Name: leaseName, Namespace: r.ProfilesNamespace},
				Client:     r.clients.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: r.Identity},
			},
			LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
			// Two controllers for a moment do no harm: what they apply is the same.
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) { term.Go(func() { r.runController(ctx) }) },
				OnStoppedLeading: func() {},
			},
		})
		if err != nil {
			return fmt.Errorf("take part in the election of a controller: %w", err)
		}
		elector.Run(ctx)
		term.Wait()
	}
	return nil
}

// A controller makes of Functions what they stand for, for one term.
type controller struct {
	*Runtime
	queue workqueue.TypedRateLimitingInterface[function.Ref]
}

// runController controls until ctx ends.
func (r *Runtime) runController(ctx context.Context) {
	c := &controller{r, workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[function.Ref](firstRetry, lastRetry))}
	r.mu.Lock()
	r.control = c
	r.mu.Unlock()
	r.Log.Info("this provider is the controller", "identity", r.Identity)
	for _, ref := range r.seen.refs() {
		c.queue.Add(ref)
	}
	var workers sync.WaitGroup
	for range r.Workers {
		workers.Go(func() {
			for c.next(ctx) {
			}
		})
	}
	if r.IAM {
		workers.Go(func() { r.keepStatuses(ctx) })
	}
	<-ctx.Done()
	r.mu.Lock()
	r.control = nil
	r.mu.Unlock()
	c.queue.ShutDown()
	workers.Wait()
}

// changed is told of every change that was observed.
func (r *Runtime) changed(ref function.Ref) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.control != nil {
		r.control.queue.Add(ref)
	}
}

// next works on one function. It returns false when there will be no more.
func (c *controller) next(ctx context.Context) bool {
	ref, end := c.queue.Get()
	if end {
		return false
	}
	defer c.queue.Done(ref)
	err := c.reconcile(ctx, ref)
	switch {
	case err == nil:
		c.queue.Forget(ref)
	case ctx.Err() == nil:
		level := slog.LevelWarn
		if errors.Is(err, fault.Invalid) {
			level = slog.LevelDebug // it is in the function's status, for who can do something about it
		}
		c.Log.Log(ctx, level, "function is not as it should be", "function", ref, "err", err)
		c.queue.AddRateLimited(ref)
	}
	return true
}

// reconcile brings one function nearer to what it should be. An error means
// that it should be tried again later; what the Function's author, or whoever
// gave the quota and the rights, can do something about is part of its status.
func (c *controller) reconcile(ctx context.Context, ref function.Ref) error {
	s, err := c.seen.look(ref)
	if err != nil {
		return nil // what it owned is removed by the cluster's garbage collector
	}
	applied, profiles, problem := c.apply(ctx, s)
	if problem != nil && !errors.Is(problem, fault.Invalid) && !errors.Is(problem, fault.Denied) {
		return problem
	}
	// Applying may have changed what is known.
	if s, err = c.seen.look(ref); err != nil {
		return nil
	}
	status := statusOf(s, problem, time.Now())
	status.Applied, status.Profiles = applied, profiles
	if reflect.DeepEqual(status, s.function.Status) {
		return problem
	}
	f := s.function.DeepCopy()
	f.Status = status
	written, err := c.clients.functions(ref.Namespace).UpdateStatus(ctx, f, metav1.UpdateOptions{FieldManager: managerApply})
	switch {
	case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
		return problem // a newer version is on its way here
	case err != nil:
		return fmt.Errorf("write the status of %s: %w", ref, err)
	}
	written.ManagedFields = nil
	c.seen.setFunction(written)
	return problem
}

// apply has the API server keep what s's Function stands for, unless it does
// already. It returns what identifies the two.
func (c *controller) apply(ctx context.Context, s snapshot) (applied string, in []ProfileStatus, err error) {
	f, w := s.function, s.workload
	if w != nil && w.owner != "" && w.owner != f.UID {
		// It belongs to a function of this name that was removed. It does not
		// become this one's, lest the garbage collector take it.
		err := c.clients.AppsV1().Deployments(f.Namespace).Delete(ctx, f.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &w.uid}, PropagationPolicy: new(metav1.DeletePropagationBackground),
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return "", nil, fmt.Errorf("delete the Deployment of a function that was removed: %w", err)
		}
		c.seen.dropWorkload(function.Ref{Name: f.Name, Namespace: f.Namespace}, w.uid)
		w = nil
	}
	src, err := c.source(ctx, f)
	for _, p := range src.Profiles {
		in = append(in, ProfileStatus{ProfileRef: ProfileRef{Name: p.Name, Namespace: p.Namespace}, ObservedGeneration: p.Generation})
	}
	if err != nil {
		return f.Status.Applied, in, err
	}
	if _, err := function.ReadScale(f.Spec.Labels); err != nil {
		return f.Status.Applied, in, err
	}
	o, err := render(src, c.Pods)
	if err != nil {
		return f.Status.Applied, in, err
	}
	want := o.hash()
	if w != nil && f.Status.Applied == want+"/"+w.spec+"/"+s.service {
		return f.Status.Applied, in, nil
	}
	var replicas *int32
	if least := scaleOf(f).Min; w == nil && least != 1 || w != nil && w.revision < f.Generation && w.replicas < least {
		replicas = new(int32(least))
	}
	deployment, service, err := c.send(ctx, o, replicas)
	if err != nil {
		return f.Status.Applied, in, err
	}
	return want + "/" + deployment + "/" + service, in, nil
}

// source finds what a function's objects are made from.
func (r *Runtime) source(ctx context.Context, f *Function) (source, error) {
	src := source{Function: f}
	var err error
	if src.Profiles, err = r.profiles.named(profileNames(f)); err != nil {
		return src, err
	}
	src.PullSecrets, err = r.secrets.pullSecrets(ctx, f.Namespace, f.Spec.Secrets)
	return src, err
}

// send applies objects and returns what identifies what the API server has
// made of them. The number of replicas is set only when one is given, and is
// then given to the manager who scales.
func (c *controller) send(ctx context.Context, o objects, replicas *int32) (deployment, service string, err error) {
	ref := function.Ref{Name: o.Deployment.Name, Namespace: o.Deployment.Namespace}
	o.Deployment.Spec.Replicas = replicas
	options := metav1.PatchOptions{FieldManager: managerApply, Force: new(true)}
	d, err := applied(ctx, c.clients.AppsV1().Deployments(ref.Namespace), o.Deployment, options)
	if err != nil {
		return "", "", fmt.Errorf("apply the Deployment: %w", err)
	}
	if replicas != nil {
		// Until both own it, the next apply without it would reset it.
		if _, err := c.applyScale(ctx, ref, *replicas); err != nil {
			return "", "", fmt.Errorf("set the number of replicas: %w", err)
		}
	}
	trimmed, err := trimDeployment(d)
	if err != nil {
		return "", "", err
	}
	w := newWorkload(trimmed.(*appsv1.Deployment))
	c.seen.setWorkload(ref, w)

	made, err := applied(ctx, c.clients.CoreV1().Services(ref.Namespace), o.Service, options)
	if err != nil {
		return "", "", fmt.Errorf("apply the Service: %w", err)
	}
	trimmed, err = trimService(made)
	if err != nil {
		return "", "", err
	}
	service = trimmed.(*corev1.Service).Annotations[annotationSpec]
	c.seen.setService(ref, service)
	c.Log.Info("function applied", "function", ref, "revision", w.revision)
	return w.spec, service, nil
}

// A patcher is a client that can apply.
type patcher[T any] interface {
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, o metav1.PatchOptions, subresources ...string) (T, error)
}

// applied applies an object and returns what the API server has made of it.
// Errors that the object itself is to blame for are fault.Invalid.
func applied[T metav1.Object](ctx context.Context, by patcher[T], o T, options metav1.PatchOptions) (T, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return o, fmt.Errorf("encode: %w", err)
	}
	result, err := by.Patch(ctx, o.GetName(), types.ApplyPatchType, text, options)
	return result, kind(err)
}

// applyScale sets the number of replicas of a function's Deployment, and
// returns the version of the Deployment that has it.
func (r *Runtime) applyScale(ctx context.Context, ref function.Ref, replicas int32) (resourceVersion string, err error) {
	want := autoscalingac.Scale().WithName(ref.Name).WithNamespace(ref.Namespace).WithSpec(autoscalingac.ScaleSpec().WithReplicas(replicas))
	scale, err := r.clients.AppsV1().Deployments(ref.Namespace).ApplyScale(ctx, ref.Name, want, metav1.ApplyOptions{FieldManager: managerScale, Force: true})
	if err != nil {
		return "", kind(err)
	}
	return scale.ResourceVersion, nil
}

// kind gives an error of the API server a kind of ours.
func kind(err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err), apierrors.IsGone(err):
		return fault.NotFound.Errorf("%w", err)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return fault.Invalid.Errorf("%w", err)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fault.Denied.Errorf("the cluster does not allow it: %w", err)
	case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err):
		return fault.Exists.Errorf("%w", err)
	case apierrors.IsTooManyRequests(err), apierrors.IsServiceUnavailable(err), apierrors.IsServerTimeout(err), apierrors.IsTimeout(err):
		return fault.Unavailable.Errorf("the Kubernetes API: %w", err)
	}
	var answered apierrors.APIStatus
	if !errors.As(err, &answered) && !errors.Is(err, context.Canceled) {
		return fault.Unavailable.Errorf("the Kubernetes API cannot be reached: %w", err)
	}
	return err
}

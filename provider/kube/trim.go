package kube

import (
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/graphene-faas/graphene/internal/function"
)

// What is watched is cut down to what is used before it is kept, so that
// thousands of functions fit into little memory. These are the transforms of
// the informers; all other code sees only what they return.

func trimMeta(m *metav1.ObjectMeta, annotations ...string) metav1.ObjectMeta {
	kept := metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID,
		ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
		OwnerReferences: m.OwnerReferences,
	}
	if name := m.Labels[function.LabelName]; name != "" {
		kept.Labels = map[string]string{function.LabelName: name}
	}
	for _, a := range annotations {
		if v, ok := m.Annotations[a]; ok {
			if kept.Annotations == nil {
				kept.Annotations = map[string]string{}
			}
			kept.Annotations[a] = v
		}
	}
	return kept
}

func trimFunction(obj any) (any, error) {
	if f, ok := obj.(*Function); ok {
		f.ManagedFields = nil
	}
	return obj, nil
}

func trimPod(obj any) (any, error) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	kept := &corev1.Pod{
		ObjectMeta: trimMeta(&p.ObjectMeta, annotationRevision, annotationFunction, annotationCost),
		Status:     corev1.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP},
	}
	kept.OwnerReferences = nil
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady || c.Type == corev1.PodScheduled {
			kept.Status.Conditions = append(kept.Status.Conditions, corev1.PodCondition{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message})
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		kept.Status.ContainerStatuses = append(kept.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, State: c.State, LastTerminationState: c.LastTerminationState, Ready: c.Ready, RestartCount: c.RestartCount, ContainerID: c.ContainerID,
		})
	}
	return kept, nil
}

// trimPull cuts down the events by which the kubelet tells of images.
func trimPull(obj any) (any, error) {
	e, ok := obj.(*corev1.Event)
	if !ok {
		return obj, nil
	}
	kept := &corev1.Event{ObjectMeta: trimMeta(&e.ObjectMeta)}
	kept.InvolvedObject.Namespace, kept.InvolvedObject.Name = e.InvolvedObject.Namespace, e.InvolvedObject.Name
	if e.InvolvedObject.Kind == "Pod" {
		kept.Message = e.Message
	}
	return kept, nil
}

func trimDeployment(obj any) (any, error) {
	d, ok := obj.(*appsv1.Deployment)
	if !ok {
		return obj, nil
	}
	kept := &appsv1.Deployment{
		ObjectMeta: trimMeta(&d.ObjectMeta, annotationRevision),
		Spec:       appsv1.DeploymentSpec{Replicas: d.Spec.Replicas},
		Status:     d.Status,
	}
	spec := d.Spec
	spec.Replicas = nil // not ours to repair
	keepSpec(&kept.ObjectMeta, d.Labels, withoutRevisions(d.Annotations), d.OwnerReferences, spec)
	return kept, nil
}

// withoutRevisions drops what the Deployment controller writes.
func withoutRevisions(annotations map[string]string) map[string]string {
	kept := maps.Clone(annotations)
	delete(kept, "deployment.kubernetes.io/revision")
	return kept
}

func trimService(obj any) (any, error) {
	s, ok := obj.(*corev1.Service)
	if !ok {
		return obj, nil
	}
	kept := &corev1.Service{ObjectMeta: trimMeta(&s.ObjectMeta)}
	keepSpec(&kept.ObjectMeta, s.Labels, s.Annotations, s.OwnerReferences, s.Spec)
	return kept, nil
}

// keepSpec notes in m what the parts were that could be changed by others.
func keepSpec(m *metav1.ObjectMeta, parts ...any) {
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[annotationSpec] = hashOf(parts...)
}

// refOf returns the function that an object with the label faas_function
// belongs to.
func refOf(m metav1.Object) function.Ref {
	return function.Ref{Name: m.GetLabels()[function.LabelName], Namespace: m.GetNamespace()}
}

// A workload is what is known of a function's Deployment.
type workload struct {
	uid, owner      types.UID // of the Deployment and of its Function
	resourceVersion string
	spec            string // identifies what could have been changed by others
	revision        int64  // of the function, as applied
	replicas        int    // that should run
	updated         int    // of the current pod template
	total           int
	available       int
	settled         bool   // the status is about the current spec
	failure         string // why no pods can be made, or become ready in time
}

func newWorkload(d *appsv1.Deployment) *workload {
	w := &workload{
		uid:             d.UID,
		resourceVersion: d.ResourceVersion,
		spec:            d.Annotations[annotationSpec],
		replicas:        1,
		updated:         int(d.Status.UpdatedReplicas),
		total:           int(d.Status.Replicas),
		available:       int(d.Status.AvailableReplicas),
		settled:         d.Status.ObservedGeneration >= d.Generation,
	}
	if owner := metav1.GetControllerOf(d); owner != nil {
		w.owner = owner.UID
	}
	if d.Spec.Replicas != nil {
		w.replicas = int(*d.Spec.Replicas)
	}
	// One that is not ours has no revision, which is as good as an old one.
	w.revision, _ = strconv.ParseInt(d.Annotations[annotationRevision], 10, 64)
	for _, c := range d.Status.Conditions {
		switch {
		case c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue:
			w.failure = "no replica can be made: " + c.Message
		case c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded" && w.failure == "":
			w.failure = "no replica became ready within load_timeout"
		}
	}
	return w
}

package kube

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The conditions of a Function. Ready and Healthy are what people wait for;
// Reconciling and Stalled are those that tools such as Flux know.
const (
	conditionReady       = "Ready"       // everything runs as the newest version says
	conditionHealthy     = "Healthy"     // calls are answered, by whichever version, or would wake it
	conditionReconciling = "Reconciling" // it is on its way
	conditionStalled     = "Stalled"     // it is not: something must be changed

	reasonRefused = "Refused" // of Stalled: no pods are made for this version
	reasonFailed  = "Failed"  // of Stalled: its pods do not start
)

// statusOf says what has become of a function. problem, if there is one, is
// why the newest version cannot be applied.
func statusOf(s snapshot, problem error, now time.Time) FunctionStatus {
	f, w := s.function, s.workload
	if w != nil && w.owner != f.UID {
		w = nil
	}
	replicas := desired(f, w)
	status := FunctionStatus{
		ObservedGeneration: f.Generation,
		Conditions:         slices.Clone(f.Status.Conditions),
		Replicas:           int32(replicas),
	}
	if w != nil {
		status.AvailableReplicas = int32(w.available)
		status.UnavailableReplicas = int32(max(0, w.replicas-w.available))
	}
	set := func(condition string, is bool, reason, message string) {
		c := metav1.Condition{Type: condition, Status: metav1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: f.Generation, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))}
		if is {
			c.Status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&status.Conditions, c)
	}

	failure, reason := startFailure(f, w, s.pods), reasonFailed
	if problem != nil {
		failure, reason = problem.Error(), reasonRefused
	}
	done := w != nil && w.revision == f.Generation && w.settled && w.updated >= w.replicas && w.available >= w.replicas && w.total <= w.replicas
	progress := fmt.Sprintf("%d of %d replicas are available", status.AvailableReplicas, replicas)
	if waiting := waitingOf(f, s.pods); waiting != "" {
		progress += "; " + waiting
	}
	switch {
	case problem != nil || failure != "" && !done:
		set(conditionReady, false, reason, failure)
		set(conditionReconciling, false, reason, "")
		set(conditionStalled, true, reason, failure)
	case done && replicas == 0:
		set(conditionReady, true, "Asleep", "the first call wakes it")
		set(conditionReconciling, false, "Done", "")
		set(conditionStalled, false, "Done", "")
	case done:
		set(conditionReady, true, "Available", progress)
		set(conditionReconciling, false, "Done", "")
		set(conditionStalled, false, "Done", "")
	default:
		set(conditionReady, false, "Progressing", progress)
		set(conditionReconciling, true, "Progressing", progress)
		set(conditionStalled, false, "Progressing", "")
	}
	switch {
	case status.AvailableReplicas > 0:
		set(conditionHealthy, true, "Available", progress)
	case replicas == 0 && w != nil:
		set(conditionHealthy, true, "Asleep", "the first call wakes it")
	default:
		set(conditionHealthy, false, "Unavailable", progress)
	}
	return status
}

// refusal says why the newest version of a function is not even tried, as the
// controller has written it down.
func refusal(f *Function) string {
	c := meta.FindStatusCondition(f.Status.Conditions, conditionStalled)
	if c == nil || c.Status != metav1.ConditionTrue || c.Reason != reasonRefused || c.ObservedGeneration != f.Generation {
		return ""
	}
	return c.Message
}

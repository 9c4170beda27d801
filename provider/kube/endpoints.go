package kube

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/graphene-faas/graphene/internal/function"
)

// endpoints describes where a function lives, from its resource, its
// Deployment (nil if there is none yet) and its pods. throughService hides the
// pods behind the function's Service. What the starts of replicas have taken
// is not part of it.
func endpoints(f *Function, w *workload, pods map[string]*corev1.Pod, throughService bool) function.Endpoints {
	scale := scaleOf(f)
	e := function.Endpoints{
		Ref:         function.Ref{Name: f.Name, Namespace: f.Namespace},
		Revision:    f.Generation,
		Desired:     desired(f, w),
		Min:         max(1, scale.Min),
		Scale:       scale,
		Settings:    settingsOf(f),
		Annotations: function.CallAnnotations(f.Spec.Annotations),
		Failure:     failureOf(f, w, pods),
		Waiting:     waitingOf(f, pods),
	}
	for _, name := range slices.Sorted(maps.Keys(pods)) {
		p := pods[name]
		if !serves(f, p) || p.Status.PodIP == "" {
			continue
		}
		e.Replicas = append(e.Replicas, function.Replica{
			ID:       p.Name,
			Address:  "tcp:" + net.JoinHostPort(p.Status.PodIP, strconv.Itoa(port)),
			Revision: revisionOf(p),
			Ready:    isReady(p),
			Slots:    cmp.Or(e.Settings.MaxInflight, e.Settings.Workers),
			Guessed:  e.Settings.MaxInflight == 0 && e.Settings.Workers > 0,
		})
	}
	if throughService && len(e.Replicas) > 0 {
		e.Replicas = []function.Replica{behindService(e)}
	}
	return e
}

// behindService is one replica that stands for all of e: ready if any is, and
// of the newest version of which one is ready.
func behindService(e function.Endpoints) function.Replica {
	all := function.Replica{ID: e.Name, Address: fmt.Sprintf("tcp:%s.%s.svc:%d", e.Name, e.Namespace, port)}
	for _, r := range e.Replicas {
		if r.Ready {
			all.Ready, all.Revision = true, max(all.Revision, r.Revision)
		}
	}
	if !all.Ready {
		all.Revision = e.Revision
	}
	return all
}

// belongs reports whether p was made for f, and not for another function that
// had its name before.
func belongs(f *Function, p *corev1.Pod) bool {
	return p.Annotations[annotationFunction] == string(f.UID)
}

// serves reports whether p is a replica of f that means to stay.
func serves(f *Function, p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && belongs(f, p) &&
		p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded
}

func revisionOf(p *corev1.Pod) int64 {
	revision, err := strconv.ParseInt(p.Annotations[annotationRevision], 10, 64)
	if err != nil {
		return 0
	}
	return revision
}

// isReady is what the kubelet says. EndpointSlices are made from the same
// condition, later.
func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// desired is how many replicas there should be. Until the Deployment follows
// the Function, it is what it will be then: a deploy wakes a function.
func desired(f *Function, w *workload) int {
	switch least := scaleOf(f).Min; {
	case w == nil || w.owner != f.UID:
		return least
	case w.revision < f.Generation:
		return max(w.replicas, least)
	}
	return w.replicas
}

// scaleOf reads the bounds of a function. Labels that cannot be read are
// refused on every way but "kubectl apply"; there they count as not set, and
// the status says so.
func scaleOf(f *Function) function.Scale {
	scale, err := function.ReadScale(f.Spec.Labels)
	if err != nil {
		return function.Scale{Min: 1}
	}
	return scale
}

// settingsOf reads the settings of a function, as scaleOf does.
func settingsOf(f *Function) function.Settings {
	settings, err := function.ReadSettings(f.Spec.Annotations, f.Spec.Environment)
	if err != nil {
		settings, _ = function.ReadSettings(nil, nil)
	}
	return settings
}

// failureOf says why the newest version of a function does not run, when that
// is known.
func failureOf(f *Function, w *workload, pods map[string]*corev1.Pod) string {
	return cmp.Or(refusal(f), startFailure(f, w, pods))
}

// startFailure says why no pod of the newest version becomes ready, when that
// is known.
func startFailure(f *Function, w *workload, pods map[string]*corev1.Pod) string {
	var reasons []string
	for _, p := range pods {
		if !serves(f, p) || revisionOf(p) != f.Generation {
			continue
		}
		if isReady(p) {
			return ""
		}
		if reason := podFailure(p); reason != "" {
			reasons = append(reasons, reason)
		}
	}
	if len(reasons) > 0 {
		return slices.Min(reasons) // any will do, but always the same
	}
	if w != nil && w.owner == f.UID && w.revision == f.Generation && w.replicas > 0 {
		return w.failure
	}
	return ""
}

// ranWell is for how long a container runs whose end is an accident. It is
// started again; one that ends sooner has failed.
const ranWell = 10 * time.Second

// waitingOf says what keeps pods of the newest version from starting although
// nothing has failed: that no node can take them. A cluster may be about to get
// one that can, so nobody gives up for it.
func waitingOf(f *Function, pods map[string]*corev1.Pod) string {
	var reasons []string
	for _, p := range pods {
		if !serves(f, p) || revisionOf(p) != f.Generation {
			continue
		}
		if c := scheduled(p); c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			reasons = append(reasons, "no node can take a replica: "+oneLine(c.Message))
		}
	}
	if len(reasons) == 0 {
		return ""
	}
	return slices.Min(reasons) // any will do, but always the same
}

// scheduled is the condition that says whether a place was found for p.
func scheduled(p *corev1.Pod) corev1.PodCondition {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return c
		}
	}
	return corev1.PodCondition{}
}

// podFailure says why a pod does not become ready, when that is known.
func podFailure(p *corev1.Pod) string {
	for _, c := range p.Status.ContainerStatuses {
		if waiting := c.State.Waiting; waiting != nil {
			switch waiting.Reason {
			case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "SignatureValidationFailed":
				return "the image cannot be pulled: " + oneLine(cmp.Or(waiting.Message, waiting.Reason))
			case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
				return "the replica cannot start: " + oneLine(cmp.Or(waiting.Message, waiting.Reason))
			case "CrashLoopBackOff":
				if t := c.LastTerminationState.Terminated; t != nil {
					return "replicas end again and again: " + ending(t)
				}
				return "replicas end again and again"
			}
		}
		for _, t := range []*corev1.ContainerStateTerminated{c.State.Terminated, c.LastTerminationState.Terminated} {
			if t != nil && t.FinishedAt.Sub(t.StartedAt.Time) < ranWell {
				return "the replica ended: " + ending(t)
			}
		}
	}
	return ""
}

// ending tells how a container ended, with the last that it printed.
func ending(t *corev1.ContainerStateTerminated) string {
	how := fmt.Sprintf("exit status %d", t.ExitCode)
	switch {
	case t.Reason == "OOMKilled":
		how = "it used more memory than its limit"
	case t.Signal != 0:
		how = fmt.Sprintf("signal %d", t.Signal)
	}
	if said := lastLines(t.Message, 3); said != "" {
		how += ": " + said
	}
	return how
}

// stamp is what watchdogs put before what a function prints.
var stamp = regexp.MustCompile(`^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (?:(?:stderr|stdout): )?`)

// lastLines returns the last n lines of text that say something, as one line:
// reasons are shown where there is room for no more.
func lastLines(text string, n int) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = oneLine(stamp.ReplaceAllString(strings.TrimSpace(line), "")); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

package kube

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/graphene-faas/graphene/internal/function"
)

func testFunction(generation int64) *Function {
	return &Function{
		ObjectMeta: metav1.ObjectMeta{Name: "echo", Namespace: "openfaas-fn", UID: "new", Generation: generation},
		Spec:       FunctionSpec{Name: "echo", Image: "echo"},
	}
}

func testPod(name, ip, revision string, ready bool, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "openfaas-fn", Labels: map[string]string{function.LabelName: "echo"},
			Annotations: map[string]string{annotationFunction: "new", annotationRevision: revision},
		},
		Status: corev1.PodStatus{PodIP: ip, Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}},
	}
	if ready {
		p.Status.Conditions[0].Status = corev1.ConditionTrue
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func byName(pods ...*corev1.Pod) map[string]*corev1.Pod {
	all := map[string]*corev1.Pod{}
	for _, p := range pods {
		all[p.Name] = p
	}
	return all
}

func leaving(p *corev1.Pod)  { p.DeletionTimestamp = new(metav1.Now()) }
func ofTheOld(p *corev1.Pod) { p.Annotations[annotationFunction] = "old" }
func evicted(p *corev1.Pod)  { p.Status.Phase = corev1.PodFailed }

func TestReplicasArePodsThatHaveAnAddressAndMeanToStay(t *testing.T) {
	pods := byName(
		testPod("b", "10.0.0.2", "3", false),
		testPod("a", "10.0.0.1", "2", true),
		testPod("six", "fd00::6", "3", true),
		testPod("scheduled", "", "3", false),
		testPod("leaving", "10.0.0.3", "3", true, leaving),
		testPod("stranger", "10.0.0.4", "3", true, ofTheOld),
		testPod("evicted", "10.0.0.5", "3", true, evicted),
	)
	f := testFunction(3)
	f.Spec.Annotations = map[string]string{"com.graphene.max_inflight": "4", "com.openfaas.queue": "slow", "topic": "t"}
	e := endpoints(f, &workload{owner: "new", revision: 3, replicas: 2}, pods, false)
	want := []function.Replica{
		{ID: "a", Address: "tcp:10.0.0.1:8080", Revision: 2, Ready: true, Slots: 4},
		{ID: "b", Address: "tcp:10.0.0.2:8080", Revision: 3, Slots: 4},
		{ID: "six", Address: "tcp:[fd00::6]:8080", Revision: 3, Ready: true, Slots: 4},
	}
	if diff := cmp.Diff(want, e.Replicas); diff != "" {
		t.Errorf("replicas (-want +got)\n%s", diff)
	}
	if e.Revision != 3 || e.Desired != 2 || e.Min != 1 || e.Annotations["com.openfaas.queue"] != "slow" || len(e.Annotations) != 1 {
		t.Errorf("endpoints of %s are %+v", e.Ref, e.Settings)
	}

	e = endpoints(f, nil, pods, true)
	want = []function.Replica{{ID: "echo", Address: "tcp:echo.openfaas-fn.svc:8080", Revision: 3, Ready: true}}
	if diff := cmp.Diff(want, e.Replicas); diff != "" {
		t.Errorf("through the service (-want +got)\n%s", diff)
	}
	if e = endpoints(f, nil, nil, true); e.Replicas != nil {
		t.Errorf("a service without pods is reported as %+v", e.Replicas)
	}
}

func TestADeployWakesAndAScaleIsKept(t *testing.T) {
	for _, tt := range []struct {
		what string
		min  string
		w    *workload
		want int
	}{
		{"nothing yet", "", nil, 1},
		{"nothing yet, more wanted", "3", nil, 3},
		{"nothing yet, none wanted", "0", nil, 0},
		{"the old function's", "2", &workload{owner: "old", revision: 9, replicas: 7}, 2},
		{"asleep", "", &workload{owner: "new", revision: 3, replicas: 0}, 0},
		{"asleep, deployed again", "", &workload{owner: "new", revision: 2, replicas: 0}, 1},
		{"many, deployed again", "2", &workload{owner: "new", revision: 2, replicas: 5}, 5},
		{"scaled", "", &workload{owner: "new", revision: 3, replicas: 5}, 5},
	} {
		f := testFunction(3)
		if tt.min != "" {
			f.Spec.Labels = map[string]string{function.LabelScaleMin: tt.min}
		}
		if got := desired(f, tt.w); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.what, got, tt.want)
		}
	}
}

func waits(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
	}
}

// ended has a container that ran for a time and ended; its successor is what
// now says.
func ended(after time.Duration, code int32, reason, said string, now corev1.ContainerState) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		last := &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: said, StartedAt: metav1.NewTime(start), FinishedAt: metav1.NewTime(start.Add(after))}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: now, LastTerminationState: corev1.ContainerState{Terminated: last}, RestartCount: 1}}
	}
}

func TestWhyAFunctionDoesNotStart(t *testing.T) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	backOff := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	unschedulable := func(p *corev1.Pod) { // a node may come that can take it
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1 nodes are available: 1 Insufficient memory."})
	}
	quota := &workload{owner: "new", revision: 3, replicas: 1, failure: "no replica can be made: exceeded quota"}
	for _, tt := range []struct {
		what string
		w    *workload
		pods map[string]*corev1.Pod
		want string
	}{
		{"no pods yet", nil, nil, ""},
		{"starting", nil, byName(testPod("a", "", "3", false, waits("ContainerCreating", ""))), ""},
		{"no image", nil, byName(testPod("a", "", "3", false, waits("ImagePullBackOff", "Back-off pulling\n image"))), "the image cannot be pulled: Back-off pulling image"},
		{"no name", nil, byName(testPod("a", "", "3", false, waits("InvalidImageName", ""))), "the image cannot be pulled: InvalidImageName"},
		{"root", nil, byName(testPod("a", "", "3", false, waits("CreateContainerConfigError", "image will run as root"))), "the replica cannot start: image will run as root"},
		{"first crash", nil, byName(testPod("a", "", "3", false, ended(time.Second, 3, "Error", "one\n2026/11/23 10:08:20 stderr:   two\n", running))), "the replica ended: exit status 3: one; two"},
		{"an accident", nil, byName(testPod("a", "", "3", false, ended(time.Hour, 3, "Error", "", running))), ""},
		{"again and again", nil, byName(testPod("a", "", "3", false, ended(time.Hour, 137, "OOMKilled", "", backOff))), "replicas end again and again: it used more memory than its limit"},
		{"nowhere yet", nil, byName(testPod("a", "", "3", false, unschedulable)), ""},
		{"quota", quota, nil, "no replica can be made: exceeded quota"},
		{"quota, of the old version", &workload{owner: "new", revision: 2, replicas: 1, failure: "x"}, nil, ""},
		{"another is ready", nil, byName(testPod("a", "", "3", false, waits("ImagePullBackOff", "")), testPod("b", "", "3", true)), ""},
		{"the old version fails", nil, byName(testPod("a", "", "2", false, waits("ImagePullBackOff", ""))), ""},
		{"it is on its way out", nil, byName(testPod("a", "", "3", false, waits("ImagePullBackOff", ""), leaving)), ""},
	} {
		if got := failureOf(testFunction(3), tt.w, tt.pods); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
	}
}

func TestAPodThatNoNodeCanTakeWaits(t *testing.T) {
	crowded := func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1 nodes are available:\n1 Insufficient memory."})
	}
	for _, tt := range []struct {
		what string
		pod  *corev1.Pod
		want string
	}{
		{"new", testPod("a", "", "3", false, crowded), "no node can take a replica: 0/1 nodes are available: 1 Insufficient memory."},
		{"of the old version", testPod("a", "", "2", false, crowded), ""},
		{"on its way out", testPod("a", "", "3", false, crowded, leaving), ""},
		{"with a place", testPod("a", "", "3", false), ""},
	} {
		e := endpoints(testFunction(3), nil, byName(tt.pod), false)
		if e.Waiting != tt.want || e.Failure != "" {
			t.Errorf("%s: waiting %q, failure %q, want %q and none", tt.what, e.Waiting, e.Failure, tt.want)
		}
		status := statusOf(snapshot{function: testFunction(3), pods: byName(tt.pod)}, nil, time.Unix(1, 0))
		if c := meta.FindStatusCondition(status.Conditions, conditionReconciling); c == nil || c.Status != metav1.ConditionTrue || !strings.Contains(c.Message, tt.want) {
			t.Errorf("%s: the condition is %+v", tt.what, c)
		}
	}
}

func TestTheTimeOfAStartIsTold(t *testing.T) {
	var b birth
	at := time.Unix(1000, 0)
	place := func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
	}
	b.see(testPod("a", "", "3", false), at)
	b.see(testPod("a", "", "3", false, place), at.Add(20*time.Millisecond))
	b.pulled = 300 * time.Millisecond
	b.see(testPod("a", "10.0.0.1", "3", false, place), at.Add(470*time.Millisecond))
	b.see(testPod("a", "10.0.0.1", "3", true, place), at.Add(time.Hour))
	if got, want := b.startup(), (function.Startup{Pull: function.Duration(300 * time.Millisecond), Start: function.Duration(150 * time.Millisecond)}); got != want {
		t.Errorf("the start took %+v, want %+v", got, want)
	}
	var late birth // who comes when it is over knows nothing of it
	late.see(testPod("a", "10.0.0.1", "3", true, place), at)
	if got := late.startup(); got != (function.Startup{}) {
		t.Errorf("the start that nobody saw took %+v", got)
	}
	for message, want := range map[string]time.Duration{
		`Successfully pulled image "x:1" in 1.25s (3.5s including waiting). Image size: 7 bytes.`: 3500 * time.Millisecond,
		`Successfully pulled image "x in 9s:1" in 6ms (6ms including waiting)`:                    6 * time.Millisecond,
		`Container image "x:1" already present on machine`:                                        0,
	} {
		if got := pullTime(message); got != want {
			t.Errorf("%s: %v, want %v", message, got, want)
		}
	}
}

func TestOnlyTheLastOfWhatAReplicaSaidIsRepeated(t *testing.T) {
	if got, want := lastLines(strings.Repeat("noise\n\n", 100)+"a\nb\n\n", 2), "a; b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestConditionsSayWhereAFunctionIs(t *testing.T) {
	done := workload{owner: "new", revision: 3, replicas: 1, updated: 1, total: 1, available: 1, settled: true}
	change := func(c func(w *workload)) *workload {
		w := done
		c(&w)
		return &w
	}
	for _, tt := range []struct {
		what    string
		w       *workload
		pods    map[string]*corev1.Pod
		problem error
		want    string // Ready, Healthy, Reconciling, Stalled
	}{
		{"nothing yet", nil, nil, nil, "False/Progressing False/Unavailable True/Progressing False/Progressing"},
		{"done", &done, nil, nil, "True/Available True/Available False/Done False/Done"},
		{"asleep", change(func(w *workload) { w.replicas, w.updated, w.total, w.available = 0, 0, 0, 0 }), nil, nil, "True/Asleep True/Asleep False/Done False/Done"},
		{"an update begins", change(func(w *workload) { w.revision = 2 }), nil, nil, "False/Progressing True/Available True/Progressing False/Progressing"},
		{"an old replica is left", change(func(w *workload) { w.total = 2 }), nil, nil, "False/Progressing True/Available True/Progressing False/Progressing"},
		{"not seen by its controller", change(func(w *workload) { w.settled = false }), nil, nil, "False/Progressing True/Available True/Progressing False/Progressing"},
		{"an update fails", change(func(w *workload) { w.total = 2 }), byName(testPod("a", "", "3", false, waits("ImagePullBackOff", ""))), nil, "False/Failed True/Available False/Failed True/Failed"},
		{"a start fails", change(func(w *workload) { w.available = 0 }), byName(testPod("a", "", "3", false, waits("ImagePullBackOff", ""))), nil, "False/Failed False/Unavailable False/Failed True/Failed"},
		{"refused", &done, nil, errNoSuchProfile, "False/Refused True/Available False/Refused True/Refused"},
	} {
		f := testFunction(3)
		f.Status.Conditions = []metav1.Condition{{Type: conditionStalled, Status: metav1.ConditionTrue, Reason: reasonRefused, Message: "old", ObservedGeneration: 2}}
		status := statusOf(snapshot{function: f, workload: tt.w, pods: tt.pods}, tt.problem, time.Unix(1, 0))
		var got []string
		for _, condition := range []string{conditionReady, conditionHealthy, conditionReconciling, conditionStalled} {
			for _, c := range status.Conditions {
				if c.Type == condition {
					got = append(got, string(c.Status)+"/"+c.Reason)
					if c.ObservedGeneration != 3 {
						t.Errorf("%s: %s is about generation %d", tt.what, c.Type, c.ObservedGeneration)
					}
				}
			}
		}
		if got := strings.Join(got, " "); got != tt.want {
			t.Errorf("%s:\n got  %s\n want %s", tt.what, got, tt.want)
		}
		f.Status = status
		if wants := tt.problem != nil; (refusal(f) != "") != wants {
			t.Errorf("%s: the refusal is %q", tt.what, refusal(f))
		}
	}
}

var _, errNoSuchProfile = newProfiles(func(string) {}).named([]string{"none"})

func TestLoadsAreAddedUpAndForgotten(t *testing.T) {
	l, echo, now := newLoads(), function.Ref{Name: "echo", Namespace: "openfaas-fn"}, time.Unix(1000, 0)
	report := func(gateway string, at time.Time, pods map[string]int) {
		l.report(gateway, map[function.Ref]map[string]int{echo: pods}, at)
	}
	report("one", now, map[string]int{"a": 3})
	report("one", now.Add(time.Second), map[string]int{"a": 1, "b": 2})
	report("two", now.Add(8*time.Second), map[string]int{"b": 5})
	if diff := cmp.Diff(map[string]int{"a": 1, "b": 7}, l.of(echo, now.Add(9*time.Second))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]int{"b": 5}, l.of(echo, now.Add(12*time.Second))); diff != "" {
		t.Error(diff)
	}
	report("three", now.Add(time.Minute), nil)
	if len(l.gateways) != 1 {
		t.Errorf("%d gateways are remembered", len(l.gateways))
	}
}

func TestBusyPodsCostSomethingWhereOthersAreIdle(t *testing.T) {
	echo, start := function.Ref{Name: "echo", Namespace: "openfaas-fn"}, time.Unix(1000, 0)
	pods := byName(testPod("a", "10.0.0.1", "3", true), testPod("b", "10.0.0.2", "3", true), testPod("gone", "10.0.0.3", "3", true, leaving))
	last := map[marked]time.Time{}
	at := func(after time.Duration, busy map[string]int, want map[string]string) {
		t.Helper()
		got := costs(echo, snapshot{function: testFunction(3), pods: pods}, busy, last, start.Add(after), mostCosts)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after %v (-want +got)\n%s", after, diff)
		}
		for name, cost := range got { // as the informer will tell
			pods[name] = pods[name].DeepCopy()
			pods[name].Annotations[annotationCost] = cost
		}
	}
	none := map[string]string{}
	at(0, nil, none)
	at(5*time.Second, map[string]int{"a": 1, "b": 2, "gone": 1}, none) // all are: it makes no difference
	at(10*time.Second, map[string]int{"a": 3}, map[string]string{"a": "1"})
	at(15*time.Second, map[string]int{"a": 1}, none)
	at(20*time.Second, nil, none)                            // for a moment
	at(25*time.Second, map[string]int{"a": 7, "b": 1}, none) // again
	at(30*time.Second, map[string]int{"b": 1}, map[string]string{"b": "1"})
	at(40*time.Second, map[string]int{"b": 1}, none)
	at(60*time.Second, map[string]int{"b": 1}, map[string]string{"a": "0"}) // for long
	if len(last) != 1 {
		t.Errorf("%d pods are remembered, want one", len(last))
	}

	// What another provider has marked is not ours to take away.
	pods["a"].Annotations[annotationCost] = "5"
	at(2*time.Minute, map[string]int{"b": 1}, none)
	if got := costs(echo, snapshot{function: testFunction(3), pods: byName(testPod("x", "1", "3", true), testPod("y", "2", "3", true), testPod("z", "3", "3", true))}, map[string]int{"x": 1, "y": 1}, last, start, 1); len(got) != 1 {
		t.Errorf("%d pods are marked at once, want the one that may be", len(got))
	}
	costs(echo, snapshot{}, nil, last, start, mostCosts)
	if len(last) != 0 {
		t.Errorf("%d pods of a function that was removed are remembered", len(last))
	}
}

func TestLinesOfALogAreSplitFromTheirTimes(t *testing.T) {
	at := time.Date(2026, 11, 23, 9, 0, 0, 123456789, time.UTC)
	for line, want := range map[string]string{
		"2026-11-23T09:00:00.123456789Z hello world\n":    "hello world\n",
		"2026-11-23T10:00:00.123456789+01:00  indented\n": " indented\n",
		"2026-11-23T09:00:00.123456789Z \n":               "\n",
		"2026-11-23T09:00:00.123456789Z\n":                "\n",
		"2026-11-23T09:00:00.123456789Z cut off":          "cut off\n",
	} {
		if got, text := parseLine(line); !got.Equal(at) || text != want {
			t.Errorf("%q is %v, %q; want %q", line, got, text, want)
		}
	}
	if at, text := parseLine("unable to retrieve logs\n"); !at.IsZero() || text != "unable to retrieve logs\n" {
		t.Errorf("what the kubelet says itself is %v, %q", at, text)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add("2026-11-23T09:00:00.123456789Z hello\n")
	f.Add(" ")
	f.Fuzz(func(t *testing.T, line string) {
		if _, text := parseLine(line); !strings.HasSuffix(text, "\n") {
			t.Errorf("%q gives %q", line, text)
		}
	})
}

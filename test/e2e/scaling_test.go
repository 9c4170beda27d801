package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/testkit"
)

// sleeper is a function that takes as long as its query says, in milliseconds.
const sleeper = `package function

import (
	"io"
	"net/http"
	"strconv"
	"time"
)

func Handle(w http.ResponseWriter, r *http.Request) {
	ms, _ := strconv.Atoi(r.URL.RawQuery)
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
	case <-r.Context().Done():
	}
	io.WriteString(w, "slept")
}
`

// sleeperFunction deploys a sleeper with further lines of stack.yaml.
func (p *platform) sleeperFunction(name string, more ...string) {
	p.t.Helper()
	p.write(name+"/handler.go", sleeper)
	p.stack(name, "go", more...)
	p.cli("up", "-f", name+".yml")
}

func scaleLabels(kv ...string) string {
	var all []string
	for i := 0; i < len(kv); i += 2 {
		all = append(all, fmt.Sprintf("com.openfaas.scale.%s: %q", kv[i], kv[i+1]))
	}
	return "labels: {" + strings.Join(all, ", ") + "}"
}

// asleep puts a function to sleep and waits until it is.
func (p *platform) asleep(name string) {
	p.t.Helper()
	p.cli("scale", name, "--replicas", "0")
	testkit.Eventually(p.t, name+" sleeps", func() bool { s := p.status(name); return s.Replicas == 0 && s.AvailableReplicas == 0 })
}

// atOnce sends n calls together. It returns how many were answered with each
// status, and the times they took, shortest first.
func (p *platform) atOnce(n int, path string) (map[int]int, []time.Duration) {
	p.t.Helper()
	var mu sync.Mutex
	statuses, times := map[int]int{}, []time.Duration{}
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			began := time.Now()
			a, err := p.do("GET", path, "")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				p.t.Errorf("GET %s: %v", path, err)
			}
			statuses[a.status]++
			times = append(times, time.Since(began))
		})
	}
	all.Wait()
	slices.Sort(times)
	return statuses, times
}

// busy keeps callers calling until the function that it returns is called.
func (p *platform) busy(callers int, path string, each func(answer)) (stop func()) {
	done := make(chan struct{})
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				a, err := p.do("GET", path, "")
				if err != nil {
					p.t.Errorf("GET %s: %v", path, err)
					return
				}
				each(a)
			}
		})
	}
	return func() { close(done); all.Wait() }
}

func succeeds(p *platform) func(answer) {
	return func(a answer) {
		if a.status != 200 {
			p.t.Errorf("a call was answered %d %q", a.status, a.body)
		}
	}
}

func (p *platform) scaling(name string) client.Scaling {
	p.t.Helper()
	var s client.Scaling
	p.json("/system/function/"+name+"/scaling", &s)
	return s
}

// mostReplicas watches how many replicas a function has at most, until stop.
func (p *platform) mostReplicas(name string) (stop func() int) {
	var most atomic.Int64
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			s := p.status(name)
			most.Store(max(most.Load(), int64(max(s.Replicas, s.AvailableReplicas))))
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return func() int { close(done); watch.Wait(); return int(most.Load()) }
}

func TestTheNumberOfReplicasFollowsTheLoadThereAndBack(t *testing.T) {
	p := start(t)
	p.sleeperFunction("slow", "max_inflight: 1", scaleLabels("max", "4", "down.window", "1s", "zero", "true", "zero-duration", "5s"))
	most := p.mostReplicas("slow")
	stop := p.busy(3, "/function/slow?100", succeeds(p))
	testkit.Eventually(t, "three callers get four replicas", func() bool { return p.status("slow").AvailableReplicas == 4 })
	why := p.cli("describe", "slow", "--why")
	for _, part := range []string{"by capacity, a replica's slots, loaded to 90%; 1 to 4 replicas", "ceil(", "calls in flight and waiting", "Changes:", "1 → "} {
		if !strings.Contains(why, part) {
			t.Errorf("describe --why does not say %q:\n%s", part, why)
		}
	}
	if text := p.cli("describe", "slow", "--why", "-o", "json"); !strings.Contains(text, `"changes": [`) || !strings.Contains(text, `"formula": "ceil(`) {
		t.Errorf("describe --why -o json says %s", text)
	}
	stop()
	testkit.Eventually(t, "it sleeps when nobody has called for long", func() bool {
		return p.status("slow").Replicas == 0 && p.scaling("slow").Changes[0].Desired == 0
	})
	if n := most(); n > 4 {
		t.Errorf("there were %d replicas", n)
	}
	if last := p.scaling("slow").Changes[0]; last.Desired != 0 || last.Bound != "idle" || !strings.Contains(last.Reason, "no call for 5s") {
		t.Errorf("the last change is explained by %+v", last)
	}
	p.call(200, "GET", "/function/slow?1", "")
}

func TestAHundredCallsOfASleepingFunctionThatTakesOneAtATimeAllSucceed(t *testing.T) {
	p := start(t)
	p.sleeperFunction("single", "max_inflight: 1", scaleLabels("max", "6"))
	p.asleep("single")
	most := p.mostReplicas("single")
	statuses, times := p.atOnce(100, "/function/single?300")
	if statuses[200] != 100 {
		t.Errorf("the answers are %v", statuses)
	}
	if n := most(); n > 6 || n < 2 {
		t.Errorf("there were %d replicas at most, want more than one and no more than six", n)
	}
	t.Logf("100 calls of 300 ms, from zero, one at a time in each of at most six replicas: the first after %v, the last after %v", times[0], times[99])
}

func TestMoreConnectionsThanAReplicaCanServeGetBoundedErrors(t *testing.T) {
	p := start(t)
	p.sleeperFunction("small", "max_inflight: 2", "max_waiting: 100", scaleLabels("max", "2"))
	most := p.mostReplicas("small")
	var good, refused atomic.Int64
	stop := p.busy(500, "/function/small?100", func(a answer) {
		switch a.status {
		case 200:
			good.Add(1)
		case 429, 503:
			refused.Add(1)
			if n, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || n < 1 || a.header.Get("X-Openfaas-Internal") == "" || !strings.Contains(a.body, "small") {
				t.Errorf("a refusal does not say when to come back, and who refused what: %v %q", a.header, a.body)
			}
			time.Sleep(50 * time.Millisecond)
		default:
			t.Errorf("a call was answered %d %q", a.status, a.body)
		}
	})
	testkit.Eventually(t, "many calls were served and many refused", func() bool { return good.Load() > 100 && refused.Load() > 500 })
	stop()
	began := time.Now()
	p.call(200, "GET", "/function/small?1", "")
	t.Logf("%d served, %d refused; the next call after them took %v", good.Load(), refused.Load(), time.Since(began))
	if n := most(); n > 2 {
		t.Errorf("there were %d replicas, and two are the most", n)
	}
	if s := p.scaling("small"); s.Latest.Desired > 2 {
		t.Errorf("it is scaled to %d", s.Latest.Desired)
	}
}

func TestACallBurstWakesAFunctionOnce(t *testing.T) {
	p := start(t)
	p.sleeperFunction("many", scaleLabels("max", "3", "target", "1000"))
	for _, n := range []int{1, 5, 25, 100} {
		p.asleep("many")
		before := time.Now()
		statuses, times := p.atOnce(n, "/function/many?20")
		if statuses[200] != n {
			t.Errorf("the answers to %d calls are %v", n, statuses)
		}
		woken := 0
		for _, c := range p.scaling("many").Changes {
			if c.At.After(before) && c.Desired > c.Previous {
				woken++
			}
		}
		if woken != 1 && !onCluster() { // there another gateway may have been asked, and clocks differ
			t.Errorf("%d calls at once scaled it up %d times", n, woken)
		}
		t.Logf("%3d calls at once of a sleeping function: p50 %v, p95 %v", n, times[len(times)/2], times[(len(times)*95-1)/100])
	}
}

func TestAsynchronousCallsThatWaitBringReplicas(t *testing.T) {
	p := start(t)
	for name, labels := range map[string]string{
		"queued": scaleLabels("type", "queue", "target", "5", "max", "3"),
		"plain":  scaleLabels("max", "3"),
	} {
		p.sleeperFunction(name, "max_inflight: 1", labels)
		// A minute's work for one replica.
		for range 200 {
			p.call(202, "POST", "/async-function/"+name+"?300", "")
		}
		testkit.Eventually(t, "the queue of "+name+" is served by three replicas", func() bool { return p.status(name).AvailableReplicas == 3 })
		t.Logf("%s: %s", name, p.scaling(name).Latest.Reason)
	}
}

// What Alertmanager 0.27 sends.
const alertmanagerSays = `{
  "receiver": "scale-up", "status": "%[1]s",
  "alerts": [{
    "status": "%[1]s",
    "labels": {"alertname": "APIHighInvocationRate", "function_name": "%[2]s", "monitor": "faas-monitor", "service": "gateway", "severity": "major"},
    "annotations": {"description": "High invocation total on \"%[2]s\"", "summary": "High invocation total on \"%[2]s\""},
    "startsAt": "2026-01-02T15:04:05.678Z", "endsAt": "0001-01-01T00:00:00Z",
    "generatorURL": "http://prometheus:9090/graph?g0.expr=sum", "fingerprint": "c68eb4f0e7fd5fd8"
  }],
  "groupLabels": {"alertname": "APIHighInvocationRate", "service": "gateway"},
  "commonLabels": {"alertname": "APIHighInvocationRate", "function_name": "%[2]s"},
  "commonAnnotations": {}, "externalURL": "http://alertmanager:9093", "version": "4", "groupKey": "{}:{alertname=\"x\"}", "truncatedAlerts": 0
}`

func TestAlertmanagerScalesAFunction(t *testing.T) {
	p := start(t)
	p.sleeperFunction("alerted", scaleLabels("max", "4", "factor", "50", "down.window", "1s"))
	p.call(200, "POST", "/system/alert", fmt.Sprintf(alertmanagerSays, "firing", "alerted.openfaas-fn"))
	testkit.Eventually(t, "half of the most replicas are added", func() bool { return p.status("alerted").Replicas == 3 })
	p.call(200, "POST", "/system/alert", fmt.Sprintf(alertmanagerSays, "resolved", "alerted.openfaas-fn"))
	testkit.Eventually(t, "they go again", func() bool { return p.status("alerted").Replicas == 1 })

	p.call(404, "POST", "/system/alert", fmt.Sprintf(alertmanagerSays, "firing", "unknown.openfaas-fn"))
	p.call(400, "POST", "/system/alert", fmt.Sprintf(alertmanagerSays, "burning", "alerted"))
	p.call(400, "POST", "/system/alert", `{"status":"firing","alerts":[]}`)
	p.call(400, "POST", "/system/alert", `{`)
}

// The rate that OpenFaaS's certifier makes, with the installation value that its
// test of scaling needs.
func TestALowTargetForCallsPerSecondIsAnInstallationValue(t *testing.T) {
	p := serve(t, "there it is a value of the chart", "--default-scale-type", "rps", "--default-target", "5", "--default-scale-max", "2")
	p.sleeperFunction("certified")
	var calls sync.WaitGroup
	done := make(chan struct{})
	calls.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				calls.Go(func() { p.call(200, "GET", "/function/certified?1", "") })
			case <-done:
				return
			}
		}
	})
	testkit.Eventually(t, "ten calls per second get a second replica", func() bool { return p.status("certified").AvailableReplicas == 2 })
	close(done)
	calls.Wait()
	testkit.Eventually(t, "it goes again", func() bool { return p.status("certified").Replicas == 1 })
	p.cli("describe", "certified", "--why")
}

func TestLabelsAboutScalingThatMakeNoSenseAreRefused(t *testing.T) {
	p := start(t)
	p.write("odd/handler.go", sleeper)
	p.stack("odd", "go", scaleLabels("type", "my-prometheus-rule"))
	_, stderr, code := p.try("", "up", "-f", "odd.yml")
	if code == 0 || !strings.Contains(stderr, "com.openfaas.scale.type") || !strings.Contains(stderr, "capacity, rps, cpu or queue") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// The figures that the cluster size is held to. -report writes them down, and
// is the run that fails where one is missed: whoever makes the report sees to it
// that the machine has nothing else to do.
var report = flag.String("report", "", "write what is measured in the cluster to this `file`, a page in Markdown")

// measured are the sections of the report, in the order of their titles.
var measured struct {
	sync.Mutex
	sections map[string]string
}

// record puts a table into the report.
func record(title, table string) {
	measured.Lock()
	defer measured.Unlock()
	if measured.sections == nil {
		measured.sections = map[string]string{}
	}
	measured.sections[title] = table
}

// hold compares a figure with its bound. Without a report a miss is only logged,
// since it may be that of a machine that others work on.
func hold(t *testing.T, what string, value, bound float64, unit string) {
	t.Helper()
	switch {
	case value <= bound:
	case *report == "":
		t.Logf("MISSED: %s: %.1f %s, want at most %.1f", what, value, unit, bound)
	default:
		t.Errorf("%s: %.1f %s, want at most %.1f", what, value, unit, bound)
	}
}

// writeReport writes the page.
func writeReport() error {
	measured.Lock()
	defer measured.Unlock()
	if *report == "" || len(measured.sections) == 0 {
		return nil
	}
	version, err := kubectl("version", "-o", "json")
	if err != nil {
		return err
	}
	var versions struct{ ServerVersion struct{ GitVersion string } }
	if err := json.Unmarshal([]byte(version), &versions); err != nil {
		return err
	}
	page := fmt.Sprintf("# Performance in a cluster\n\nWritten by `make e2e REPORT=docs/reference/performance-cluster.md`, on %s: Kubernetes %s, one node, %d CPUs that it,\nthe platform, the functions and the load share, %s. [Performance](performance.md) has the figures of the embedded size.\n",
		time.Now().Format(time.DateOnly), versions.ServerVersion.GitVersion, runtime.NumCPU(), runtime.Version())
	for _, title := range slices.Sorted(maps.Keys(measured.sections)) {
		page += "\n## " + title + "\n\n" + measured.sections[title]
	}
	return os.WriteFile(*report, []byte(page), 0o644)
}

func TestNoRequestIsLostByAnyChange(t *testing.T) {
	p := cluster(t)
	if *valuesFile == "" {
		t.Skip("SKIPPED: the values of the installation are not known")
	}
	const rate = 200
	p.goFunction("echo", "v0")
	p.cli("up", "-f", "echo.yml")
	p.cli("scale", "echo", "--replicas", "2")
	p.rolledOut("echo")
	table := fmt.Sprintf("%d POST requests per second to one function with two replicas, through the Service of two gateways, each sent when it is due.\n\n| meanwhile | requests | failed | slowest |\n|---|---|---|---|\n", rate)
	during := func(what string, change func(*platform)) {
		t.Run(what, func(t *testing.T) {
			p := p.in(t)
			stop := p.steady(rate, "/function/echo")
			change(p)
			time.Sleep(2 * time.Second) // and what comes after the change
			l := stop()
			table += fmt.Sprintf("| %s | %d | %d | %v |\n", what, l.sent, l.failed, l.slowest.Round(time.Millisecond))
		})
	}
	during("five rolling updates", func(p *platform) {
		for v := range 5 {
			p.goFunction("echo", fmt.Sprint("v", v+1))
			p.cli("up", "-f", "echo.yml")
			p.rolledOut("echo")
		}
	})
	during("scale from 2 to 8 and to 1", func(p *platform) {
		p.cli("scale", "echo", "--replicas", "8")
		p.rolledOut("echo")
		p.cli("scale", "echo", "--replicas", "1")
		testkit.Eventually(p.t, "one pod is left", func() bool { return len(p.pods(functionNamespace, "faas_function=echo")) == 1 })
	})
	p.cli("scale", "echo", "--replicas", "2")
	p.rolledOut("echo")
	during("restart of the gateways", func(p *platform) {
		p.k("rollout", "restart", "deploy/gateway", "-n", systemNamespace)
		p.settle()
	})
	during("restart of the provider", func(p *platform) {
		p.k("rollout", "restart", "deploy/provider", "-n", systemNamespace)
		p.settle()
	})
	chart := func(p *platform, source, tag string) {
		p.t.Helper()
		p.helm("upgrade", "graphene", filepath.Join(source, "charts", "graphene"), "-n", systemNamespace, "-f", *valuesFile, "--set", "image.tag="+tag, "--wait", "--timeout", "4m")
	}
	if *previousDir == "" {
		t.Log("SKIPPED: the upgrade from the commit before, which is not there")
	} else {
		chart(p, *previousDir, *platformTag+"-before")
		during("upgrade of the chart from the commit before", func(p *platform) { chart(p, "../..", *platformTag) })
		during("rollback of the chart", func(p *platform) { p.helm("rollback", "graphene", "-n", systemNamespace, "--wait", "--timeout", "4m") })
		chart(p, "../..", *platformTag)
	}
	record("Changes under load", table)
}

// rolledOut waits until all pods of a function are of its newest version.
func (p *platform) rolledOut(name string) {
	p.t.Helper()
	p.k("rollout", "status", "deploy/"+name, "-n", functionNamespace, "--timeout=120s")
}

func TestAThousandFunctionsAreLittleWork(t *testing.T) {
	p := cluster(t)
	if _, err := exec.LookPath("kwok"); err != nil {
		t.Skip("SKIPPED: there is no kwok to simulate a thousand pods")
	}
	const many = 1000
	image := p.image("crowd")
	kubeconfig := os.Getenv("KUBECONFIG")
	kwok := exec.CommandContext(t.Context(), "kwok", "--kubeconfig", kubeconfig, "--config", "testdata/simulated/stages.yaml", "--cidr", "10.245.0.0/16",
		"--node-lease-duration-seconds", "40",
		"--manage-all-nodes=false", "--manage-nodes-with-annotation-selector", "kwok.x-k8s.io/node=fake", "--server-address", "")
	var log testkit.Buffer
	kwok.Stdout, kwok.Stderr = &log, &log
	if err := kwok.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = kwok.Process.Kill() // it serves until then
		_ = kwok.Wait()
		if t.Failed() {
			t.Logf("kwok:\n%s", log.String())
		}
	}()
	p.apply(`apiVersion: v1
kind: Node
metadata: {name: simulated, labels: {type: simulated}, annotations: {kwok.x-k8s.io/node: fake, node.alpha.kubernetes.io/ttl: "0"}}
spec: {taints: [{key: simulated, effect: NoSchedule}]}
---
apiVersion: openfaas.com/v1
kind: Profile
metadata: {name: simulated, namespace: openfaas}
spec: {tolerations: [{key: simulated, operator: Exists}]}
`)
	defer p.k("delete", "node/simulated")
	defer p.k("delete", "profile/simulated", "-n", systemNamespace)
	p.k("wait", "--for=condition=Ready", "node/simulated", "--timeout=30s")
	p.call(201, "POST", "/system/namespace/", `{"name":"crowd","labels":{"openfaas":"1"},"annotations":{"openfaas":"1"}}`)
	defer p.k("delete", "namespace", "crowd", "--timeout=5m") // all at once, before the simulation ends

	deploy := func(name string) time.Duration {
		began := time.Now()
		p.call(202, "POST", "/system/functions", fmt.Sprintf(`{"service":%q,"namespace":"crowd","image":%q,"constraints":["type=simulated"],"annotations":{"com.openfaas.profile":"simulated"}}`, name, image))
		return time.Since(began)
	}
	available := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Second) {
			var list []struct{ AvailableReplicas int }
			p.json("/system/functions?namespace=crowd", &list)
			available := 0
			for _, f := range list {
				available += f.AvailableReplicas
			}
			if len(list) == n && available == n {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("of %d functions %d are listed and %d available after five minutes", n, len(list), available)
			}
		}
	}
	const more = 50
	began := time.Now()
	for i := range many - more {
		deploy(fmt.Sprint("f", i))
	}
	available(many - more)
	filled := time.Since(began)
	// The others at a pace that leaves the cluster the time to do the work that
	// each brings, so that accepting is measured and not the scheduler.
	var accepted []time.Duration
	for i := range more {
		accepted = append(accepted, deploy(fmt.Sprint("more", i)))
		time.Sleep(200 * time.Millisecond)
	}
	available(many)
	var listed []time.Duration
	for range 20 {
		began := time.Now()
		p.call(200, "GET", "/system/functions?namespace=crowd", "")
		listed = append(listed, time.Since(began))
	}
	// Nobody asks anything; what works now works for nothing.
	const idle = 20 * time.Second
	time.Sleep(idle / 2)
	before := p.usage()
	time.Sleep(idle)
	after := p.usage()
	// The most that a pod of a part takes, of memory and of a CPU.
	memory := func(app string) (most float64) {
		for _, u := range after {
			if u.app == app {
				most = max(most, float64(u.memory))
			}
		}
		return most
	}
	cpu := func(app string) (most float64) {
		for pod, u := range after {
			if u.app == app {
				most = max(most, float64(u.cpu-before[pod].cpu)/float64(idle)*100)
			}
		}
		return most
	}
	const mb = 1e6
	figures := []struct {
		what  string
		value float64
		unit  string
		bound float64
	}{
		{"deploy is accepted, median", ms(median(accepted)), "ms", 50},
		{"list, median", ms(median(listed)), "ms", 150},
		{"memory of the provider", memory("provider") / mb, "MB", 250},
		{"memory of a gateway", memory("gateway") / mb, "MB", 100},
		{"CPU of the provider when nothing happens", cpu("provider"), "% of one", 2},
		{"CPU of a gateway when nothing happens", cpu("gateway"), "% of one", 2},
	}
	table := fmt.Sprintf("%d functions in one namespace, with one simulated pod each. The first %d were deployed one after the other without a pause and were\navailable after %v; %d more, five per second, are those whose acceptance was measured.\n\n| what | measured | bound |\n|---|---|---|\n", many, many-more, filled.Round(time.Second), more)
	for _, f := range figures {
		table += fmt.Sprintf("| %s | %.1f %s | %g %s |\n", f.what, f.value, f.unit, f.bound, f.unit)
		hold(t, f.what, f.value, f.bound, f.unit)
	}
	record("A thousand functions", table)
}

// A use is what a pod has taken.
type use struct {
	app    string        // the part of the platform that it is of
	memory int64         // working set, in bytes
	cpu    time.Duration // since it started
}

// usage asks the kubelet what each pod of the platform uses.
func (p *platform) usage() map[string]use {
	p.t.Helper()
	found := map[string]use{}
	nodes := strings.Fields(p.k("get", "pods", "-n", systemNamespace, "-o", "jsonpath={.items[*].spec.nodeName}"))
	slices.Sort(nodes)
	for _, node := range slices.Compact(nodes) {
		var summary struct {
			Pods []struct {
				PodRef     struct{ Name, Namespace string }
				Containers []struct {
					CPU    struct{ UsageCoreNanoSeconds int64 }
					Memory struct{ WorkingSetBytes int64 }
				}
			}
		}
		if err := json.Unmarshal([]byte(p.k("get", "--raw", "/api/v1/nodes/"+node+"/proxy/stats/summary")), &summary); err != nil {
			p.t.Fatal(err)
		}
		for _, pod := range summary.Pods {
			if pod.PodRef.Namespace != systemNamespace || len(pod.Containers) == 0 {
				continue
			}
			app, _, _ := strings.Cut(pod.PodRef.Name, "-")
			c := pod.Containers[0]
			found[pod.PodRef.Name] = use{app, c.Memory.WorkingSetBytes, time.Duration(c.CPU.UsageCoreNanoSeconds)}
		}
	}
	return found
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func TestADeployIsReadyAsSoonAsABareOne(t *testing.T) {
	p := cluster(t)
	image := p.image("quick")
	api := p.api()
	const rounds = 5
	var ours, bare []time.Duration
	for i := range rounds {
		name := fmt.Sprint("quick", i)
		began := time.Now()
		p.call(202, "POST", "/system/functions", fmt.Sprintf(`{"service":%q,"image":%q}`, name, image))
		ours = append(ours, api.untilReady(functionNamespace, name, began))

		deployment := api.get("/apis/apps/v1/namespaces/" + functionNamespace + "/deployments/" + name)
		p.call(202, "DELETE", "/system/functions", fmt.Sprintf(`{"functionName":%q}`, name))
		p.k("wait", "--for=delete", "pods", "-l", "faas_function="+name, "-n", functionNamespace, "--timeout=60s")

		// The same without the platform, and where the platform does not look.
		deployment["metadata"] = map[string]any{"name": name, "labels": deployment["metadata"].(map[string]any)["labels"]}
		delete(deployment, "status")
		began = time.Now()
		api.post("/apis/apps/v1/namespaces/default/deployments", deployment)
		bare = append(bare, api.untilReady("default", name, began))
		p.k("delete", "deploy/"+name, "-n", "default")
		p.k("wait", "--for=delete", "pods", "-l", "faas_function="+name, "-n", "default", "--timeout=60s")
	}
	o, b := median(ours), median(bare)
	const bound = 300 * time.Millisecond
	record("From deploy to ready", fmt.Sprintf("A Go function whose image the node has, until the kubelet says that its pod is ready; medians of %d.\n\n| | median | worst | bound |\n|---|---|---|---|\n| the same Deployment, created at the API server | %.0f ms | %.0f ms | |\n| `POST /system/functions` | %.0f ms | %.0f ms | %.0f ms |\n",
		rounds, ms(b), ms(slices.Max(bare)), ms(o), ms(slices.Max(ours)), ms(b+bound)))
	hold(t, "deploy until ready", ms(o), ms(b+bound), "ms")
}

// An api speaks to the API server through a `kubectl proxy`, without the time
// that a kubectl takes to start.
type api struct {
	t   *testing.T
	url string
}

func (p *platform) api() *api {
	p.t.Helper()
	proxy := exec.CommandContext(p.t.Context(), "kubectl", "proxy", "--port=0")
	out, err := proxy.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := proxy.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = proxy.Process.Kill() // it serves until then
		_ = proxy.Wait()
	})
	var address string
	if _, err := fmt.Fscanf(out, "Starting to serve on %s", &address); err != nil {
		p.t.Fatalf("kubectl proxy: %v", err)
	}
	return &api{p.t, "http://" + address}
}

func (a *api) get(path string) map[string]any {
	a.t.Helper()
	return a.decode(http.Get(a.url + path))
}

func (a *api) post(path string, object any) {
	a.t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		a.t.Fatal(err)
	}
	a.decode(http.Post(a.url+path, "application/json", strings.NewReader(string(text))))
}

// patch merges a JSON text into a resource.
func (a *api) patch(path, text string) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), http.MethodPatch, a.url+path, strings.NewReader(text))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/merge-patch+json")
	a.decode(http.DefaultClient.Do(req))
}

func (a *api) decode(resp *http.Response, err error) map[string]any {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = errors.New(resp.Status)
	}
	if err != nil {
		a.t.Fatalf("%s: %v: %s", resp.Request.URL, err, text)
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		a.t.Fatal(err)
	}
	return object
}

// untilReady waits until a function's pod is ready and returns the time since
// began.
func (a *api) untilReady(namespace, name string, began time.Time) time.Duration {
	a.t.Helper()
	for time.Since(began) < time.Minute {
		resp, err := http.Get(a.url + "/api/v1/namespaces/" + namespace + "/pods?labelSelector=faas_function%3D" + name)
		if err != nil {
			a.t.Fatal(err)
		}
		var list struct {
			Items []struct {
				Status struct {
					Conditions []struct{ Type, Status string }
				}
			}
		}
		err = json.NewDecoder(resp.Body).Decode(&list)
		resp.Body.Close()
		if err != nil {
			a.t.Fatal(err)
		}
		for _, pod := range list.Items {
			for _, c := range pod.Status.Conditions {
				if c.Type == "Ready" && c.Status == "True" {
					return time.Since(began)
				}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	a.t.Fatalf("%s is not ready after a minute", name)
	return 0
}

// ageing answers with the age of the process that handles the call, in
// nanoseconds.
const ageing = `import os, time

def handle(event, context):
    with open("/proc/self/stat") as stat:
        born = int(stat.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return "worker 0 %d" % ((time.clock_gettime(time.CLOCK_BOOTTIME) - born) * 1e9)
`

func TestTheFirstCallWaitsForNothingButTheFunction(t *testing.T) {
	p := cluster(t)
	p.tellerFunction("coldgo", "one")
	p.pythonFunction("coldpy", "python3-http", ageing)
	p.cli("up", "-f", "coldpy.yml")
	api := p.api()
	const rounds = 5
	// alone is the same container without the platform: the function that it
	// returns scales it to one, says when it runs, and scales it back.
	alone := func(name string) func() time.Duration {
		d := api.get("/apis/apps/v1/namespaces/" + functionNamespace + "/deployments/" + name)
		d["metadata"] = map[string]any{"name": name, "labels": d["metadata"].(map[string]any)["labels"]}
		delete(d, "status")
		spec := d["spec"].(map[string]any)
		spec["replicas"] = 0
		for _, c := range spec["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any) {
			for _, key := range []string{"startupProbe", "livenessProbe", "readinessProbe", "lifecycle"} {
				delete(c.(map[string]any), key)
			}
		}
		api.post("/apis/apps/v1/namespaces/default/deployments", d)
		t.Cleanup(func() { p.k("delete", "deploy/"+name, "-n", "default") })
		scale := func(replicas int) {
			api.patch("/apis/apps/v1/namespaces/default/deployments/"+name+"/scale", fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas))
		}
		return func() time.Duration {
			began := time.Now()
			scale(1)
			took := api.untilReady("default", name, began) // without a probe that is when it runs
			scale(0)
			p.k("wait", "--for=delete", "pods", "-l", "faas_function="+name, "-n", "default", "--timeout=60s")
			time.Sleep(500 * time.Millisecond) // for what follows a pod's end
			return took
		}
	}
	table := fmt.Sprintf("A function without replicas is called, whose image the node has; medians of %d. The process's age is what it says itself when the call\nreaches it; a worker's of Python counts from its fork, after the handler was loaded, in steps of 10 ms. The last but one column is when the\nkubelet says that the pod is ready, which is when a Service would send it anything; the last, when the same container runs that is scaled up at\nthe API server, without the platform and without probes. The bound is that and 150 ms where the machine is so slow that it is more.\n\n| function | first byte | worst | bound | of which scheduling | image and container | loading | age of the process at the call | the kubelet says ready | the container alone runs |\n|---|---|---|---|---|---|---|---|---|---|\n", rounds)
	for _, f := range []struct {
		title, name string
		bound       time.Duration
	}{{"Go", "coldgo", 350 * time.Millisecond}, {"Python", "coldpy", 900 * time.Millisecond}} {
		var first, schedule, start, load, age, ready, bare []time.Duration
		runAlone := alone(f.name)
		p.call(200, "POST", "/function/"+f.name, "x")
		for range rounds {
			p.asleep(f.name)
			p.k("wait", "--for=delete", "pods", "-l", "faas_function="+f.name, "-n", functionNamespace, "--timeout=60s")
			time.Sleep(500 * time.Millisecond) // for what follows a pod's end
			bare = append(bare, runAlone())
			began := time.Now()
			kubelet := make(chan time.Duration, 1)
			go func() { kubelet <- api.untilReady(functionNamespace, f.name, began) }()
			a := p.call(200, "POST", "/function/"+f.name, "x")
			first = append(first, time.Since(began))
			ready = append(ready, <-kubelet)
			timing := timings(a.header.Values("Server-Timing"))
			schedule = append(schedule, timing["wake-schedule"])
			start = append(start, timing["wake-start"]+timing["wake-pull"])
			load = append(load, timing["wake-load"])
			fields := strings.Fields(a.body)
			n, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
			if err != nil {
				t.Fatalf("%q: %v", a.body, err)
			}
			age = append(age, time.Duration(n))
		}
		worst := slices.Max(first)
		m := median(first)
		bound := max(f.bound, median(bare)+150*time.Millisecond)
		table += fmt.Sprintf("| %s | %.0f ms | %.0f ms | %.0f ms | %.0f ms | %.0f ms | %.0f ms | %.0f ms | %.0f ms | %.0f ms |\n",
			f.title, ms(m), ms(worst), ms(bound), ms(median(schedule)), ms(median(start)), ms(median(load)), ms(median(age)), ms(median(ready)), ms(median(bare)))
		hold(t, f.title+": first byte", ms(m), ms(bound), "ms")
		// A process needs a moment to listen; then nobody waits longer than this.
		hold(t, f.title+": age of the process that the call comes to", ms(median(age)), 75, "ms")
	}
	t.Log("\n" + table)
	record("The first call of a function that sleeps", table)
}

// timings reads Server-Timing.
func timings(headers []string) map[string]time.Duration {
	found := map[string]time.Duration{}
	for metric := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		name, rest, _ := strings.Cut(strings.TrimSpace(metric), ";dur=")
		if n, err := strconv.ParseFloat(rest, 64); err == nil {
			found[name] = time.Duration(n * float64(time.Millisecond))
		}
	}
	return found
}

package e2e

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// What only a cluster has: pods that come and go, a platform of several
// programs, Kubernetes itself as a way in. The flags are from e2e.sh.
var (
	valuesFile  = flag.String("values", "", "the `file` of values that the chart was installed with")
	platformTag = flag.String("tag", "", "the `tag` of the platform's images")
	previousDir = flag.String("previous", "", "a `directory` with the sources of the commit before, whose images have the tag and -before")
)

// A load is what became of requests.
type load struct {
	sent, failed int
	slowest      time.Duration
}

// steady is offer that fails the test if an answer was not 200.
func (p *platform) steady(perSecond int, path string) (stop func() load) {
	p.t.Helper()
	end := p.offer(perSecond, path)
	return func() load {
		p.t.Helper()
		l, failures := end()
		if l.failed > 0 {
			p.t.Errorf("%d of %d requests failed, at first these:\n%s", l.failed, l.sent, strings.Join(failures, "\n"))
		}
		return l
	}
}

// offer sends POST requests at a rate, each when it is due whatever becomes of
// the others, until the function that it returns is called. That waits for the
// answers, and tells what became of the first that were not 200.
func (p *platform) offer(perSecond int, path string) (stop func() (l load, failures []string)) {
	p.t.Helper()
	var mu sync.Mutex
	var l load
	var failures []string
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	post := func() error {
		resp, err := client.Post(p.url+path, "text/plain", strings.NewReader("x"))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s %q %v", resp.Status, body, resp.Header)
		}
		return err
	}
	one := func() {
		began := time.Now()
		err := post()
		took := time.Since(began)
		mu.Lock()
		defer mu.Unlock()
		l.sent++
		l.slowest = max(l.slowest, took)
		if err == nil {
			return
		}
		if l.failed++; l.failed <= 20 {
			failures = append(failures, fmt.Sprintf("%s after %v: %v", began.Format("15:04:05.000"), took, err))
		}
	}
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				running.Go(one)
			}
		}
	})
	return func() (load, []string) {
		close(done)
		running.Wait()
		transport.CloseIdleConnections()
		return l, failures
	}
}

// k runs a kubectl that must succeed.
func (p *platform) k(args ...string) string {
	p.t.Helper()
	out, err := kubectl(args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// apply creates or changes resources.
func (p *platform) apply(manifest string) {
	p.t.Helper()
	if _, err := kubectlWith(manifest, "apply", "-f", "-"); err != nil {
		p.t.Fatal(err)
	}
}

// helm runs a helm that must succeed.
func (p *platform) helm(args ...string) {
	p.t.Helper()
	if out, err := exec.CommandContext(p.t.Context(), "helm", args...).CombinedOutput(); err != nil {
		p.t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// pods are the names of those with a label that nobody has asked to end.
func (p *platform) pods(namespace, label string) []string {
	p.t.Helper()
	var list struct {
		Items []struct {
			Metadata struct {
				Name              string
				DeletionTimestamp string
			}
		}
	}
	if err := json.Unmarshal([]byte(p.k("get", "pods", "-n", namespace, "-l", label, "-o", "json")), &list); err != nil {
		p.t.Fatal(err)
	}
	var names []string
	for _, pod := range list.Items {
		if pod.Metadata.DeletionTimestamp == "" {
			names = append(names, pod.Metadata.Name)
		}
	}
	return names
}

// settle waits until every part of the platform runs as it should.
func (p *platform) settle() {
	p.t.Helper()
	for _, part := range []string{"deploy/gateway", "deploy/provider", "deploy/queue-worker", "statefulset/nats"} {
		p.k("rollout", "status", "-n", systemNamespace, part, "--timeout=120s")
	}
}

// image builds and pushes an image of the Go function called name and returns
// its reference.
func (p *platform) image(name string) string {
	p.t.Helper()
	p.goFunction(name, "one")
	p.cli("up", "-f", name+".yml")
	image := p.status(name).Image
	p.cli("remove", "-f", name+".yml")
	p.k("wait", "--for=delete", "pods", "-l", "faas_function="+name, "-n", functionNamespace, "--timeout=60s")
	return image
}

func TestKubectlAppliesAFunction(t *testing.T) {
	p := cluster(t)
	image := p.image("applied")
	// As faas-cli generate writes it.
	p.apply(`---
apiVersion: openfaas.com/v1
kind: Function
metadata:
  name: applied
  namespace: openfaas-fn
spec:
  name: applied
  image: ` + image + `
  environment:
    COLOUR: green
  labels:
    com.openfaas.scale.min: "2"
  annotations:
    topic: a
  limits:
    memory: 128Mi
    cpu: 500m
  requests:
    memory: 16Mi
  readOnlyRootFilesystem: true
`)
	p.k("wait", "--for=condition=Ready", "function/applied", "-n", functionNamespace, "--timeout=60s")
	if a := p.call(200, "POST", "/function/applied", "x"); !strings.HasPrefix(a.body, "one POST x") {
		t.Errorf("answer %q", a.body)
	}
	s := p.status("applied")
	if s.EnvVars["COLOUR"] != "green" || s.Replicas != 2 || (*s.Annotations)["topic"] != "a" || !s.ReadOnlyRootFilesystem {
		t.Errorf("the platform tells %+v", s)
	}

	// Drift is mended, except the number of replicas, which has an owner.
	p.k("patch", "deploy/applied", "-n", functionNamespace, "--type=json", `-p=[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"drifted:1"}]`)
	testkit.Eventually(t, "the image is put back", func() bool {
		return p.k("get", "deploy/applied", "-n", functionNamespace, "-o", "jsonpath={.spec.template.spec.containers[0].image}") == image
	})
	p.k("delete", "service/applied", "-n", functionNamespace)
	testkit.Eventually(t, "the service is back", func() bool {
		_, err := kubectl("get", "service/applied", "-n", functionNamespace)
		return err == nil
	})
	p.k("scale", "deploy/applied", "-n", functionNamespace, "--replicas=3")
	testkit.Eventually(t, "three replicas are available", func() bool { return p.status("applied").AvailableReplicas == 3 })

	p.k("delete", "function/applied", "-n", functionNamespace)
	testkit.Eventually(t, "the function is gone", func() bool {
		a, err := p.do("GET", "/function/applied", "")
		return err == nil && a.status == 404
	})
	p.k("wait", "--for=delete", "deploy/applied", "service/applied", "-n", functionNamespace, "--timeout=60s")
}

func TestPodsAreRestricted(t *testing.T) {
	p := cluster(t)
	p.deployWire()
	var pod struct {
		Spec struct {
			AutomountServiceAccountToken *bool
			EnableServiceLinks           *bool
			SecurityContext              struct {
				RunAsNonRoot   bool
				SeccompProfile struct{ Type string }
			}
			Containers []struct {
				SecurityContext struct {
					AllowPrivilegeEscalation *bool
					Capabilities             struct{ Drop []string }
					SeccompProfile           struct{ Type string }
					RunAsNonRoot             bool
				}
			}
			Volumes []struct{ Name string }
		}
	}
	names := p.pods(functionNamespace, "faas_function=wire")
	if len(names) != 1 {
		t.Fatalf("pods %v", names)
	}
	if err := json.Unmarshal([]byte(p.k("get", "pod", names[0], "-n", functionNamespace, "-o", "json")), &pod); err != nil {
		t.Fatal(err)
	}
	is := func(b *bool, want bool) bool { return b != nil && *b == want }
	c := pod.Spec.Containers[0].SecurityContext
	for what, ok := range map[string]bool{
		"has no service account token":   is(pod.Spec.AutomountServiceAccountToken, false),
		"has no links to services":       is(pod.Spec.EnableServiceLinks, false),
		"does not run as root":           pod.Spec.SecurityContext.RunAsNonRoot || c.RunAsNonRoot,
		"has the default seccomp filter": pod.Spec.SecurityContext.SeccompProfile.Type == "RuntimeDefault" || c.SeccompProfile.Type == "RuntimeDefault",
		"does not gain privileges":       is(c.AllowPrivilegeEscalation, false),
		"has no capabilities":            slices.Contains(c.Capabilities.Drop, "ALL"),
		"has no volumes":                 len(pod.Spec.Volumes) == 0,
	} {
		if !ok {
			t.Errorf("it is not so that a function's pod %s", what)
		}
	}
	// The strictest policy of Kubernetes has nothing to say against it.
	out := p.k("label", "--dry-run=server", "--overwrite", "namespace", functionNamespace, "pod-security.kubernetes.io/enforce=restricted")
	if strings.Contains(out, "violate") {
		t.Errorf("pod security: %s", out)
	}
}

func TestAnImageThatCannotBePulledIsTold(t *testing.T) {
	p := cluster(t)
	p.deployWire()
	image, _, _ := strings.Cut(p.status("wire").Image, "/")
	missing := image + "/functions/nosuch:1"
	p.write("gone.yml", "version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n  gone:\n    image: "+missing+"\n    skip_build: true\n")
	stdout, stderr, code := p.try("", "deploy", "-f", "gone.yml")
	if code != 7 || !strings.Contains(stdout+stderr, "nosuch") || !strings.Contains(strings.ToLower(stdout+stderr), "pull") {
		t.Errorf("deploy of an image that is not there: exit %d, want 7\n%s%s", code, stdout, stderr)
	}
	if got := p.cli("describe", "gone"); !strings.Contains(got, "nosuch") {
		t.Errorf("describe does not say why:\n%s", got)
	}
	began := time.Now()
	a, err := p.do("POST", "/function/gone", "x")
	if err != nil || a.status != 503 || !strings.Contains(a.body, "pull") {
		t.Errorf("a call of it: %d %q, %v: want 503 with the reason", a.status, a.body, err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the call waited %v for an image that is not there", took)
	}
	message := p.k("get", "function/gone", "-n", functionNamespace, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].message}`)
	if !strings.Contains(message, "nosuch") {
		t.Errorf("the condition Ready says %q", message)
	}

	// A version that cannot be pulled leaves the one before it serving.
	p.call(202, "PUT", "/system/functions", `{"service":"wire","image":"`+missing+`"}`)
	testkit.Eventually(t, "the update is told to have failed", func() bool {
		return p.k("get", "function/wire", "-n", functionNamespace, "-o", `jsonpath={.status.conditions[?(@.type=="Stalled")].status}`) == "True"
	})
	p.call(200, "GET", "/function/wire/x", "")
}

func TestAQuotaThatRefusesPodsIsTold(t *testing.T) {
	p := cluster(t)
	p.goFunction("poor", "one")
	p.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: tight, namespace: openfaas-fn}\nspec: {hard: {pods: \"0\"}}\n")
	defer p.k("delete", "resourcequota/tight", "-n", functionNamespace)
	testkit.Eventually(t, "the quota holds", func() bool {
		return p.k("get", "resourcequota/tight", "-n", functionNamespace, "-o", "jsonpath={.status.hard.pods}") == "0"
	})
	stdout, stderr, code := p.try("", "up", "-f", "poor.yml")
	if code != 7 || !strings.Contains(stdout+stderr, "quota") {
		t.Errorf("up where a quota refuses pods: exit %d, want 7\n%s%s", code, stdout, stderr)
	}
	if got := p.cli("describe", "poor"); !strings.Contains(got, "quota") {
		t.Errorf("describe does not say why:\n%s", got)
	}
	p.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: tight, namespace: openfaas-fn}\nspec: {hard: {pods: \"20\"}}\n")
	p.k("wait", "--for=condition=Ready", "function/poor", "-n", functionNamespace, "--timeout=90s")
	p.call(200, "POST", "/function/poor", "x")
}

func TestAQuotaThatRefusesTheDeploymentIsTold(t *testing.T) {
	p := cluster(t)
	image := p.image("refused")
	p.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: few, namespace: openfaas-fn}\nspec: {hard: {count/deployments.apps: \"0\"}}\n")
	defer p.k("delete", "resourcequota/few", "-n", functionNamespace)
	testkit.Eventually(t, "the quota holds", func() bool {
		return p.k("get", "resourcequota/few", "-n", functionNamespace, "-o", `jsonpath={.status.hard.count/deployments\.apps}`) == "0"
	})
	p.apply("apiVersion: openfaas.com/v1\nkind: Function\nmetadata: {name: refused, namespace: openfaas-fn}\nspec: {name: refused, image: " + image + "}\n")
	defer p.k("delete", "function/refused", "-n", functionNamespace)
	testkit.Eventually(t, "the function says why it is not there", func() bool {
		message := p.k("get", "function/refused", "-n", functionNamespace, "-o", `jsonpath={.status.conditions[?(@.type=="Stalled")].message}`)
		return strings.Contains(message, "exceeded quota: few")
	})
	p.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: few, namespace: openfaas-fn}\nspec: {hard: {count/deployments.apps: \"5\"}}\n")
	p.k("wait", "--for=condition=Ready", "function/refused", "-n", functionNamespace, "--timeout=90s")
}

func TestEvictionsDropNoRequest(t *testing.T) {
	p := cluster(t)
	p.goFunction("echo", "one")
	p.cli("up", "-f", "echo.yml")
	p.cli("scale", "echo", "--replicas", "2")
	p.k("rollout", "status", "deploy/echo", "-n", functionNamespace, "--timeout=60s")
	stop := p.steady(50, "/function/echo")
	// What draining a node does to each pod.
	evict := func(namespace, label string) {
		t.Helper()
		for _, pod := range p.pods(namespace, label) {
			testkit.Eventually(t, "pod "+pod+" may be evicted", func() bool {
				_, err := kubectlWith(fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q,"namespace":%q}}`, pod, namespace),
					"create", "--raw", "/api/v1/namespaces/"+namespace+"/pods/"+pod+"/eviction", "-f", "-")
				return err == nil || strings.Contains(err.Error(), "NotFound")
			})
			p.k("wait", "--for=delete", "pod/"+pod, "-n", namespace, "--timeout=120s")
		}
	}
	for _, label := range []string{"app=gateway", "app=provider", "app=queue-worker"} {
		evict(systemNamespace, label)
		p.settle()
	}
	evict(functionNamespace, "faas_function=echo")
	p.k("rollout", "status", "deploy/echo", "-n", functionNamespace, "--timeout=60s")
	if l := stop(); l.sent < 100 {
		t.Errorf("only %d requests were sent", l.sent)
	}
}

func TestTheDeathOfAPartStopsNothingElse(t *testing.T) {
	p := cluster(t)
	p.goFunction("echo", "one")
	p.cli("up", "-f", "echo.yml")
	killed := func(label string) {
		t.Helper()
		for _, pod := range p.pods(systemNamespace, label) {
			p.k("delete", "pod", pod, "-n", systemNamespace, "--grace-period=0", "--force")
		}
	}
	for _, part := range []string{"app=provider", "app=queue-worker", "app=nats"} {
		t.Run(part, func(t *testing.T) {
			p := p.in(t)
			stop := p.steady(50, "/function/echo")
			a := p.call(202, "POST", "/async-function/echo", "before")
			killed(part)
			p.settle()
			// What was accepted is done, and what comes now is.
			if part != "app=nats" || natsKeeps(p) {
				p.call(200, "GET", "/async-function/"+a.header.Get("X-Call-Id")+"/result?wait=50s", "")
			}
			testkit.Eventually(t, "an asynchronous call is accepted and done", func() bool {
				a, err := p.do("POST", "/async-function/echo", "after")
				if err != nil || a.status != 202 {
					return false
				}
				a, err = p.do("GET", "/async-function/"+a.header.Get("X-Call-Id")+"/result?wait=20s", "")
				return err == nil && a.status == 200
			})
			p.cli("deploy", "-f", "echo.yml", "--env", "AFTER="+strings.TrimPrefix(part, "app="))
			stop()
		})
	}
	t.Run("one of two gateways", func(t *testing.T) {
		p := p.in(t)
		gateways := p.pods(systemNamespace, "app=gateway")
		if len(gateways) < 2 {
			t.Skipf("SKIPPED: %d gateway", len(gateways))
		}
		p.k("delete", "pod", gateways[0], "-n", systemNamespace, "--grace-period=0", "--force")
		// Calls in the dead one are lost; from then on all are answered.
		testkit.Eventually(t, "the dead gateway gets no calls", func() bool {
			for range 20 {
				if a, err := p.do("GET", "/function/echo", "", "Connection", "close"); err != nil || a.status != 200 {
					return false
				}
			}
			return true
		})
		stop := p.steady(50, "/function/echo")
		p.settle()
		stop()
	})
}

// natsKeeps tells whether the calls in the queue outlive its pod.
func natsKeeps(p *platform) bool {
	p.t.Helper()
	return p.k("get", "statefulset/nats", "-n", systemNamespace, "-o", "jsonpath={.spec.volumeClaimTemplates[*].metadata.name}") != ""
}

func TestAnAPIServerThatRestartsIsNotNoticed(t *testing.T) {
	p := cluster(t)
	own := strings.Fields(os.Getenv("CLUSTER"))
	if len(own) == 0 {
		t.Skip("SKIPPED: only the project's own cluster lets a test restart its API server")
	}
	p.goFunction("echo", "one")
	p.cli("up", "-f", "echo.yml")
	stop := p.steady(50, "/function/echo")
	for range 2 {
		if out, err := exec.CommandContext(t.Context(), own[0], append(own[1:], "restart-api")...).CombinedOutput(); err != nil {
			t.Fatalf("restart the API server: %v\n%s", err, out)
		}
		testkit.Eventually(t, "the API server answers", func() bool {
			_, err := kubectl("get", "--raw=/readyz")
			return err == nil
		})
	}
	// The stream of endpoints goes on where it was: what changes now is seen.
	p.goFunction("echo", "two")
	p.cli("up", "-f", "echo.yml")
	testkit.Eventually(t, "the new version answers", func() bool {
		a, err := p.do("GET", "/function/echo", "")
		return err == nil && strings.HasPrefix(a.body, "two")
	})
	p.cli("scale", "echo", "--replicas", "0")
	testkit.Eventually(t, "echo sleeps", func() bool { return p.status("echo").AvailableReplicas == 0 })
	stop()
}

func TestLogsOfAFunctionHaveThoseOfNewPods(t *testing.T) {
	p := cluster(t)
	p.goFunction("talker", "one")
	p.write("talker/handler.go", strings.Replace(p.read("talker/handler.go"), "body, _", "fmt.Println(\"heard \" + r.URL.RawQuery)\n\tbody, _", 1))
	p.cli("up", "-f", "talker.yml")
	follow := p.open("GET", "/system/logs?name=talker&follow=true", nil)
	defer follow.Body.Close()
	instances := make(chan string, 1000)
	go func() {
		defer close(instances)
		for lines := bufio.NewScanner(follow.Body); lines.Scan(); {
			var m struct{ Instance, Text string }
			if json.Unmarshal(lines.Bytes(), &m) == nil && strings.Contains(m.Text, "heard") {
				instances <- m.Instance
			}
		}
	}()
	p.cli("scale", "talker", "--replicas", "3")
	p.k("rollout", "status", "deploy/talker", "-n", functionNamespace, "--timeout=60s")
	seen := map[string]bool{}
	testkit.Eventually(t, "lines of all three pods arrive", func() bool {
		p.call(200, "GET", "/function/talker?x", "")
		for {
			select {
			case i := <-instances:
				seen[i] = true
				continue
			default:
			}
			return len(seen) == 3
		}
	})
	var got []string
	for i := range seen {
		got = append(got, i)
	}
	slices.Sort(got)
	want := p.pods(functionNamespace, "faas_function=talker")
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("instances of lines (-pods +got):\n%s", diff)
	}
}

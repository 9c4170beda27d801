// Package e2e tests the platform from outside: the built program, its
// command line, its REST address. Nothing in it knows how the parts are made.
package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
)

const goHandler = `package function

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func Handle(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "VERSION %s %s pid=%d", r.Method, body, os.Getpid())
}
`

// goFunction writes a Go function called name that answers version.
func (p *platform) goFunction(name, version string) {
	p.t.Helper()
	p.write(name+"/handler.go", strings.ReplaceAll(goHandler, "VERSION", version))
	p.stack(name, "go")
}

// pythonFunction writes a Python function whose handler.py is source.
func (p *platform) pythonFunction(name, lang, source string) {
	p.t.Helper()
	p.write(name+"/handler.py", source)
	p.stack(name, lang)
}

func (p *platform) stack(name, lang string, more ...string) {
	p.t.Helper()
	extra := ""
	for _, m := range more {
		extra += "    " + m + "\n"
	}
	p.write(name+".yml", fmt.Sprintf("version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n  %s:\n    lang: %s\n    handler: ./%s\n    image: %s:latest\n%s", name, lang, name, name, extra))
}

func TestAPlatformStartsOnceAndKeepsItsSecrets(t *testing.T) {
	p := serve(t, "it starts the one process twice")

	info, err := os.Stat(filepath.Join(p.data, "auth", "basic-auth-password"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("password file has mode %v, want 0600", info.Mode().Perm())
	}
	if strings.Contains(p.log.String(), p.password()) {
		t.Error("the password is in the log")
	}
	if got := p.cli("list"); strings.Contains(got, "unauthorized") {
		t.Errorf("the command line is not logged in: %s", got)
	}

	second := exec.Command(graphene, "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--data-dir", p.data)
	second.Env = p.environ()
	out, err := second.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "in use by another platform") {
		t.Errorf("a second platform on the same directory: %v\n%s", err, out)
	}

	elsewhere := exec.Command(graphene, "serve", "--listen", strings.TrimPrefix(p.url, "http://"), "--metrics-listen", "off", "--data-dir", filepath.Join(p.dir, "second"))
	elsewhere.Env = p.environ()
	out, err = elsewhere.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "address already in use") || !strings.Contains(string(out), "--listen") {
		t.Errorf("a second platform on the same port: %v\n%s", err, out)
	}
}

func TestSystemRoutesRefuseByDefault(t *testing.T) {
	p := start(t)
	paths := []string{"/system/functions", "/system/info", "/system/secrets", "/system/namespaces", "/system/logs?name=x"}
	if !onCluster() { // which has a registry of its own elsewhere
		paths = append(paths, "/v2/", "/v2/_catalog")
	}
	for _, path := range paths {
		resp, err := http.Get(p.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("GET %s without credentials = %d, want 401", path, resp.StatusCode)
		}
	}
	for _, path := range []string{"/healthz"} {
		resp, err := http.Get(p.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("GET %s without credentials = %d, want 200", path, resp.StatusCode)
		}
	}
}

func TestAGoFunctionFromNothingToNothing(t *testing.T) {
	p := start(t)
	p.goFunction("echo", "one")
	p.cli("up", "-f", "echo.yml")

	a := p.call(200, "POST", "/function/echo", "hello")
	if !strings.HasPrefix(a.body, "one POST hello") {
		t.Errorf("answer %q", a.body)
	}
	for _, h := range []string{"X-Call-Id", "X-Start-Time", "X-Duration-Seconds", "Server-Timing"} {
		if a.header.Get(h) == "" {
			t.Errorf("no %s in %v", h, a.header)
		}
	}
	if got := p.cli("describe", "echo"); !strings.Contains(got, "/function/echo") {
		t.Errorf("describe says\n%s", got)
	}

	p.cli("scale", "echo", "--replicas", "0")
	testkit.Eventually(t, "echo sleeps", func() bool {
		var status struct {
			Replicas, AvailableReplicas int
		}
		if err := json.Unmarshal([]byte(p.call(200, "GET", "/system/function/echo", "").body), &status); err != nil {
			t.Fatal(err)
		}
		return status.Replicas == 0 && status.AvailableReplicas == 0
	})
	a = p.call(200, "GET", "/function/echo.openfaas-fn", "")
	if !strings.Contains(a.header.Get("Server-Timing"), "wake;dur=") {
		t.Errorf("a call that woke the function has Server-Timing %q", a.header.Get("Server-Timing"))
	}

	p.cli("remove", "echo")
	p.gone("/function/echo")
}

func TestEveryPythonContractAnswers(t *testing.T) {
	p := start(t)
	p.pythonFunction("http", "python3-http", `
def handle(event, context):
    return {"statusCode": 201, "body": event.body.decode() + " " + event.method + " " + event.path, "headers": {"X-Mine": "yes"}}
`)
	p.pythonFunction("classic", "python3", `
def handle(req):
    return req.upper()
`)
	p.pythonFunction("model", "python3-model", `
import os

def load(context):
    return {"pid": os.getpid(), "answer": 42}

def handle(model, event, context):
    return {"statusCode": 200, "body": {"answer": model["answer"], "loaded_by": model["pid"], "here": os.getpid()}}
`)
	for _, f := range []string{"http", "classic", "model"} {
		p.cli("up", "-f", f+".yml")
	}
	a := p.call(201, "PUT", "/function/http/a//b", "hi")
	if a.body != "hi PUT /a//b" || a.header.Get("X-Mine") != "yes" {
		t.Errorf("http answers %q with %v", a.body, a.header)
	}
	if a := p.call(200, "POST", "/function/classic", "loud"); a.body != "LOUD" {
		t.Errorf("classic answers %q", a.body)
	}
	var got struct{ Answer, LoadedBy, Here int }
	a = p.call(200, "POST", "/function/model", "")
	if err := json.Unmarshal([]byte(strings.ReplaceAll(a.body, "loaded_by", "loadedby")), &got); err != nil {
		t.Fatalf("%v in %q", err, a.body)
	}
	if got.Answer != 42 || got.LoadedBy == got.Here || got.LoadedBy == 0 {
		t.Errorf("model answers %+v: it was to be loaded by the zygote and used by a worker", got)
	}
}

func TestFunctionsSurviveAPowerCut(t *testing.T) {
	p := serve(t, "it kills the one process; pods do not end with the platform")
	p.goFunction("echo", "one")
	p.cli("up", "-f", "echo.yml")
	p.cli("scale", "echo", "--replicas", "2")
	pids := func() map[string]bool {
		seen := map[string]bool{}
		for range 40 {
			_, pid, _ := strings.Cut(p.call(200, "GET", "/function/echo", "").body, "pid=")
			seen[pid] = true
		}
		return seen
	}
	testkit.Eventually(t, "both replicas answer", func() bool { return len(pids()) == 2 })
	before := pids()

	p.kill()
	for pid := range before {
		testkit.Eventually(t, "replica "+pid+" ends with its platform", func() bool {
			_, err := os.Stat("/proc/" + pid)
			return os.IsNotExist(err)
		})
	}
	p.start()
	testkit.Eventually(t, "both replicas are back", func() bool { return len(pids()) == 2 })
	for pid := range pids() {
		if before[pid] {
			t.Errorf("process %s outlived its platform", pid)
		}
	}
}

func TestARollingUpdateDropsNoRequest(t *testing.T) {
	p := start(t)
	p.goFunction("echo", "v0")
	p.cli("up", "-f", "echo.yml")

	var sent, failed atomic.Int64
	var firstFailure atomic.Value
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				a, err := p.do("POST", "/function/echo", "x")
				sent.Add(1)
				if err != nil || a.status != 200 {
					failed.Add(1)
					firstFailure.CompareAndSwap(nil, fmt.Sprintf("%d %q %v", a.status, a.body, err))
				}
			}
		})
	}
	for v := 1; v <= 4; v++ {
		p.goFunction("echo", fmt.Sprintf("v%d", v))
		p.cli("up", "-f", "echo.yml")
		p.cli("scale", "echo", "--replicas", fmt.Sprint(1+v%3))
	}
	testkit.Eventually(t, "the last version answers", func() bool {
		return strings.HasPrefix(p.call(200, "POST", "/function/echo", "").body, "v4")
	})
	close(stop)
	load.Wait()
	if sent.Load() < 100 {
		t.Errorf("only %d requests were sent: the load did not run", sent.Load())
	}
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed, the first with %v", failed.Load(), sent.Load(), firstFailure.Load())
	}
}

func TestABrokenVersionLeavesTheOldOneServing(t *testing.T) {
	p := start(t)
	p.pythonFunction("f", "python3", "def handle(req):\n    return 'good'\n")
	p.cli("up", "-f", "f.yml")

	p.write("f/handler.py", "def handle(req)\n    return 'bad'\n")
	stdout, stderr, code := p.try("", "up", "-f", "f.yml")
	if code == 0 || !strings.Contains(stdout+stderr, "handler.py") {
		t.Errorf("up of a syntax error: exit %d\n%s%s", code, stdout, stderr)
	}

	p.write("f/handler.py", "import nosuchmodule\ndef handle(req):\n    return 'bad'\n")
	stdout, stderr, code = p.try("", "up", "-f", "f.yml")
	if code == 0 || !strings.Contains(stdout+stderr, "nosuchmodule") {
		t.Errorf("up of a failing import: exit %d\n%s%s", code, stdout, stderr)
	}
	if a := p.call(200, "POST", "/function/f", ""); a.body != "good" {
		t.Errorf("after two broken deploys the function answers %q", a.body)
	}
}

// otherRelease is a runtime that greets the watchdog as one would that speaks
// another version of the pool's protocol.
const otherRelease = `
import json, os, socket, struct
watchdog = socket.socket(fileno=int(os.environ["pool_fd"]))
hello = json.dumps({"protocols": [%d], "python": "3.9.0", "pid": os.getpid()}).encode()
watchdog.sendall(struct.pack(">IBI", len(hello), 1, 0) + hello)
watchdog.recv(1)
`

func TestAnImageOfAnotherReleaseIsRefusedWithTheReason(t *testing.T) {
	p := start(t)
	p.pythonFunction("f", "python3", "def handle(req):\n    return 'good'\n")
	p.cli("up", "-f", "f.yml")
	p.stack("f", "python3", "environment: {PYTHONPATH: 'function/other:python'}")
	p.write("f/other/graphene_function/__init__.py", "")
	for version, remedy := range map[int]string{1: "build it again", 99: "bring the platform up to date"} {
		p.write("f/other/graphene_function/__main__.py", fmt.Sprintf(otherRelease, version))
		stdout, stderr, code := p.try("", "up", "-f", "f.yml")
		want := fmt.Sprintf("speaks versions [%d] of the pool's protocol", version)
		if code != 7 || !strings.Contains(stdout+stderr, want) || !strings.Contains(stdout+stderr, remedy) {
			t.Errorf("up of a runtime of version %d: exit %d\n%s%s", version, code, stdout, stderr)
		}
	}
	if a := p.call(200, "POST", "/function/f", ""); a.body != "good" {
		t.Errorf("the version before answers %q", a.body)
	}
}

func TestMisbehavingHandlersAreContained(t *testing.T) {
	p := start(t)
	p.pythonFunction("bad", "python3-http", `
import os, signal, sys, time

def handle(event, context):
    what = event.body.decode()
    if what == "raise":
        raise ValueError("no such luck")
    if what == "print":
        for _ in range(100):
            print("x" * 100_000)
    if what == "hang":
        time.sleep(3600)
    if what == "exit":
        os._exit(0)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fork":
        for _ in range(5):
            if os.fork() == 0:
                time.sleep(3600)
    return {"body": "survived " + what}
`)
	p.stack("bad", "python3-http", "exec_timeout: 2s", "workers: 2")
	p.cli("up", "-f", "bad.yml")
	for what, status := range map[string]int{"raise": 500, "hang": 504, "exit": 500, "kill": 500, "print": 200, "fork": 200} {
		a := p.call(status, "POST", "/function/bad", what)
		if status == 500 && strings.Contains(a.body, "Traceback") {
			t.Errorf("%s: a traceback reached the caller: %q", what, a.body)
		}
		if a := p.call(200, "POST", "/function/bad", "nothing"); a.body != "survived nothing" {
			t.Errorf("after %s the function answers %q", what, a.body)
		}
	}
	if got := p.cli("logs", "bad", "--tail=false", "--lines", "100000"); !strings.Contains(got, "no such luck") {
		t.Error("the traceback is not in the log")
	}
}

func TestDamagedStateIsToldAndKept(t *testing.T) {
	p := serve(t, "it damages files; the state is in Kubernetes")
	p.goFunction("good", "one")
	p.cli("up", "-f", "good.yml")
	p.goFunction("broken", "one")
	p.cli("up", "-f", "broken.yml")
	p.kill()

	var state string
	err := filepath.WalkDir(p.data, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(path, "broken") && strings.HasSuffix(path, "function.json") {
			state = path
		}
		return err
	})
	if err != nil || state == "" {
		t.Fatalf("no state of the function was found: %v", err)
	}
	if err := os.WriteFile(state, []byte(`{"spec": {"serv`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.start()
	testkit.Eventually(t, "the good function is back", func() bool {
		a, err := p.do("GET", "/function/good", "")
		return err == nil && a.status == 200
	})
	p.call(404, "GET", "/function/broken", "")
	if !strings.Contains(p.log.String(), "broken") {
		t.Error("the log does not name the damaged function")
	}
}

func TestTwoDeploysAtOnceLeaveOneWhole(t *testing.T) {
	p := start(t)
	p.goFunction("echo", "a")
	p.cli("build", "-f", "echo.yml")
	p.cli("push", "-f", "echo.yml")
	var both sync.WaitGroup
	for i := range 6 {
		both.Go(func() {
			stdout, stderr, code := p.try("", "deploy", "-f", "echo.yml", "--env", fmt.Sprintf("N=%d", i))
			if code != 0 {
				t.Errorf("deploy %d: exit %d\n%s%s", i, code, stdout, stderr)
			}
		})
	}
	both.Wait()
	p.call(200, "GET", "/function/echo", "")
}

func TestHugeRequestsAreRefusedClearly(t *testing.T) {
	p := serve(t, "it sets the limit of bodies by a flag", "--max-body", "1Mi")
	p.goFunction("echo", "one")
	p.cli("up", "-f", "echo.yml")
	p.call(413, "POST", "/function/echo", strings.Repeat("x", 2<<20))

	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		fmt.Fprintf(conn, "GET /function/echo HTTP/1.1\r\nHost: x\r\n")
		for range 1 << 15 {
			if _, err := fmt.Fprintf(conn, "X-Pad: %s\r\n", strings.Repeat("y", 100)); err != nil {
				return
			}
		}
	}()
	head := make([]byte, 12)
	if _, err := conn.Read(head); err != nil || string(head) != "HTTP/1.1 431" {
		t.Errorf("endless headers are answered with %q, %v", head, err)
	}
	p.call(200, "GET", "/function/echo", "")
}

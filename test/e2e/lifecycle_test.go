package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestARestartKeepsEverything(t *testing.T) {
	p := serve(t, "it restarts the one process")
	p.write("keeper/handler.go", `package function

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

func Handle(w http.ResponseWriter, r *http.Request) {
	fmt.Println("called with " + r.URL.RawQuery)
	secret, _ := os.ReadFile(filepath.Join(os.Getenv("SECRETS_DIR"), "key"))
	fmt.Fprintf(w, "%s %s", secret, os.Getenv("COLOUR"))
}
`)
	p.cli("namespace", "create", "lab")
	p.call(202, "POST", "/system/secrets", `{"name":"key","namespace":"lab","value":"s3cr3t"}`)
	p.stack("keeper", "go", "namespace: lab", "secrets: [key]", "environment: {COLOUR: green}", "labels: {com.openfaas.scale.min: \"2\"}", "annotations: {note: kept}")
	p.cli("up", "-f", "keeper.yml")
	p.call(200, "GET", "/function/keeper.lab?before", "")
	logged := func(what string) bool {
		return strings.Contains(p.call(200, "GET", "/system/logs?name=keeper&namespace=lab", "").body, "called with "+what)
	}
	testkit.Eventually(t, "the call is in the log", func() bool { return logged("before") })
	password := p.password()

	for _, end := range []struct {
		name string
		end  func()
	}{{"stop", p.stop}, {"kill", p.kill}} {
		end.end()
		p.start()
		testkit.Eventually(t, "the function is back after a "+end.name, func() bool {
			a, err := p.do("GET", "/function/keeper.lab?after-"+end.name, "")
			return err == nil && a.status == 200 && a.body == "s3cr3t green"
		})
		testkit.Eventually(t, "with both replicas", func() bool {
			var s struct{ AvailableReplicas int }
			p.json("/system/function/keeper?namespace=lab", &s)
			return s.AvailableReplicas == 2
		})
		if !logged("before") {
			t.Errorf("after a %s the old log is gone", end.name)
		}
		if p.password() != password {
			t.Errorf("after a %s there is another password", end.name)
		}
		if got := p.cli("describe", "keeper", "--namespace", "lab", "-o", "json"); !strings.Contains(got, `"kept"`) {
			t.Errorf("after a %s the annotation is gone: %s", end.name, got)
		}
		var namespace struct{ Name string }
		if p.json("/system/namespace/lab", &namespace); namespace.Name != "lab" {
			t.Errorf("after a %s the namespace is %+v", end.name, namespace)
		}
	}
	p.cli("remove", "keeper", "--namespace", "lab")
	p.stop()
	p.start()
	p.call(404, "GET", "/function/keeper.lab", "")
}

func TestCallersWaitOnTheSocketOfSystemdWhileThePlatformRestarts(t *testing.T) {
	p := serve(t, "there gateways are replaced one after the other")
	p.goFunction("echo", "v0")
	p.cli("up", "-f", "echo.yml")
	p.stop()
	listener, err := net.Listen("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if p.socket, err = listener.(*net.TCPListener).File(); err != nil {
		t.Fatal(err)
	}
	defer p.socket.Close()
	p.start()
	end := p.steady(200, "/function/echo")
	for range 3 {
		p.call(200, "POST", "/function/echo", "x")
		p.stop()
		p.start()
	}
	p.call(200, "POST", "/function/echo", "x")
	l := end()
	t.Logf("%d calls during three restarts; the slowest took %v", l.sent, l.slowest)
}

func TestAFirstStartCutShortHarmsNothing(t *testing.T) {
	p := serve(t, "it kills the one process at its first start")
	p.stop()
	for i := range 10 {
		data := filepath.Join(p.dir, "cut-"+strconv.Itoa(i))
		cmd := exec.Command(graphene, "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--data-dir", data)
		cmd.Env = p.environ()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Each at another point of its start.
		time.Sleep(time.Duration(3*i) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		p.data, p.url = data, ""
		p.start()
		p.call(200, "GET", "/system/functions", "")
		p.stop()
	}
}

func TestADataDirectoryThatCannotBeUsedIsRefused(t *testing.T) {
	p := serve(t, "there is no data directory")
	p.stop()
	for _, tt := range []struct {
		name    string
		prepare func(dir string) error
		want    string
	}{
		{"a file", func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "not a directory"},
		{"a directory with other things", func(dir string) error {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600)
		}, "thesis.tex"},
		{"one of a later version", func(dir string) error {
			if err := os.CopyFS(dir, os.DirFS(p.data)); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "VERSION"), []byte("1000\n"), 0o600)
		}, "version"},
	} {
		dir := filepath.Join(p.dir, strings.ReplaceAll(tt.name, " ", "-"))
		if err := tt.prepare(dir); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), graphene, "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--data-dir", dir)
		cmd.Env = p.environ()
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), tt.want) || !strings.Contains(string(out), dir) {
			t.Errorf("%s as data directory: %v, want %q\n%s", tt.name, err, tt.want, out)
		}
		if strings.Contains(string(out), "goroutine ") || strings.Count(strings.TrimSpace(string(out)), "\n") > 3 {
			t.Errorf("%s as data directory: the error is not short\n%s", tt.name, out)
		}
	}
}

func TestLimitsAnswerWithTheRightStatus(t *testing.T) {
	p := serve(t, "it sets the length of the queue by a flag", "--max-waiting", "2")
	p.deployWire("max_inflight: 1", "exec_timeout: 5s")

	t.Run("calls wait for the one slot, and too many are refused", func(t *testing.T) {
		p := p.in(t)
		first := p.open("GET", "/function/wire/sse", nil) // holds the slot
		defer first.Body.Close()
		var waiting sync.WaitGroup
		var refused atomic.Int64
		for range 5 {
			waiting.Go(func() {
				a, err := p.do("GET", "/function/wire/x", "")
				switch {
				case err != nil:
					t.Error(err)
				case a.status == 429:
					refused.Add(1)
					if a.header.Get("Retry-After") == "" || a.header.Get("X-Openfaas-Internal") == "" {
						t.Errorf("429 with %v", a.header)
					}
				case a.status != 200:
					t.Errorf("%d %q", a.status, a.body)
				case !strings.Contains(a.header.Get("Server-Timing"), "queue;dur="):
					t.Errorf("Server-Timing %q", a.header.Get("Server-Timing"))
				}
			})
		}
		testkit.Eventually(t, "three of five are refused", func() bool { return refused.Load() == 3 })
		first.Body.Close() // the caller leaves, the slot is free
		waiting.Wait()
		if refused.Load() != 3 {
			t.Errorf("%d calls were refused, want 3", refused.Load())
		}
	})

	t.Run("a call that takes too long is answered 504", func(t *testing.T) {
		p := p.in(t)
		p.stack("wire", "go", "exec_timeout: 300ms")
		p.cli("deploy", "-f", "wire.yml")
		testkit.Eventually(t, "the new timeout holds", func() bool {
			a, err := p.do("GET", "/function/wire/sleep?for=20s", "")
			return err == nil && a.status == 504 && a.header.Get("X-Openfaas-Internal") != "" && strings.Contains(a.body, "300ms")
		})
		p.call(200, "GET", "/function/wire/sleep?for=1ms", "")
		resp := p.open("GET", "/function/wire/hang", nil)
		defer resp.Body.Close()
		var body strings.Builder
		if err := drain(resp, &body); err == nil || body.String() != "hanging" {
			t.Errorf("an answer that time cut off reads as whole: %q, %v", body.String(), err)
		}
	})
}

func drain(resp *http.Response, into *strings.Builder) error {
	buf := make([]byte, 1<<10)
	for {
		n, err := resp.Body.Read(buf)
		into.Write(buf[:n])
		if err != nil {
			if err.Error() == "EOF" {
				return nil
			}
			return err
		}
	}
}

func TestAFunctionThatIsTooLargeIsEndedAndItsOwnerTold(t *testing.T) {
	p := start(t)
	p.write("glutton/handler.py", `
import time

kept = []

def handle(event, context):
    if event.body == b"eat":
        for _ in range(80):
            kept.append(bytearray(b"x" * (10 << 20)))
        time.sleep(10) # limits are looked after twice a second
    return "still hungry"
`)
	p.stack("glutton", "python3-http", "limits: {memory: 200Mi}", "exec_timeout: 20s")
	p.cli("up", "-f", "glutton.yml")
	p.call(200, "POST", "/function/glutton", "")
	a, err := p.do("POST", "/function/glutton", "eat")
	if err != nil || a.status < 500 {
		t.Errorf("a call that ate 800 MB of 200: %d %q, %v", a.status, a.body, err)
	}
	testkit.Eventually(t, "the function is back", func() bool {
		a, err := p.do("POST", "/function/glutton", "")
		return err == nil && a.status == 200
	})
	testkit.Eventually(t, "the log says that memory ran out", func() bool {
		got := p.cli("logs", "glutton", "--tail=false")
		if onCluster() { // where the kernel ends the worker and says no more
			return strings.Contains(strings.ToLower(got), "killed")
		}
		return strings.Contains(got, "memory") && strings.Contains(got, "200")
	})
}

func TestAModelThatWorkersShareCountsOnce(t *testing.T) {
	p := start(t)
	p.write("shared/handler.py", `
import time

def load(context):
    return bytes(bytearray(b"x" * (150 << 20)))

def handle(model, event, context):
    time.sleep(0.5)
    return str(model.count(b"x"))
`)
	p.stack("shared", "python3-model", "limits: {memory: 400Mi}", "workers: 4", "workers_min: 4")
	p.cli("up", "-f", "shared.yml")
	var calls sync.WaitGroup
	for range 16 {
		calls.Go(func() {
			if a, err := p.do("POST", "/function/shared", ""); err != nil || a.status != 200 {
				t.Errorf("%d %q, %v", a.status, a.body, err)
			}
		})
	}
	calls.Wait()
	if log := p.cli("logs", "shared", "--tail=false"); strings.Contains(log, "killed") {
		t.Errorf("150 MiB that four workers share were too much for a limit of 400:\n%s", log)
	}
}

func TestACrashLoopIsExplained(t *testing.T) {
	p := start(t)
	p.write("crash/handler.py", "import sys\nprint('a famous last word', flush=True)\nsys.exit('no model at /nowhere')\n\ndef handle(req):\n    return ''\n")
	p.stack("crash", "python3")
	stdout, stderr, code := p.try("", "up", "-f", "crash.yml")
	if code != 7 || !strings.Contains(stdout+stderr, "no model at /nowhere") {
		t.Errorf("up of a function that ends at once: exit %d, want 7\n%s%s", code, stdout, stderr)
	}
	if got := p.cli("describe", "crash"); !strings.Contains(got, "no model at /nowhere") {
		t.Errorf("describe does not say why:\n%s", got)
	}
	if got := p.cli("logs", "crash", "--tail=false"); !strings.Contains(got, "a famous last word") {
		t.Errorf("the log has not what it printed:\n%s", got)
	}
	began := time.Now()
	a, err := p.do("POST", "/function/crash", "x")
	if err != nil || a.status < 500 || !strings.Contains(a.body, "no model at /nowhere") {
		t.Errorf("a call of it: %d %q, %v: want the reason", a.status, a.body, err)
	}
	if took := time.Since(began); took > 50*time.Second {
		t.Errorf("the call waited %v for a function that cannot start", took)
	}
	p.write("crash/handler.py", "def handle(req):\n    return 'mended'\n")
	p.cli("up", "-f", "crash.yml")
	if a := p.call(200, "POST", "/function/crash", ""); a.body != "mended" {
		t.Errorf("answer %q", a.body)
	}
}

func TestUpdatesAndScalingOfPythonDropNoRequest(t *testing.T) {
	p := start(t)
	version := func(v int) {
		p.pythonFunction("py", "python3-http", fmt.Sprintf("import time\n\ndef handle(event, context):\n    time.sleep(0.005)\n    return 'v%d ' + event.body.decode()\n", v))
		p.cli("up", "-f", "py.yml")
	}
	version(0)
	stop := p.load(4, "/function/py", func(a answer) bool { return a.status == 200 && strings.HasSuffix(a.body, " x") })
	for v := 1; v <= 3; v++ {
		version(v)
		p.cli("scale", "py", "--replicas", strconv.Itoa(1+v%2))
	}
	testkit.Eventually(t, "the last version answers", func() bool {
		return strings.HasPrefix(p.call(200, "POST", "/function/py", "").body, "v3")
	})
	stop()
}

// load keeps a number of callers busy until the function that it returns is
// called, which fails the test if an answer was not good.
func (p *platform) load(callers int, path string, good func(answer) bool) (stop func()) {
	p.t.Helper()
	var sent, failed atomic.Int64
	var first atomic.Value
	done := make(chan struct{})
	var load sync.WaitGroup
	for range callers {
		load.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				a, err := p.do("POST", path, "x")
				sent.Add(1)
				if err != nil || !good(a) {
					failed.Add(1)
					first.CompareAndSwap(nil, fmt.Sprintf("%d %q %v", a.status, a.body, err))
				}
			}
		})
	}
	return func() {
		p.t.Helper()
		close(done)
		load.Wait()
		if sent.Load() < 50 {
			p.t.Errorf("only %d requests were sent: the load did not run", sent.Load())
		}
		if failed.Load() > 0 {
			p.t.Errorf("%d of %d requests failed, the first with %v", failed.Load(), sent.Load(), first.Load())
		}
	}
}

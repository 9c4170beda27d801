package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestTheTwoLinesOfEveryTutorialWork(t *testing.T) {
	p := start(t)
	p.cli("new", "--lang", "python3", "python3-fn")
	p.cli("up", "-f", "python3-fn.yml")
	if a := p.call(200, "POST", "/function/python3-fn", "hello"); a.body != "HELLO" {
		t.Errorf("answer %q", a.body)
	}
	if stdout, stderr, code := p.try("hello", "invoke", "python3-fn"); code != 0 || strings.TrimSpace(stdout) != "HELLO" {
		t.Errorf("invoke: exit %d, %q\n%s", code, stdout, stderr)
	}
	p.cli("remove", "-f", "python3-fn.yml")
	p.gone("/function/python3-fn")
}

func TestEveryTemplateWorksAsItComes(t *testing.T) {
	p := start(t)
	for lang, call := range map[string]struct{ body, want string }{
		"go":            {"Ada", `{"message":"Hello, Ada!"}`},
		"python3":       {"hello", "HELLO"},
		"python3-http":  {"Ada", `{"message": "Hello, Ada!"}`},
		"python3-model": {`{"petal_length": 1.4, "petal_width": 0.2}`, `"setosa"`},
	} {
		name := "try-" + lang
		p.cli("new", name, "--lang", lang, "-f", name+".yml")
		test := []string{"python3", "-m", "unittest"}
		if lang == "go" {
			test = []string{"go", "test", "./..."}
		}
		own := exec.CommandContext(t.Context(), test[0], test[1:]...)
		own.Dir = filepath.Join(p.work(), name)
		if out, err := own.CombinedOutput(); err != nil {
			t.Errorf("%s: its own tests: %v\n%s", lang, err, out)
		}
		p.cli("up", "-f", name+".yml")
		if a := p.call(200, "POST", "/function/"+name, call.body); !strings.Contains(strings.ReplaceAll(a.body, `":"`, `": "`), strings.ReplaceAll(call.want, `":"`, `": "`)) {
			t.Errorf("%s answers %q, want %q", lang, a.body, call.want)
		}
	}
}

// TestHandlersWrittenForOpenFaaSRunUnchanged deploys handlers in the shapes
// that OpenFaaS documents for its templates.
func TestHandlersWrittenForOpenFaaSRunUnchanged(t *testing.T) {
	p := start(t)
	p.write("middleware/go.mod", "module handler/function\n\ngo 1.20\n")
	p.write("middleware/handler.go", `package function

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"handler/function/words"
)

func Handle(w http.ResponseWriter, r *http.Request) {
	var input []byte
	if r.Body != nil {
		defer r.Body.Close()
		input, _ = io.ReadAll(r.Body)
	}
	if err := r.Context().Err(); err == context.Canceled {
		return
	}
	w.Header().Set("X-Words", "yes")
	w.WriteHeader(http.StatusAccepted)
	w.Write([]byte(fmt.Sprintf("%s %s %s", words.Greeting, input, r.URL.Query().Get("q"))))
}
`)
	p.write("middleware/words/words.go", "package words\n\nconst Greeting = \"Body:\"\n")
	p.stack("middleware", "golang-middleware", "build_args: {GO111MODULE: \"on\"}", "labels: {com.openfaas.scale.zero: \"true\"}")

	p.write("http/handler.py", `
import os

from .helper import shout


def handle(event, context):
    if event.method == "GET" and event.path == "/secret":
        with open(os.environ["SECRETS_DIR"] + "/key") as f:
            return {"statusCode": 200, "body": f.read()}
    if event.method != "POST":
        return {"statusCode": 405, "body": "Method not allowed", "headers": {"Allow": "POST"}}
    return {
        "statusCode": 200,
        "body": {"key": shout(event.body.decode("utf-8")), "q": event.query.get("q"), "type": event.headers.get("Content-Type"), "host": bool(context.hostname)},
        "headers": {"Content-Type": "application/json"},
    }
`)
	p.write("http/helper.py", "def shout(text):\n    return text.upper()\n")
	p.write("http/requirements.txt", "\n")
	p.stack("http", "python3-http", "secrets: [key]", "environment: {read_timeout: 5s, write_timeout: 5s, exec_timeout: 5s}", "limits: {memory: 256Mi}", "requests: {cpu: 20m}")

	p.write("classic/handler.py", `
import sys


def handle(req):
    """handle a request to the function"""
    sys.stderr.write("seen " + req + "\n")
    return req
`)
	p.stack("classic", "python3-debian", "environment: {write_debug: true}")

	p.cli("secret", "create", "key", "--from-literal", "s3cr3t")
	for _, name := range []string{"middleware", "http", "classic"} {
		p.cli("up", "-f", name+".yml")
	}
	if a := p.call(202, "POST", "/function/middleware?q=1", "hi"); a.body != "Body: hi 1" || a.header.Get("X-Words") != "yes" {
		t.Errorf("golang-middleware: %q %v", a.body, a.header)
	}
	a := p.call(200, "POST", "/function/http?q=1", "hi", "Content-Type", "text/x-mine")
	if want := `{"key": "HI", "q": "1", "type": "text/x-mine", "host": true}`; strings.TrimSpace(a.body) != want && strings.ReplaceAll(a.body, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("python3-http: %q, want %q", a.body, want)
	}
	if a := p.call(405, "PUT", "/function/http", "hi"); a.body != "Method not allowed" || a.header.Get("Allow") != "POST" {
		t.Errorf("python3-http: %q %v", a.body, a.header)
	}
	if a := p.call(200, "GET", "/function/http/secret", ""); a.body != "s3cr3t" {
		t.Errorf("python3-http: secret %q", a.body)
	}
	if a := p.call(200, "POST", "/function/classic", "hello"); a.body != "hello" {
		t.Errorf("python3-debian: %q", a.body)
	}
	testkit.Eventually(t, "what the function printed is in its log", func() bool {
		return strings.Contains(p.cli("logs", "classic", "--tail=false"), "seen hello")
	})
}

func TestAStackOfSeveralFunctionsGoesUpAndDownTogether(t *testing.T) {
	p := start(t)
	p.goFunction("one", "first")
	p.goFunction("two", "second")
	p.write("stack.yaml", `version: 1.0
provider:
  name: openfaas
  gateway: http://127.0.0.1:1 # OPENFAAS_URL counts more
configuration:
  templates:
    - name: go
functions:
  one:
    lang: go
    handler: ./one
    image: ${PREFIX:-mine}/one:latest
    environment_file: [env.yml]
  two:
    lang: go
    handler: ./two
    image: two:0.1
`)
	p.write("env.yml", "environment:\n  COLOUR: green\n")
	p.cli("up", "--gateway", p.url)
	if a := p.call(200, "GET", "/function/one", ""); !strings.HasPrefix(a.body, "first") {
		t.Errorf("one answers %q", a.body)
	}
	p.call(200, "GET", "/function/two", "")
	if got := p.status("one"); got.EnvVars["COLOUR"] != "green" || !strings.Contains(got.Image, "mine/one") {
		t.Errorf("one is %+v", got)
	}
	p.cli("remove", "--gateway", p.url, "--filter", "t*")
	p.gone("/function/two")
	p.call(200, "GET", "/function/one", "")
	if _, stderr, code := p.try("", "remove", "--gateway", p.url); code != 3 || !strings.Contains(stderr, "two") {
		t.Errorf("remove of one that is there and one that is not: exit %d, want 3\n%s", code, stderr)
	}
	p.gone("/function/one")
}

func TestWatchDeploysWhatChanges(t *testing.T) {
	p := start(t)
	p.pythonFunction("live", "python3", "def handle(req):\n    return 'before'\n")
	var out testkit.Buffer
	watch := exec.CommandContext(t.Context(), graphene, "up", "-f", "live.yml", "--watch")
	watch.Dir, watch.Env, watch.Stdout, watch.Stderr = p.work(), p.environ(), &out, &out
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	answers := func(want string) func() bool {
		return func() bool {
			a, err := p.do("POST", "/function/live", "")
			return err == nil && a.status == 200 && a.body == want
		}
	}
	defer func() {
		_ = watch.Process.Kill() // it has ended if all went well
		if t.Failed() {
			t.Logf("up --watch said\n%s", out.String())
		}
	}()
	testkit.Eventually(t, "the first version answers", answers("before"))
	p.write("live/handler.py", "def handle(req)\n    return 'broken'\n")
	testkit.Eventually(t, "the mistake is told", func() bool {
		return strings.Contains(out.String(), "handler.py:1:")
	})
	p.write("live/handler.py", "def handle(req):\n    return 'after'\n")
	testkit.Eventually(t, "the new version answers", answers("after"))
	if err := watch.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- watch.Wait() }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("Ctrl-C does not end the watch")
		_ = watch.Process.Kill()
	}
	p.call(200, "POST", "/function/live", "")
}

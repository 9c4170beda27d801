package local_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/provider/local"
)

// serverSource is a function that knows nothing of any platform.
const serverSource = `package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
)

func main() {
	fmt.Println("listening as", os.Getuid())
	http.HandleFunc("/read", func(w http.ResponseWriter, r *http.Request) {
		text, err := os.ReadFile(r.URL.Query().Get("file"))
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprint(w, string(text), err)
	})
	http.HandleFunc("/write", func(w http.ResponseWriter, r *http.Request) {
		if err := os.WriteFile(r.URL.Query().Get("file"), []byte("x"), 0o600); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	http.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Join(os.Environ(), "\n")) })
	http.HandleFunc("/grow", func(http.ResponseWriter, *http.Request) {
		hoard := make([]byte, 500<<20)
		for i := range hoard {
			hoard[i] = 1
		}
		fmt.Println(len(hoard))
	})
	http.HandleFunc("/interfaces", func(w http.ResponseWriter, r *http.Request) {
		all, err := net.Interfaces()
		fmt.Fprint(w, len(all), err)
	})
	asked := 0
	http.HandleFunc("/_/health", func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked < 3 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/asked", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, asked) })
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello from a container: ", os.Getuid()) })
	fmt.Println(http.ListenAndServe(":8080", nil))
}
`

// serverBinary builds the server once, linked statically.
var serverBinary = sync.OnceValues(func() (binary []byte, err error) {
	dir, err := os.MkdirTemp("", "server")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(serverSource), 0o600); err != nil {
		return nil, err
	}
	build := exec.Command("go", "build", "-o", "server", "main.go")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build server: %w\n%s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "server"))
})

// serverImage returns an image of the server and little else.
func serverImage(t *testing.T, c v1.Config) v1.Image {
	t.Helper()
	binary, err := serverBinary()
	if err != nil {
		t.Fatal(err)
	}
	c.Labels = map[string]string{"made.by": "hand"}
	if c.Entrypoint == nil {
		c.Entrypoint = []string{"/bin/server"}
	}
	return layeredBytes(t, c, func(h tar.Header) []byte {
		switch h.Name {
		case "bin/server":
			return binary
		case "etc/passwd":
			return []byte("app:x:1234:1234::/:/\n")
		}
		return nil
	}, []tar.Header{
		{Name: "bin/server", Mode: 0o755},
		{Name: "bin/fwatchdog", Typeflag: tar.TypeLink, Linkname: "bin/server"},
		{Name: "etc/passwd", Mode: 0o644},
		{Name: "etc/absolute", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666},
		{Name: "private", Mode: 0o600, Uid: 0},
		{Name: "own", Mode: 0o600, Uid: 1234, Gid: 1234},
	})
}

// inContainers starts a runtime that runs images of others, with an OCI
// runtime of the given name, or skips the test.
func inContainers(t *testing.T, oci string) *fixture {
	t.Helper()
	path, err := exec.LookPath(oci)
	if err != nil {
		t.Skipf("NOT TESTED: containers by %s, which is not installed", oci)
	}
	bin := t.TempDir() // of the two, only this one can be found
	if err := os.Symlink(path, filepath.Join(bin, oci)); err != nil {
		t.Fatal(err)
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+filepath.Dir(goTool))
	o := options(t)
	if isolation := local.Probe(o.Helper); !strings.Contains(isolation, "containers by "+oci) {
		t.Skipf("NOT TESTED: containers; this machine has only %s", isolation)
	}
	return start(t, o)
}

func TestAnImageOfAnotherBuilderRunsInAContainer(t *testing.T) {
	for _, oci := range []string{"runc", "crun"} {
		t.Run(oci, func(t *testing.T) { testContainer(t, inContainers(t, oci)) })
	}
}

// marker is the line of an environment that tells replicas apart.
func marker(env string) string {
	_, line, _ := strings.Cut(env, "graphene_replica=")
	line, _, _ = strings.Cut(line, "\n")
	return "graphene_replica=" + line
}

// marked returns the processes with a marker in their environment.
func marked(marker string) []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		if env, err := os.ReadFile(file); err == nil && strings.Contains(string(env), marker) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func testContainer(t *testing.T, f *fixture) {
	f.images.put("server", serverImage(t, v1.Config{User: "app", Env: []string{"from_image=yes"}}))
	if err := f.CreateSecret(t.Context(), types.Secret{Name: "key", Namespace: function.DefaultNamespace, Value: "secret"}); err != nil {
		t.Fatal(err)
	}
	spec := f.spec("foreign")
	spec.Image = "server"
	spec.Secrets = []string{"key"}
	spec.EnvVars = map[string]string{"from_function": "yes"}
	spec.Limits = &types.FunctionResources{Memory: "200Mi", CPU: "1"}
	ref := f.deploy(spec)
	if err := f.Scale(t.Context(), ref, 2); err != nil {
		t.Fatal(err)
	}
	e := f.until(ref, "two ready replicas", func(e function.Endpoints) bool { return ready(2)(e) || failed(e) })
	if e.Failure != "" {
		t.Fatalf("%s\n%s", e.Failure, f.printedBy(ref))
	}
	if !strings.Contains(e.Note, "container") {
		t.Errorf("the note is %q", e.Note)
	}
	r := e.Replicas[0]
	for path, want := range map[string]string{
		"/":                                    "hello from a container: 1234",
		"/read?file=/var/openfaas/secrets/key": "secret<nil>",
		"/read?file=/etc/absolute":             "app:x:1234:1234::/:/\n<nil>",
		"/interfaces":                          "1 <nil>",
	} {
		if status, body := f.call(r, path); status != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", path, status, body, want)
		}
	}
	for _, path := range []string{"/read?file=/own", "/write?file=/own", "/write?file=/dev/shm/x"} {
		if status, body := f.call(r, path); status != 200 {
			t.Errorf("%s is denied: %s", path, body)
		}
	}
	for _, path := range []string{"/read?file=/private", "/write?file=/bin/server", "/write?file=/var/openfaas/secrets/x", "/read?file=" + f.options.Dir, "/write?file=/proc/sys/kernel/hostname", "/read?file=/proc/1/cmdline"} {
		if status, _ := f.call(r, path); status == 200 {
			t.Errorf("%s is allowed", path)
		}
	}
	if text, err := os.ReadFile(filepath.Join(f.options.Dir, "x")); err == nil {
		t.Errorf("a replica wrote %q outside", text)
	}
	_, status := f.call(r, "/read?file=/proc/self/status")
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(status, want) {
			t.Errorf("its status has no %q:\n%s", want, status)
		}
	}
	_, env := f.call(r, "/env")
	for _, want := range []string{"from_image=yes", "from_function=yes", "port=8080", "OPENFAAS_NAME=foreign"} {
		if !strings.Contains(env, want) {
			t.Errorf("its environment has no %s:\n%s", want, env)
		}
	}
	if strings.Contains(env, "lifeline_fd") || strings.Contains(env, "listen=") {
		t.Errorf("its environment has what is meant for its watchdog:\n%s", env)
	}

	_, _, err := callReplica(t.Context(), r, "/grow")
	t.Logf("the call that needs too much memory: %v", err)
	f.until(ref, "another replica", func(e function.Endpoints) bool {
		return ready(2)(e) && e.Replicas[0].ID != r.ID && e.Replicas[1].ID != r.ID
	})
	text := f.printedBy(ref)
	for _, want := range []string{"listening as 1234", "its limit is 200Mi"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log has no %q:\n%s", want, text)
		}
	}
	if err := f.Remove(t.Context(), ref); err != nil { // which must not wait for the time a call may take
		t.Fatal(err)
	}
	platform, _, _ := strings.Cut(marker(env), "/")
	eventually(t, "no process is left", func() bool { return len(marked(platform)) == 0 })
	f.stop()
	id := strings.TrimPrefix(platform, "graphene_replica=")
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/graphene-" + id); len(left) > 0 {
		t.Errorf("control groups are left: %v", left)
	}
}

func TestAContainerWhoseWatchdogIsKilledEnds(t *testing.T) {
	f := inContainers(t, "runc")
	f.images.put("server", serverImage(t, v1.Config{})) // as root, which it must not be
	spec := f.spec("foreign")
	spec.Image = "server"
	spec.ReadOnlyRootFilesystem = true
	ref := f.deploy(spec)
	r := f.until(ref, "ready replica", ready(1)).Replicas[0]
	if _, body := f.call(r, "/"); strings.HasSuffix(body, ": 0") {
		t.Errorf("the function runs as root: %s", body)
	}
	if status, body := f.call(r, "/write?file=/tmp/x"); status != 200 {
		t.Errorf("it cannot write to /tmp: %s", body)
	}
	if status, _ := f.call(r, "/write?file=/x"); status == 200 {
		t.Errorf("it writes to a root file system that is to be read-only")
	}
	_, env := f.call(r, "/env")
	before := marked(marker(env))
	if len(before) < 3 {
		t.Fatalf("of its watchdog, its OCI runtime and itself there are %v", before)
	}
	for _, pid := range before {
		if strings.Contains(string(commandLine(pid)), "fwatchdog") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.until(ref, "another replica", func(e function.Endpoints) bool { return ready(1)(e) && e.Replicas[0].ID != r.ID })
	for _, pid := range before {
		if alive(pid) {
			t.Errorf("process %d outlives its replica: %s", pid, commandLine(pid))
		}
	}
}

func TestAWatchdogInAContainerSaysWhenItIsReady(t *testing.T) {
	f := inContainers(t, "runc")
	f.images.put("openfaas", serverImage(t, v1.Config{Entrypoint: []string{"fwatchdog"}, Env: []string{"PATH=/bin"}}))
	spec := f.spec("foreign")
	spec.Image = "openfaas"
	r := f.until(f.deploy(spec), "ready replica", ready(1)).Replicas[0]
	if _, asked := f.call(r, "/asked"); asked == "0" || asked == "1" || asked == "2" {
		t.Errorf("it was asked %s times and became ready", asked)
	}
}

func TestAnImageOfAnotherBuilderIsRefusedWhereThereAreNoContainers(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // which has no OCI runtime
	f := start(t, options(t))
	f.images.put("foreign", layered(t, v1.Config{Labels: map[string]string{"a": "b"}}))
	spec := f.spec("foreign")
	spec.Image = "foreign"
	err := f.Deploy(t.Context(), spec)
	if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "graphene build") {
		t.Errorf("got %v", err)
	}
	t.Log(err)
}

func TestAnImageForAnotherMachineIsRefused(t *testing.T) {
	f := inContainers(t, "runc")
	img := layered(t, v1.Config{Labels: map[string]string{"a": "b"}})
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Architecture = "mips"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	f.images.put("foreign", img)
	spec := f.spec("foreign")
	spec.Image = "foreign"
	if err := f.Deploy(t.Context(), spec); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "mips") {
		t.Errorf("got %v", err)
	}
}

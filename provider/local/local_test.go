package local_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/provider/local"
	"github.com/graphene-faas/graphene/provider/runtimetest"
	"github.com/graphene-faas/graphene/watchdog"
)

// This binary is also what the runtime starts: the helper, the watchdog, and,
// in one test, a whole platform that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "replica":
			os.Exit(local.ReplicaMain(os.Args[2:], os.Environ(), os.Stderr))
		case "fwatchdog":
			os.Exit(replica())
		case "server":
			os.Exit(server(os.Args[2]))
		case "platform":
			ctx := context.Background() // the main of a process of its own
			os.Exit(platform(ctx, os.Args[2], os.Args[3], os.Args[4:]))
		}
	}
	testkit.Main(m)
}

// replica is a function that behaves as its environment says.
func replica() int {
	if say := os.Getenv("say"); say != "" {
		fmt.Fprintln(os.Stdout, say)
	}
	switch os.Getenv("behave") {
	case "exit":
		fmt.Fprintln(os.Stderr, "goodbye")
		code, _ := strconv.Atoi(os.Getenv("code"))
		return code
	case "never ready":
		return serveNothing(false)
	case "ignore SIGTERM":
		return serveNothing(true)
	case "one long line":
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("x"), 50<<20))
		fmt.Fprintln(os.Stdout)
	}
	if os.Getenv("mode") != "" { // a server of its own, a container, or a process for each call
		return watchdog.Main(nil)
	}
	return watchdog.Main(http.HandlerFunc(handle))
}

// server is a function's own server, which listens where it pleases.
func server(address string) int {
	fmt.Fprintln(os.Stderr, http.ListenAndServe(address, http.HandlerFunc(handle)))
	return 1
}

// serveNothing answers probes and stays.
func serveNothing(ready bool) int {
	ignoreSignals()
	path := strings.TrimPrefix(os.Getenv("listen"), "unix:")
	l, err := net.Listen("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.NewFile(3, "lifeline"))
		os.Exit(1)
	}()
	_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !ready {
			http.Error(w, "loading", http.StatusServiceUnavailable)
		}
	}))
	return 1
}

func handle(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	var err error
	switch r.URL.Path {
	case "/env":
		fmt.Fprint(w, os.Getenv(query.Get("name")))
	case "/read":
		var text []byte
		if text, err = os.ReadFile(query.Get("file")); err == nil {
			_, err = w.Write(text)
		}
	case "/write":
		err = os.WriteFile(query.Get("file"), []byte("x"), 0o600)
	case "/uid":
		fmt.Fprint(w, os.Getuid())
	case "/pid":
		fmt.Fprint(w, os.Getpid())
	case "/child": // in a group of its own, as a watchdog's are
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		err = cmd.Start()
	case "/cwd":
		var dir string
		dir, err = os.Getwd()
		fmt.Fprint(w, dir)
	case "/exit":
		os.Exit(0)
	case "/grow":
		megabytes, _ := strconv.Atoi(query.Get("mb"))
		hoard = bytes.Repeat([]byte{1}, megabytes<<20)
	case "/spin":
		go func() {
			for i := 0; ; i++ { // as long as the process lives
			}
		}()
	case "/escape": // a process that leaves the group and the tree
		cmd := exec.Command("/bin/sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 & echo $!")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		var out []byte
		out, err = cmd.Output()
		_, _ = w.Write(out)
	case "/sleep":
		select {
		case <-r.Context().Done():
		case <-time.After(time.Second):
		}
		fmt.Fprint(w, "slept")
	case "/connect":
		var conn net.Conn
		if conn, err = net.Dial("unix", query.Get("socket")); err == nil {
			conn.Close()
		}
	default:
		fmt.Fprint(w, "hello from ", os.Getenv("OPENFAAS_NAME"))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

var hoard []byte

// images is a Puller over a map.
type images struct {
	mu  sync.Mutex
	all map[string]v1.Image
}

func (i *images) Pull(_ context.Context, name string) (v1.Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	img, known := i.all[name]
	if !known {
		return nil, fault.Invalid.Errorf("there is no image %s", name)
	}
	return img, nil
}

func (i *images) put(name string, img v1.Image) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.all[name] = img
}

var host = function.Target{OS: runtime.GOOS, Arch: runtime.GOARCH}

// layered makes an image as the layers builder would.
func layered(t testing.TB, c v1.Config, layers ...[]tar.Header) v1.Image {
	t.Helper()
	return layeredBytes(t, c, func(tar.Header) []byte { return nil }, layers...)
}

func layeredBytes(t testing.TB, c v1.Config, content func(tar.Header) []byte, layers ...[]tar.Header) v1.Image {
	t.Helper()
	if c.Labels == nil {
		c.Labels = map[string]string{function.ImageBuilder: "layers", function.ImageLang: "go", function.ImageTarget: host.String()}
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: host.OS, Architecture: host.Arch, Config: c})
	if err != nil {
		t.Fatal(err)
	}
	for _, entries := range layers {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range entries {
			body := content(h)
			if h.Typeflag == 0 {
				h.Typeflag = tar.TypeReg
			}
			h.Size = int64(len(body))
			if err := errors.Join(w.WriteHeader(&h)); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(body); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// echoImage runs this test binary as a function. Different content makes
// different images.
func echoImage(t testing.TB, content string) v1.Image {
	return layeredBytes(t, v1.Config{Entrypoint: []string{"fwatchdog"}, Env: []string{"GORACE=atexit_sleep_ms=0"}},
		func(tar.Header) []byte { return []byte(content) },
		[]tar.Header{{Name: "home/app/content", Mode: 0o644}})
}

// A fixture is a runtime that runs.
type fixture struct {
	*local.Runtime
	t       testing.TB
	options local.Options
	images  *images
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

// passable returns a directory that functions, which may have users of their
// own, can pass through. Its path is short enough for sockets.
func passable(t testing.TB) string {
	dir, err := os.MkdirTemp("", "g")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		makeWritable(dir) // images are sealed
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// itself returns a path of this test binary that functions can reach, which
// the one that the go command made may not be.
func itself(t testing.TB) string {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	reachable := filepath.Join(passable(t), "self")
	if os.Link(self, reachable) == nil {
		return reachable
	}
	binary, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(reachable, binary, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return reachable
}

func options(t testing.TB) local.Options {
	self := itself(t)
	return local.Options{
		Dir:       passable(t),
		SocketDir: passable(t),
		Images: &images{all: map[string]v1.Image{
			"echo":   echoImage(t, "1"),
			"echo:2": echoImage(t, "2"),
			"alien":  layered(t, v1.Config{Labels: map[string]string{function.ImageBuilder: "layers", function.ImageTarget: "plan9/mips"}}),
		}},
		Watchdog:  []string{self, "fwatchdog"},
		Helper:    []string{self, "replica"},
		StopGrace: 5 * time.Second,
		Settle:    time.Millisecond,
		Log:       testkit.Log(t),
	}
}

func makeWritable(dir string) {
	_ = filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(name, 0o700)
		}
		return nil
	})
}

func start(t testing.TB, o local.Options) *fixture {
	t.Helper()
	r, err := local.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	f := &fixture{Runtime: r, t: t, options: o, images: o.Images.(*images), cancel: cancel}
	running := make(chan struct{})
	f.done.Go(func() {
		close(running)
		if err := r.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	<-running
	t.Cleanup(f.stop)
	return f
}

func (f *fixture) stop() {
	f.cancel()
	f.done.Wait()
}

func (f *fixture) spec(name string) types.FunctionDeployment {
	return types.FunctionDeployment{Service: name, Namespace: function.DefaultNamespace, Image: "echo"}
}

func (f *fixture) deploy(spec types.FunctionDeployment) function.Ref {
	f.t.Helper()
	if err := f.Deploy(f.t.Context(), spec); err != nil {
		f.t.Fatal(err)
	}
	return function.Ref{Name: spec.Service, Namespace: spec.Namespace}
}

// until waits for endpoints that are as they should be.
func (f *fixture) until(ref function.Ref, what string, ok func(function.Endpoints) bool) function.Endpoints {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
	defer cancel()
	events := make(chan function.Endpoints, 1000)
	var watching sync.WaitGroup
	watching.Go(func() {
		_ = f.Watch(ctx, func(e function.Event) {
			if e.Endpoints != nil && e.Endpoints.Ref == ref {
				events <- *e.Endpoints
			}
		})
	})
	defer watching.Wait()
	defer cancel()
	var last function.Endpoints
	for {
		select {
		case last = <-events:
			if ok(last) {
				return last
			}
		case <-ctx.Done():
			f.t.Fatalf("no %s; endpoints are %+v", what, last)
		}
	}
}

func ready(n int) func(function.Endpoints) bool {
	return func(e function.Endpoints) bool {
		have := 0
		for _, r := range e.Replicas {
			if r.Ready && r.Revision == e.Revision {
				have++
			}
		}
		return have == n && len(e.Replicas) == n
	}
}

func failed(e function.Endpoints) bool { return e.Failure != "" }

// call sends a request to one replica.
func (f *fixture) call(r function.Replica, pathAndQuery string) (int, string) {
	f.t.Helper()
	status, body, err := callReplica(f.t.Context(), r, pathAndQuery)
	if err != nil {
		f.t.Fatal(err)
	}
	return status, body
}

func callReplica(ctx context.Context, r function.Replica, pathAndQuery string) (int, string, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(r.Address, "unix:"))
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://replica"+pathAndQuery, nil)
	if err != nil {
		return 0, "", err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

func TestTheContractOfRuntimes(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		f := start(t, options(t))
		return runtimetest.Subject{
			Runtime: f, Secrets: f, Logs: f, Namespaces: f,
			Image:   "echo",
			Refused: "alien",
			Failing: func(d *types.FunctionDeployment) {
				d.EnvVars = map[string]string{"behave": "exit", "code": "3"}
			},
		}
	})
}

func TestAReplicaAnswersOnItsSocket(t *testing.T) {
	f := start(t, options(t))
	t.Log(f.Isolation())
	e := f.until(f.deploy(f.spec("echo")), "ready replica", ready(1))
	if status, body := f.call(e.Replicas[0], "/"); status != 200 || body != "hello from echo" {
		t.Errorf("got %d %q", status, body)
	}
	if probed := local.Probe(f.options.Helper); probed != f.Isolation() {
		t.Errorf("without a runtime it would be %s", probed)
	}
}

// platform is a runtime in a process of its own, which puts functions to sleep
// as soon as they are ready.
func platform(ctx context.Context, dir, socketDir string, sleepers []string) int {
	self, _ := os.Executable()
	r, err := local.New(local.Options{
		Dir: dir, SocketDir: socketDir, Images: &images{}, Watchdog: []string{self, "fwatchdog"}, Helper: []string{self, "replica"},
		Traffic: idle{}, Keep: local.Keep{Frozen: time.Hour},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		out := json.NewEncoder(os.Stdout)
		_ = r.Watch(ctx, func(e function.Event) {
			_ = out.Encode(e)
			if e.Endpoints != nil && slices.Contains(sleepers, e.Endpoints.Name) && ready(1)(*e.Endpoints) {
				go func() { _ = r.Scale(ctx, e.Endpoints.Ref, 0) }() // this process is going to be killed
			}
		})
	}()
	_ = r.Run(ctx)
	return 0
}

// idle is a Traffic without any.
type idle struct{}

func (idle) OnReplica(function.Ref, string) int    { return 0 }
func (idle) Parted(function.Ref, string, int) bool { return true }

// Package soak runs a platform with a function that leaks, hangs, crashes and
// multiplies under load, for as long as the variable SOAK says, and looks at what that
// does to others and to the platform: only the calls that misbehave may fail,
// memory stays bounded, and nothing is left behind.
package soak

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	clients = 4
	// usual is how long the test runs unless SOAK says otherwise.
	usual = 40 * time.Second
	// bound is what all processes of the platform may use together: four
	// workers that are replaced at 100 MiB, their successors, and the rest.
	// What a worker that multiplies has is shared.
	bound = 1 << 30
)

// kinds are the calls, how many of a thousand are such, and what answers them.
var kinds = []struct {
	path   string
	often  int
	status int
}{
	{"soak/ok", 348, 200},
	{"quiet/ok", 350, 200},
	{"threads/ok", 138, 200},
	{"soak/file", 60, 200},
	{"soak/leak", 60, 200},
	{"soak/raise", 20, 500},
	{"soak/print", 4, 200},
	{"soak/daemon", 4, 200},
	{"soak/exit", 4, 500},
	{"soak/segfault", 4, 500},
	{"soak/fork", 2, 500},
	{"soak/hang", 2, 504},
	{"soak/stuck", 2, 504},
	{"threads/heed", 2, 504},
}

// The timeout is as long as a machine that is busy with other things may need
// to end processes that multiply.
const stackFile = `version: 1.0
provider:
  name: openfaas
functions:
  soak:
    lang: python3-http
    handler: ./soak
    image: soak:latest
    workers: 4
    workers_min: 4
    max_memory: 100Mi
    max_processes: 30
    exec_timeout: 5s
  quiet:
    lang: python3-http
    handler: ./soak
    image: quiet:latest
    workers: 4
    workers_min: 4
    max_requests: 5000
    exec_timeout: 30s
  threads:
    lang: python3-http
    handler: ./soak
    image: threads:latest
    workers: 2
    workers_min: 2
    worker_threads: 4
    exec_timeout: 5s
`

func TestOnlyCallsThatMisbehaveFailAndNothingIsLeft(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short leaves out the soak test, which takes more than a minute")
	}
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("SKIPPED: this system has no /proc to count with")
	}
	duration := usual
	if text := os.Getenv("SOAK"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatalf("SOAK: %v", err)
		}
	}
	p := start(t)
	p.load(t, 5*time.Second) // every worker, buffer and log is there
	before := p.settled(t)
	t.Logf("before: %v", before)
	most := p.load(t, duration)
	after := p.settled(t)
	t.Logf("after %v: %v; at most %d MiB", duration, after, most>>20)
	if most > bound {
		t.Errorf("%d MiB were used, want at most %d", most>>20, bound>>20)
	}
	for _, grown := range []struct {
		what               string
		before, after, few int
	}{
		{"processes", before.processes, after.processes, 0},
		{"open files of the platform", before.files, after.files, 10},
		{"goroutines", before.goroutines, after.goroutines, 20},
		{"temporary files", before.temporary, after.temporary, 4},
	} {
		if grown.after > grown.before+grown.few {
			t.Errorf("%d %s became %d", grown.before, grown.what, grown.after)
		}
	}
}

// A platform is one `graphene serve` with the functions deployed.
type platform struct {
	url, metrics, tmp string
	pid               int
}

func start(t *testing.T) *platform {
	t.Helper()
	// Not t.TempDir: its path is too long for sockets and closed to replicas.
	dir, err := os.MkdirTemp("", "gs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	metrics := freeAddress(t)
	p := &platform{tmp: filepath.Join(dir, "tmp"), metrics: "http://" + metrics}
	graphene := filepath.Join(dir, "graphene")
	for _, d := range []string{dir, p.tmp} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", graphene, "../../cli/cmd/graphene").CombinedOutput(); err != nil {
		t.Fatalf("build graphene: %v\n%s", err, out)
	}

	environ := append(os.Environ(), "OPENFAAS_CONFIG="+filepath.Join(dir, "cli"), "TMPDIR="+p.tmp)
	serve := exec.Command(graphene, "serve", "--listen", "127.0.0.1:0", "--metrics-listen", metrics, "--data-dir", filepath.Join(dir, "data"))
	serve.Env = environ
	out, err := serve.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	serve.Stderr = serve.Stdout
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	p.pid = serve.Process.Pid
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if m := regexp.MustCompile(`ready at (http://\S+)`).FindStringSubmatch(lines.Text()); m != nil {
				p.url = m[1]
				close(ready)
			}
		}
		_ = serve.Wait() // the test judges it by what it does
	}()
	t.Cleanup(func() {
		_ = serve.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Error("graphene serve does not stop")
			_ = serve.Process.Kill()
			<-ended
		}
	})
	select {
	case <-ready:
	case <-ended:
		t.Fatal("graphene serve ended")
	case <-time.After(time.Minute):
		t.Fatal("graphene serve is not ready after a minute")
	}

	work := filepath.Join(dir, "work")
	if err := os.CopyFS(work, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "stack.yaml"), []byte(stackFile), 0o644); err != nil {
		t.Fatal(err)
	}
	up := exec.CommandContext(t.Context(), graphene, "up")
	up.Dir, up.Env = work, append(environ, "OPENFAAS_URL="+p.url)
	if out, err := up.CombinedOutput(); err != nil {
		t.Fatalf("graphene up: %v\n%s", err, out)
	}
	return p
}

// freeAddress returns an address that nobody listens on: where a platform
// chooses one for its metrics itself, it does not say which.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// load calls the functions for so long, holds each call to what it must
// answer, and returns the most memory that was used.
func (p *platform) load(t *testing.T, duration time.Duration) (most int) {
	t.Helper()
	var wg sync.WaitGroup
	var calls = make([]atomic.Int64, len(kinds))
	end := time.Now().Add(duration)
	for range clients {
		wg.Go(func() {
			for time.Now().Before(end) {
				i := pick()
				calls[i].Add(1)
				if problem := p.call(t, kinds[i].path, kinds[i].status); problem != "" {
					t.Error(problem)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for tick := time.NewTicker(500 * time.Millisecond); ; {
		select {
		case <-tick.C:
			most = max(most, p.memory())
		case <-done:
			tick.Stop()
			var said []string
			for i, k := range kinds {
				said = append(said, fmt.Sprintf("%d %s", calls[i].Load(), k.path))
			}
			t.Logf("calls: %s", strings.Join(said, ", "))
			return most
		}
	}
}

// pick chooses a kind of call.
func pick() int {
	n := rand.IntN(1000)
	for i, k := range kinds {
		if n -= k.often; n < 0 {
			return i
		}
	}
	return 0
}

func (p *platform) call(t *testing.T, path string, want int) string {
	body := strings.Repeat("soak ", 100)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/function/"+path, strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Sprintf("%s: %v", path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return fmt.Sprintf("%s: %v", path, err)
	case resp.StatusCode != want:
		return fmt.Sprintf("%s: %d %.200q, want %d", path, resp.StatusCode, text, want)
	case want == http.StatusOK && string(text) != body:
		return fmt.Sprintf("%s: the answer is %.100q", path, text)
	}
	return ""
}

// counted is what a platform holds.
type counted struct{ processes, files, goroutines, temporary int }

func (c counted) String() string {
	return fmt.Sprintf("%d processes, %d open files, %d goroutines, %d temporary files", c.processes, c.files, c.goroutines, c.temporary)
}

// settled waits until what is counted has been the same for a while.
func (p *platform) settled(t *testing.T) counted {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	var last counted
	same := 0
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); {
		now := p.count(t)
		if now == last && len(p.tree()) <= processesAtRest {
			if same++; same == 4 {
				return now
			}
		} else {
			same = 0
		}
		last = now
		time.Sleep(500 * time.Millisecond)
	}
	return last
}

// processesAtRest are the platform, and for each function the watchdog, the
// zygote and the workers, of which none ends for being idle.
const processesAtRest = 1 + 2*(2+4) + (2 + 2)

func (p *platform) count(t *testing.T) counted {
	t.Helper()
	c := counted{processes: len(p.tree())}
	if files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid)); err == nil {
		c.files = len(files)
	}
	_ = filepath.WalkDir(p.tmp, func(string, os.DirEntry, error) error { c.temporary++; return nil })
	resp, err := http.Get(p.metrics + "/metrics")
	if err != nil {
		t.Fatalf("metrics: %v", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("metrics: %v", err)
	}
	m := regexp.MustCompile(`(?m)^go_goroutines (\d+)`).FindSubmatch(text)
	if m == nil {
		t.Fatal("the metrics have no go_goroutines")
	}
	c.goroutines, _ = strconv.Atoi(string(m[1]))
	return c
}

// tree returns the platform's process and all below it.
func (p *platform) tree() []int {
	parents := map[int]int{}
	names, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		parents[pid], _ = strconv.Atoi(fields[1])
	}
	tree := []int{p.pid}
	for i := 0; i < len(tree); i++ {
		for pid, parent := range parents {
			if parent == tree[i] && !slices.Contains(tree, pid) {
				tree = append(tree, pid)
			}
		}
	}
	return tree
}

// memory returns what the platform and its functions use, shared pages once.
func (p *platform) memory() int {
	sum := 0
	for _, pid := range p.tree() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it has ended
		}
		if m := regexp.MustCompile(`(?m)^Pss:\s+(\d+) kB`).FindSubmatch(text); m != nil {
			kb, _ := strconv.Atoi(string(m[1]))
			sum += kb << 10
		}
	}
	return sum
}

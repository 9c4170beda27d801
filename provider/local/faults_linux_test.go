package local_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// eventually waits for a condition that nothing announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("it never came that %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// replicaProcesses returns the processes that belong to replicas of a platform
// on dir, by what they have in their environment.
func replicaProcesses(dir string) []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(env), "graphene_replica=") || !strings.Contains(string(env), dir) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		pids = append(pids, pid)
	}
	return pids
}

func alive(pid int) bool { return len(commandLine(pid)) > 0 }

// commandLine is empty for a process that has ended, waited for or not.
func commandLine(pid int) []byte {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return text
}

// printedBy returns the log of a function.
func (f *fixture) printedBy(ref function.Ref) string {
	f.t.Helper()
	messages, err := f.Query(f.t.Context(), logs.Request{Name: ref.Name, Namespace: ref.Namespace})
	if err != nil {
		f.t.Fatal(err)
	}
	var text strings.Builder
	for m := range messages {
		text.WriteString(m.Text)
		text.WriteByte('\n')
	}
	return text.String()
}

func TestAReplicaThatExitsWithStatusZeroHasFailed(t *testing.T) {
	f := start(t, options(t))
	spec := f.spec("quitter")
	spec.EnvVars = map[string]string{"behave": "exit"}
	e := f.until(f.deploy(spec), "failure", failed)
	for _, want := range []string{"status 0", "before it was ready", "goodbye"} {
		if !strings.Contains(e.Failure, want) {
			t.Errorf("failure %q does not say %q", e.Failure, want)
		}
	}
}

func TestAReplicaThatIsKilledIsReplaced(t *testing.T) {
	f := start(t, options(t))
	ref := f.deploy(f.spec("echo"))
	first := f.until(ref, "ready replica", ready(1)).Replicas[0]
	for _, pid := range replicaProcesses(f.options.Dir) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	e := f.until(ref, "other replica", func(e function.Endpoints) bool { return ready(1)(e) && e.Replicas[0].ID != first.ID })
	if e.Failure != "" {
		t.Errorf("an accident counts as failure: %s", e.Failure)
	}
}

func TestAReplicaThatIsNeverReadyIsGivenUp(t *testing.T) {
	f := start(t, options(t))
	spec := f.spec("sloth")
	spec.EnvVars = map[string]string{"behave": "never ready", "load_timeout": "1ms"}
	e := f.until(f.deploy(spec), "failure", failed)
	if want := "was not ready within 1ms"; !strings.Contains(e.Failure, want) {
		t.Errorf("failure is %q, want it to say %q", e.Failure, want)
	}
}

func TestOutputWithoutEndIsBounded(t *testing.T) {
	f := start(t, options(t))
	spec := f.spec("babbler")
	spec.EnvVars = map[string]string{"behave": "one long line"}
	ref := f.deploy(spec)
	f.until(ref, "ready replica", ready(1))
	messages, err := f.Query(t.Context(), logs.Request{Name: ref.Name, Namespace: ref.Namespace})
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for m := range messages {
		if len(m.Text) > 64<<10+1 {
			t.Fatalf("a line has %d bytes", len(m.Text))
		}
		total += len(m.Text)
	}
	if total == 0 || total > 31<<20 {
		t.Errorf("%d bytes of log are kept", total)
	}
}

func TestAProcessThatLeftItsReplicaEndsWithIt(t *testing.T) {
	f := start(t, options(t))
	ref := f.deploy(f.spec("forker"))
	e := f.until(ref, "ready replica", ready(1))
	_, body := f.call(e.Replicas[0], "/escape")
	pid, err := strconv.Atoi(strings.TrimSpace(body))
	if err != nil || !alive(pid) {
		t.Fatalf("the function's process is %q: %v", body, err)
	}
	if err := f.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process has ended", func() bool { return !alive(pid) })
}

func TestAReplicaThatIgnoresSIGTERMIsKilled(t *testing.T) {
	f := start(t, options(t))
	spec := f.spec("mule")
	spec.EnvVars = map[string]string{"behave": "ignore SIGTERM", "exec_timeout": "1ms"}
	ref := f.deploy(spec)
	f.until(ref, "ready replica", ready(1))
	if err := f.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no process is left", func() bool { return len(replicaProcesses(f.options.Dir)) == 0 })
}

func TestANamespaceIsFreeAsSoonAsItsFunctionsAreRemoved(t *testing.T) {
	o := options(t)
	o.StopGrace = 500 * time.Millisecond
	f := start(t, o)
	if err := f.CreateNamespace(t.Context(), types.FunctionNamespace{Name: "other"}); err != nil {
		t.Fatal(err)
	}
	spec := f.spec("mule")
	spec.Namespace = "other"
	spec.EnvVars = map[string]string{"behave": "ignore SIGTERM", "exec_timeout": "1ms"} // so that its replica is still there below
	ref := f.deploy(spec)
	f.until(ref, "ready replica", ready(1))
	if err := f.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteNamespace(t.Context(), "other"); err != nil {
		t.Error(err)
	}
}

func TestNothingOutlivesAKilledPlatform(t *testing.T) {
	o := options(t)
	f := start(t, o)
	ref := f.deploy(f.spec("echo"))
	f.until(ref, "ready replica", ready(1))
	f.stop()
	if pids := replicaProcesses(o.Dir); len(pids) > 0 {
		t.Errorf("processes %v outlive a platform that was stopped", pids)
	}

	// The same platform in a process of its own, which is killed.
	child := exec.CommandContext(t.Context(), o.Helper[0], "platform", o.Dir, o.SocketDir)
	child.Stderr = t.Output()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	events := json.NewDecoder(out)
	var e function.Event
	for e.Endpoints == nil || !ready(1)(*e.Endpoints) {
		e = function.Event{}
		if err := events.Decode(&e); err != nil {
			t.Fatal(err)
		}
	}
	_, body := f.call(e.Endpoints.Replicas[0], "/escape")
	escaped, err := strconv.Atoi(strings.TrimSpace(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	eventually(t, "the replicas have ended", func() bool {
		pids := replicaProcesses(o.Dir)
		return len(pids) == 0 || len(pids) == 1 && pids[0] == escaped
	})

	// The next one brings the function back, and ends what had got away.
	f = start(t, o)
	again := f.until(ref, "ready replica", ready(1))
	if again.Revision != 1 {
		t.Errorf("after a restart the revision is %d", again.Revision)
	}
	if alive(escaped) {
		t.Errorf("process %d of the killed platform is still there", escaped)
	}
}

func TestARestartRestoresWhatWasDeployed(t *testing.T) {
	o := options(t)
	f := start(t, o)
	spec := f.spec("echo")
	spec.EnvVars = map[string]string{"greeting": "hello"}
	ref := f.deploy(spec)
	f.deploy(spec)
	if err := f.Scale(t.Context(), ref, 2); err != nil {
		t.Fatal(err)
	}
	if err := f.CreateNamespace(t.Context(), types.FunctionNamespace{Name: "other"}); err != nil {
		t.Fatal(err)
	}
	before := f.until(ref, "two ready replicas", ready(2))
	f.stop()

	// A file that only half arrived is put aside and harms nobody.
	half := filepath.Join(o.Dir, "functions", ref.Namespace, "half", "function.json")
	if err := os.MkdirAll(filepath.Dir(half), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(half, []byte(`{"ref":{"name":"half`), 0o600); err != nil {
		t.Fatal(err)
	}
	f = start(t, o)
	after := f.until(ref, "two ready replicas", ready(2))
	if after.Revision != before.Revision || after.Revision != 2 {
		t.Errorf("revision went from %d to %d", before.Revision, after.Revision)
	}
	if _, body := f.call(after.Replicas[0], "/env?name=greeting"); body != "hello" {
		t.Errorf("the environment has %q", body)
	}
	if _, err := f.Namespace(t.Context(), "other"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(half + ".broken"); err != nil {
		t.Errorf("the broken file was not put aside: %v", err)
	}
	f.deploy(spec)
	f.until(ref, "the next revision", func(e function.Endpoints) bool { return e.Revision == 3 })
}

func TestAFunctionIsFencedIn(t *testing.T) {
	f := start(t, options(t))
	isolation, open, _ := strings.Cut(f.Isolation(), "; open: ")
	for name, value := range map[string]string{"mine": "1", "theirs": "2"} {
		if err := f.CreateSecret(t.Context(), types.Secret{Name: name, Namespace: function.DefaultNamespace, Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	spec := f.spec("a")
	spec.Secrets = []string{"mine"}
	a := f.until(f.deploy(spec), "ready replica", ready(1)).Replicas[0]
	spec = f.spec("b")
	spec.Secrets = []string{"theirs"}
	b := f.until(f.deploy(spec), "ready replica", ready(1)).Replicas[0]
	env := func(r function.Replica, name string) string {
		_, body := f.call(r, "/env?name="+name)
		return body
	}

	if _, body := f.call(a, "/read?file="+env(a, "SECRETS_DIR")+"/mine"); body != "1" {
		t.Errorf("its secret is %q", body)
	}
	allowed := []string{"/write?file=" + env(a, "HOME") + "/x", "/write?file=" + env(a, "TMPDIR") + "/x", "/read?file=content", "/read?file=/etc/hostname"}
	denied := []string{"/write?file=content", "/write?file=/etc/x"}
	if strings.Contains(isolation, "/var/openfaas/secrets") {
		if _, body := f.call(a, "/read?file=/var/openfaas/secrets/mine"); body != "1" {
			t.Errorf("its secret, where OpenFaaS has it, is %q", body)
		}
	} else {
		t.Logf("NOT TESTED: secrets in /var/openfaas/secrets; open: %s", open)
	}
	if strings.Contains(isolation, "private /tmp") {
		allowed = append(allowed, "/write?file=/tmp/graphene-test", "/write?file=/dev/shm/graphene-test")
	} else {
		t.Logf("NOT TESTED: a private /tmp; open: %s", open)
	}
	if strings.Contains(isolation, "Landlock") {
		denied = append(denied,
			"/read?file="+env(b, "SECRETS_DIR")+"/theirs",
			"/read?file="+f.options.Dir+"/secrets/openfaas-fn/mine",
			"/read?file="+f.options.Dir+"/functions/openfaas-fn/a/function.json",
			"/write?file="+env(b, "HOME")+"/x",
		)
	} else {
		t.Logf("NOT TESTED: Landlock; open: %s", open)
	}
	if strings.Contains(isolation, "a user of its own") {
		denied = append(denied, "/read?file=/etc/shadow", "/connect?socket="+strings.TrimPrefix(b.Address, "unix:"))
		_, one := f.call(a, "/uid")
		_, other := f.call(b, "/uid")
		if one == "0" || one == other {
			t.Errorf("the functions run as users %s and %s", one, other)
		}
	} else {
		t.Logf("NOT TESTED: users; open: %s", open)
	}
	for _, path := range allowed {
		if status, body := f.call(a, path); status != 200 {
			t.Errorf("%s is denied: %s", path, body)
		}
	}
	for _, path := range denied {
		if status, _ := f.call(a, path); status == 200 {
			t.Errorf("%s is allowed", path)
		}
	}
	inside := f.options.Dir + "/x"          // which may be below the private /tmp
	_, _ = f.call(a, "/write?file="+inside) // allowed or not, it must not appear
	for _, leaked := range []string{"/tmp/graphene-test", "/dev/shm/graphene-test", inside} {
		if _, err := os.Stat(leaked); err == nil {
			t.Errorf("%s of a function appeared outside", leaked)
		}
	}
}

func TestAnInterpreterInAClosedDirectoryCanBeUsed(t *testing.T) {
	closed := filepath.Join(passable(t), "closed")
	exe := filepath.Join(closed, "python", "bin", "python3")
	for name, mode := range map[string]os.FileMode{exe: 0o755, filepath.Join(closed, "python", "lib"): 0o644, filepath.Join(closed, "private"): 0o644} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("x"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	o := options(t)
	python := host
	python.Python, python.Libc = "cp311", "glibc"
	o.Python = func(context.Context) (string, function.Target, error) { return exe, python, nil }
	f := start(t, o)
	if !f.ReachesClosed() {
		t.Skipf("NOT TESTED: functions cannot be shown what lies below closed directories: %s", f.Isolation())
	}
	f.images.put("python", layered(t, v1.Config{
		Entrypoint: []string{"fwatchdog"},
		Labels:     map[string]string{function.ImageBuilder: "layers", function.ImageTarget: python.String()},
	}, []tar.Header{{Name: "home/app/function/handler.py", Mode: 0o644}}))
	spec := f.spec("snake")
	spec.Image = "python"
	r := f.until(f.deploy(spec), "ready replica", ready(1)).Replicas[0]
	if status, body := f.call(r, "/read?file="+filepath.Join(closed, "python", "lib")); status != 200 {
		t.Errorf("the interpreter's library: %s", body)
	}
	if isolation, _, _ := strings.Cut(f.Isolation(), "; open: "); !strings.Contains(isolation, "Landlock") {
		return
	}
	if status, _ := f.call(r, "/read?file="+filepath.Join(closed, "private")); status == 200 {
		t.Errorf("what lies beside the interpreter can be read")
	}
}

func TestAChangedSecretReachesRunningReplicas(t *testing.T) {
	f := start(t, options(t))
	secret := types.Secret{Name: "key", Namespace: function.DefaultNamespace, Value: "old"}
	if err := f.CreateSecret(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	spec := f.spec("echo")
	spec.Secrets = []string{"key"}
	r := f.until(f.deploy(spec), "ready replica", ready(1)).Replicas[0]
	_, dir := f.call(r, "/env?name=SECRETS_DIR")
	secret.Value = "new"
	if err := f.UpdateSecret(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if _, body := f.call(r, "/read?file="+dir+"/key"); body != "new" {
		t.Errorf("the replica reads %q", body)
	}
}

func TestAReplicaThatUsesTooMuchMemoryIsReplaced(t *testing.T) {
	f := start(t, options(t))
	spec := f.spec("hoarder")
	spec.Limits = &types.FunctionResources{Memory: "200Mi"}
	ref := f.deploy(spec)
	r := f.until(ref, "ready replica", ready(1)).Replicas[0]
	if _, _, err := callReplica(t.Context(), r, "/grow?mb=300"); err != nil {
		t.Logf("the call was cut off: %v", err) // by the kill, if that is quick
	}
	f.until(ref, "other replica", func(e function.Endpoints) bool { return ready(1)(e) && e.Replicas[0].ID != r.ID })
	text := f.printedBy(ref)
	if !strings.Contains(text, "its limit is 200Mi") {
		t.Errorf("the log does not say why:\n%s", text)
	}
	usage, err := f.Usage(t.Context(), ref)
	if err != nil || usage.TotalMemoryBytes == 0 {
		t.Errorf("usage is %+v, %v", usage, err)
	}
}

func TestAReplicaThatHangsIsReplaced(t *testing.T) {
	o := options(t)
	o.HangTimeout = 2 * time.Second
	f := start(t, o)
	ref := f.deploy(f.spec("statue"))
	r := f.until(ref, "ready replica", ready(1)).Replicas[0]
	for _, pid := range replicaProcesses(f.options.Dir) {
		// Its socket goes on taking connections.
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	f.until(ref, "other replica", func(e function.Endpoints) bool { return ready(1)(e) && e.Replicas[0].ID != r.ID })
	text := f.printedBy(ref)
	if !strings.Contains(text, "answered no health check for 2s") {
		t.Errorf("the log does not say why:\n%s", text)
	}
}

func TestAServerThatInsistsOnAPortHasOneReplica(t *testing.T) {
	f := start(t, options(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	spec := f.spec("stubborn")
	spec.EnvProcess = f.options.Helper[0] + " server " + address
	spec.EnvVars = map[string]string{"mode": "http", "upstream_url": "http://" + address}
	spec.Labels = &map[string]string{function.LabelScaleMin: "2"}
	ref := f.deploy(spec)
	e := f.until(ref, "ready replica", ready(1))
	if e.Min != 1 || !strings.Contains(e.Note, "only once") {
		t.Errorf("the smallest number of replicas is %d, and the note: %s", e.Min, e.Note)
	}
	if err := f.Scale(t.Context(), ref, 2); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "only once") {
		t.Errorf("scaling to 2: %v", err)
	}
	other := spec
	other.Service = "rival"
	if err := f.Deploy(t.Context(), other); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "stubborn") {
		t.Errorf("a second function on the port: %v", err)
	}

	f.deploy(spec)
	e = f.until(ref, "the new version", func(e function.Endpoints) bool { return ready(1)(e) && e.Revision == 2 })
	if status, _ := f.call(e.Replicas[0], "/"); status != 200 {
		t.Errorf("the new version answers %d", status)
	}
	broken := spec
	broken.EnvProcess = "/bin/false"
	f.deploy(broken)
	e = f.until(ref, "the version before, again", func(e function.Endpoints) bool {
		return failed(e) && len(e.Replicas) == 1 && e.Replicas[0].Ready && e.Replicas[0].Revision == 2
	})
	if status, _ := f.call(e.Replicas[0], "/"); status != 200 {
		t.Errorf("the version before answers %d", status)
	}
}

func TestTheKernelHoldsAFunctionToItsLimitOfCPU(t *testing.T) {
	f := start(t, options(t))
	if isolation, _, _ := strings.Cut(f.Isolation(), "; open: "); !strings.Contains(isolation, "cpu") {
		t.Skipf("NOT TESTED: no control group limits CPU here: %s", f.Isolation())
	}
	spec := f.spec("spinner")
	spec.Limits = &types.FunctionResources{CPU: "500m"}
	ref := f.deploy(spec)
	r := f.until(ref, "ready replica", ready(1)).Replicas[0]
	_, groups := f.call(r, "/read?file=/proc/self/cgroup")
	var stat string
	for line := range strings.Lines(groups) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, file := range []string{
			filepath.Join("/sys/fs/cgroup", fields[1], fields[2], "cpu.stat"),
			filepath.Join("/sys/fs/cgroup", fields[2], "cpu.stat"),
		} {
			if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "nr_throttled") && strings.Contains(file, "graphene-") {
				stat = file
			}
		}
	}
	if stat == "" {
		t.Fatalf("the function is in no group with limits:\n%s", groups)
	}
	f.call(r, "/spin")
	eventually(t, "the function was held back", func() bool {
		text, err := os.ReadFile(stat)
		return err == nil && strings.Contains(string(text), "nr_throttled ") && !strings.Contains(string(text), "nr_throttled 0\n")
	})
	if err := f.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the group is gone", func() bool {
		_, err := os.Stat(filepath.Dir(stat))
		return os.IsNotExist(err)
	})
}

func TestUpdatesAndScalingLoseNoRequest(t *testing.T) {
	o := options(t)
	o.Settle = 0 // the default: time for callers to notice
	f := start(t, o)
	spec := f.spec("echo")
	spec.Labels = &map[string]string{function.LabelScaleMin: "2"}
	ref := f.deploy(spec)
	f.until(ref, "two ready replicas", ready(2))

	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var now function.Endpoints
	var background sync.WaitGroup
	known := make(chan struct{}, 1)
	background.Go(func() {
		_ = f.Watch(ctx, func(e function.Event) {
			if e.Endpoints != nil {
				mu.Lock()
				now = *e.Endpoints
				mu.Unlock()
			}
			if e.Synced {
				known <- struct{}{}
			}
		})
	})
	<-known
	pick := func(n int) (function.Replica, bool) {
		mu.Lock()
		defer mu.Unlock()
		for i := range now.Replicas {
			if r := now.Replicas[(i+n)%len(now.Replicas)]; r.Ready {
				return r, true
			}
		}
		return function.Replica{}, false
	}
	calls := 0
	for caller := range 2 {
		background.Go(func() {
			for n := caller; ctx.Err() == nil; n++ {
				r, ok := pick(n)
				if !ok {
					t.Errorf("there was no ready replica")
					return
				}
				if status, body, err := callReplica(t.Context(), r, "/"); err != nil || status != 200 {
					t.Errorf("a call failed: %d %q %v", status, body, err)
					return
				}
				mu.Lock()
				calls++
				mu.Unlock()
			}
		})
	}
	for i := range 3 {
		spec.EnvVars = map[string]string{"round": strconv.Itoa(i)}
		f.deploy(spec)
		f.until(ref, "updated replicas", ready(2))
		if err := f.Scale(ctx, ref, 3); err != nil {
			t.Error(err)
		}
		f.until(ref, "three ready replicas", ready(3))
		if err := f.Scale(ctx, ref, 2); err != nil {
			t.Error(err)
		}
		f.until(ref, "two ready replicas", ready(2))
	}
	cancel()
	background.Wait()
	t.Logf("%d calls", calls)
	if calls == 0 {
		t.Errorf("no call was made")
	}
}

func TestImagesAreKeptAsLongAsTheyAreUsed(t *testing.T) {
	f := start(t, options(t))
	unpacked := func() int {
		entries, err := os.ReadDir(filepath.Join(f.options.Dir, "images"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	a := f.deploy(f.spec("a"))
	b := f.deploy(f.spec("b"))
	if n := unpacked(); n != 1 {
		t.Errorf("two functions of one image have %d", n)
	}
	spec := f.spec("a")
	spec.Image = "echo:2"
	f.deploy(spec)
	f.until(a, "updated replica", ready(1))
	if n := unpacked(); n != 2 {
		t.Errorf("two functions of two images have %d", n)
	}
	spec = f.spec("b")
	spec.Image = "echo:2"
	f.deploy(spec)
	f.until(b, "updated replica", ready(1))
	eventually(t, "the image that was left is gone", func() bool { return unpacked() == 1 })
	for _, ref := range []function.Ref{a, b} {
		if err := f.Remove(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all images are gone", func() bool { return unpacked() == 0 })
}

func TestAFullDiskLeavesWhatWasThere(t *testing.T) {
	disk := passable(t)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=4m,mode=711"); err != nil {
		t.Skipf("NOT TESTED: a full disk needs the right to mount one: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	o := options(t)
	o.Dir = disk
	f := start(t, o)
	ref := f.deploy(f.spec("echo"))
	f.until(ref, "ready replica", ready(1))

	big := f.spec("echo")
	big.Image = "big"
	f.images.put("big", echoImage(t, strings.Repeat("x", 8<<20)))
	if err := f.Deploy(t.Context(), big); !errors.Is(err, fault.Storage) {
		t.Errorf("an image larger than the disk: %v", err)
	}
	f.until(ref, "the old version", func(e function.Endpoints) bool { return ready(1)(e) && e.Revision == 1 })

	filler := filepath.Join(disk, "filler")
	file, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 1<<10); err == nil; {
		_, err = file.Write(chunk)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	spec := f.spec("echo")
	spec.EnvVars = map[string]string{"a": strings.Repeat("b", 64<<10)}
	if err := f.Deploy(t.Context(), spec); !errors.Is(err, fault.Storage) {
		t.Errorf("an update on a full disk: %v", err)
	}
	secret := types.Secret{Name: "s", Namespace: ref.Namespace, Value: strings.Repeat("b", 64<<10)}
	if err := f.CreateSecret(t.Context(), secret); !errors.Is(err, fault.Storage) {
		t.Errorf("a secret on a full disk: %v", err)
	}
	e := f.until(ref, "the old version", func(e function.Endpoints) bool { return ready(1)(e) && e.Revision == 1 })
	if status, _ := f.call(e.Replicas[0], "/"); status != 200 {
		t.Errorf("the old version answers %d", status)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	f.deploy(spec)
	f.until(ref, "the new version", func(e function.Endpoints) bool { return ready(1)(e) && e.Revision == 2 })
}

func TestAPlatformThatIsStoppedRefusesDeploys(t *testing.T) {
	f := start(t, options(t))
	f.stop()
	if err := f.Deploy(t.Context(), f.spec("echo")); !errors.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkWake measures from asking for a replica to its being ready.
func BenchmarkWake(b *testing.B) {
	o := options(b)
	o.Log = nil
	f := start(b, o)
	ref := f.deploy(f.spec("echo"))
	f.until(ref, "ready replica", ready(1))
	for b.Loop() {
		b.StopTimer()
		if err := f.Scale(b.Context(), ref, 0); err != nil {
			b.Fatal(err)
		}
		f.until(ref, "sleep", ready(0))
		b.StartTimer()
		if err := f.Scale(b.Context(), ref, 1); err != nil {
			b.Fatal(err)
		}
		f.until(ref, "ready replica", ready(1))
	}
}

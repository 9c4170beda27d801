package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
)

const onlyEmbedded = "tiers between hot and asleep are of the embedded size"

// sleeps is what makes a function one that may be put to sleep, in a stack file.
const sleeps = `labels: {com.openfaas.scale.zero: "true", com.openfaas.scale.max: "1"}`

// A warmth is what the API says about how warm a function is.
type warmth struct {
	Tier string
	Rest *struct{ Tier, Why string }
}

func (p *platform) warmth(name string) (w warmth) {
	p.t.Helper()
	if err := json.Unmarshal([]byte(p.call(200, "GET", "/system/function/"+name+"?details=1", "").body), &w); err != nil {
		p.t.Fatal(err)
	}
	return w
}

// sleep puts a function to sleep and waits until it is in a tier.
func (p *platform) sleep(name, tier string) {
	p.t.Helper()
	testkit.Eventually(p.t, name+" is ready", func() bool {
		var s struct{ AvailableReplicas int }
		err := json.Unmarshal([]byte(p.call(200, "GET", "/system/function/"+name, "").body), &s)
		return err == nil && s.AvailableReplicas == 1 // the gateway may have known it before
	})
	p.call(202, "POST", "/system/scale-function/"+name, `{"replicas":0}`)
	deadline := time.Now().Add(time.Minute)
	for w := p.warmth(name); w.Rest == nil || w.Rest.Tier != tier; w = p.warmth(name) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s is not %s within a minute, but %s: %+v", name, tier, w.Tier, w.Rest)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// calls returns the answer of a function, which must be good.
func (p *platform) answer(name string) string {
	p.t.Helper()
	return p.call(200, "POST", "/function/"+name, "x").body
}

const countingModel = `
import os

def load(context):
    return {"loaded_by": os.getpid()}

def handle(model, event, context):
    return f"{model['loaded_by']} {os.getpid()}"
`

func TestAFunctionCoolsTierByTier(t *testing.T) {
	p := serve(t, onlyEmbedded, "--keep-frozen", "2s", "--keep-zygote", "3s")
	p.write("model/handler.py", countingModel)
	p.stack("model", "python3-model", sleeps)
	p.cli("up", "-f", "model.yml")
	loaded, worker, _ := strings.Cut(p.answer("model"), " ")

	p.sleep("model", "frozen")
	if again := p.answer("model"); again != loaded+" "+worker {
		t.Errorf("from frozen, process %q answered, want the same as before, %s", again, worker)
	}
	p.sleep("model", "zygote")
	for what, line := range map[string]string{
		"describe": `Tier: +zygote since .*: nothing called it for another 2s; it stays like this for 3s`,
		"list":     `model +\d+ +0/0 zygote`,
	} {
		args := []string{what}
		if what == "describe" {
			args = append(args, "model")
		}
		if out := p.cli(args...); !regexp.MustCompile(line).MatchString(out) {
			t.Errorf("%s does not say %q:\n%s", what, line, out)
		}
	}
	by, other, _ := strings.Cut(p.answer("model"), " ")
	if by != loaded || other == worker {
		t.Errorf("from its zygote, %s that was loaded by %s answered; want another than %s, loaded by %s", other, by, worker, loaded)
	}
	p.sleep("model", "asleep")
	if by, _, _ := strings.Cut(p.answer("model"), " "); by == loaded {
		t.Error("a function that slept has not loaded again")
	}
}

func TestTiersSurviveWhatHappens(t *testing.T) {
	p := serve(t, onlyEmbedded)
	p.goFunction("echo", "one")
	p.stack("echo", "go", sleeps)
	p.write("model/handler.py", countingModel)
	p.stack("model", "python3-model", sleeps, "keep_frozen: 0")
	up := func() {
		p.cli("up", "-f", "echo.yml")
		p.cli("up", "-f", "model.yml")
	}
	cool := func() {
		p.answer("echo")
		p.answer("model")
		p.sleep("echo", "frozen")
		p.sleep("model", "zygote")
	}
	up()

	cool()
	p.write("echo/handler.go", strings.ReplaceAll(goHandler, "VERSION", "two"))
	p.write("model/handler.py", countingModel+"# two\n")
	up()
	if got := p.answer("echo"); !strings.HasPrefix(got, "two") {
		t.Errorf("after an update it answers %q", got)
	}

	cool()
	p.stop()
	if left := p.stopped(); len(left) > 0 {
		t.Errorf("processes %v are frozen without a platform", left)
	}
	p.start()
	testkit.Eventually(t, "it sleeps after a restart", func() bool { return p.warmth("echo").Tier == "asleep" })

	cool()
	p.kill()
	testkit.Eventually(t, "nothing frozen is left by a platform that was killed", func() bool { return len(p.stopped()) == 0 })
	p.start()

	cool()
	for _, name := range []string{"echo", "model"} {
		p.cli("remove", name)
	}
	testkit.Eventually(t, "nothing frozen is left of functions that were removed", func() bool { return len(p.stopped()) == 0 })
}

// stopped returns the processes that are stopped and belong to this platform.
func (p *platform) stopped() (pids []int) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, dir := range all {
		var pid int
		if _, err := fmt.Sscan(dir.Name(), &pid); err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + dir.Name() + "/stat")
		env, _ := os.ReadFile("/proc/" + dir.Name() + "/environ")
		if err == nil && strings.Contains(string(stat), ") T ") && strings.Contains(string(env), p.dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Calls come, and the function is put to sleep, at random instants, so that
// they often meet. No call may be lost, nor wait for more than its wake.
func TestNoCallIsLostAtTheIdleLimit(t *testing.T) {
	p := serve(t, onlyEmbedded, "--autoscale=false", "--log-level", "debug")
	p.goFunction("echo", "one")
	p.stack("echo", "go", sleeps)
	p.cli("up", "-f", "echo.yml")

	span := 20 * time.Second
	if testing.Short() {
		span = 3 * time.Second
	}
	var calls, bad, slow atomic.Int64
	var slowest atomic.Int64
	var first atomic.Value
	end := time.Now().Add(span)
	var callers sync.WaitGroup
	for range 2 {
		callers.Go(func() {
			for time.Now().Before(end) {
				time.Sleep(rand.N(12 * time.Millisecond))
				began := time.Now()
				a, err := p.do("POST", "/function/echo", "x")
				took := time.Since(began)
				calls.Add(1)
				if err != nil || a.status != 200 || !strings.HasPrefix(a.body, "one POST x") {
					bad.Add(1)
					first.CompareAndSwap(nil, fmt.Sprintf("%d %q %v", a.status, a.body, err))
				}
				if took > 20*time.Second { // it was forgotten: a busy machine is not that slow
					slow.Add(1)
				}
				slowest.Store(max(slowest.Load(), int64(took)))
			}
		})
	}
	callers.Go(func() {
		for time.Now().Before(end) {
			if a, err := p.do("POST", "/system/scale-function/echo", `{"replicas":0}`); err != nil || a.status != 202 {
				t.Errorf("scale: %d %v", a.status, err)
			}
			time.Sleep(rand.N(12 * time.Millisecond))
		}
	})
	callers.Wait()
	freezes := strings.Count(p.log.String(), "tier=frozen")
	t.Logf("%d calls, %d freezes, slowest %s", calls.Load(), freezes, time.Duration(slowest.Load()))
	if bad.Load() > 0 || slow.Load() > 0 {
		t.Errorf("of %d calls %d failed, the first with %v, and %d were forgotten", calls.Load(), bad.Load(), first.Load(), slow.Load())
	}
	if freezes < int(span/time.Second) {
		t.Errorf("it was frozen %d times only", freezes)
	}
}

func TestAReplicaThatStandsStillIsRoutedAround(t *testing.T) {
	p := serve(t, "it stops a process of the machine", "--autoscale=false")
	p.goFunction("echo", "one")
	p.cli("up", "-f", "echo.yml")
	p.cli("scale", "echo", "--replicas", "2")
	pid := regexp.MustCompile(`pid=(\d+)`)
	process := func() (id int) {
		_, _ = fmt.Sscan(pid.FindStringSubmatch(p.answer("echo"))[1], &id)
		return id
	}
	seen := map[int]bool{}
	testkit.Eventually(t, "both replicas answer", func() bool { seen[process()] = true; return len(seen) == 2 })
	still := process()
	if err := syscall.Kill(still, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "it is out of use", func() bool {
		var s struct{ AvailableReplicas int }
		_ = json.Unmarshal([]byte(p.call(200, "GET", "/system/function/echo", "").body), &s)
		return s.AvailableReplicas == 1
	})
	for range 100 {
		if process() == still {
			t.Fatal("a replica that is stopped answered")
		}
	}
	if err := syscall.Kill(still, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "it is back", func() bool { return process() == still })
}

func TestTiersNeedNoRights(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: the other tests run without rights already")
	}
	if onCluster() {
		t.Skipf("SKIPPED on a cluster: %s", onlyEmbedded)
	}
	p := serveAs(t, &syscall.Credential{Uid: 65534, Gid: 65534})
	p.goFunction("echo", "one")
	p.stack("echo", "go", sleeps)
	p.cli("up", "-f", "echo.yml")
	before := p.answer("echo")
	p.sleep("echo", "frozen")
	if after := p.answer("echo"); after != before {
		t.Errorf("%q answered, and %q after it was frozen", before, after)
	}
	p.sleep("echo", "frozen")
	p.kill()
	testkit.Eventually(t, "nothing frozen is left by a platform that was killed", func() bool { return len(p.stopped()) == 0 })
}

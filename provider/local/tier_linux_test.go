package local_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/provider/local"
)

// calls is a Traffic that the tests make.
type calls struct {
	mu       sync.Mutex
	inFlight map[string]int
	parted   int // times it was asked
}

func (c *calls) OnReplica(_ function.Ref, id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inFlight[id]
}

func (c *calls) Parted(_ function.Ref, id string, _ int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parted++
	return c.inFlight[id] == 0
}

func (c *calls) set(id string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inFlight == nil {
		c.inFlight = map[string]int{}
	}
	c.inFlight[id] = n
}

func (c *calls) asked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parted
}

// keeping are options of a platform that keeps functions.
func keeping(t testing.TB, k local.Keep) (local.Options, *calls) {
	o := options(t)
	c := &calls{}
	o.Traffic, o.Keep = c, k
	return o, c
}

// sleeper is a function that may be put to sleep.
func (f *fixture) sleeper(name string) types.FunctionDeployment {
	spec := f.spec(name)
	spec.Labels = &map[string]string{function.LabelScaleZero: "true"}
	return spec
}

func (f *fixture) scale(ref function.Ref, n int) {
	f.t.Helper()
	if err := f.Scale(f.t.Context(), ref, n); err != nil {
		f.t.Fatal(err)
	}
}

func rests(tier function.Tier) func(function.Endpoints) bool {
	return func(e function.Endpoints) bool { return e.Rest != nil && e.Rest.Tier == tier }
}

// state is the letter that /proc has for a process.
func state(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "gone"
	}
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))[0]
}

func (f *fixture) states() (all string) {
	for _, pid := range replicaProcesses(f.options.Dir) {
		all += state(pid)
	}
	return all
}

func TestAFunctionThatWasPutToSleepIsFrozenAndThawed(t *testing.T) {
	o, _ := keeping(t, local.Keep{Frozen: time.Hour})
	f := start(t, o)
	ref := f.deploy(f.sleeper("echo"))
	hot := f.until(ref, "ready replica", ready(1)).Replicas[0]
	pids := replicaProcesses(f.options.Dir)

	f.scale(ref, 0)
	e := f.until(ref, "frozen replica", rests(function.Frozen))
	if e.Tier() != function.Frozen || e.Replicas[0].Ready || !strings.Contains(e.Rest.Why, "it was idle; it stays like this for 1h") {
		t.Errorf("it rests like this: %+v %+v", e.Rest, e.Replicas)
	}
	for _, pid := range pids {
		if s := state(pid); s != "T" {
			t.Errorf("process %d has state %s, want T: stopped", pid, s)
		}
	}
	if s, err := f.Status(t.Context(), ref); err != nil || s.Replicas != 0 || s.AvailableReplicas != 0 {
		t.Errorf("OpenFaaS sees %d of %d replicas, %v", s.AvailableReplicas, s.Replicas, err)
	}
	if u, err := f.Usage(t.Context(), ref); err != nil || u.TotalMemoryBytes == 0 {
		t.Errorf("it uses %v bytes, %v; frozen is not gone", u.TotalMemoryBytes, err)
	}

	f.scale(ref, 1)
	e = f.until(ref, "ready replica", ready(1))
	if e.Replicas[0].ID != hot.ID || e.Rest != nil || e.Tier() != function.Hot {
		t.Errorf("it was started anew: %+v", e)
	}
	if status, body := f.call(e.Replicas[0], "/"); status != 200 || body != "hello from echo" {
		t.Errorf("got %d %q", status, body)
	}
}

func TestAFunctionThatMayNotSleepIsNotKept(t *testing.T) {
	for name, change := range map[string]func(*types.FunctionDeployment, *local.Options){
		"label":   func(d *types.FunctionDeployment, _ *local.Options) { d.Labels = nil },
		"keep":    func(d *types.FunctionDeployment, _ *local.Options) { d.EnvVars = map[string]string{"keep_frozen": "0"} },
		"cannot ": func(_ *types.FunctionDeployment, o *local.Options) { o.Traffic = nil },
	} {
		t.Run(name, func(t *testing.T) {
			o, _ := keeping(t, local.Keep{Frozen: time.Hour})
			spec := (&fixture{}).sleeper("echo")
			change(&spec, &o)
			f := start(t, o)
			ref := f.deploy(spec)
			f.until(ref, "ready replica", ready(1))
			f.scale(ref, 0)
			e := f.until(ref, "end of the replica", func(e function.Endpoints) bool { return len(e.Replicas) == 0 && rests(function.Asleep)(e) })
			if !strings.Contains(e.Rest.Why, name) {
				t.Errorf("it sleeps because %q, want something about %q", e.Rest.Why, name)
			}
			eventually(t, "no process is left", func() bool { return len(replicaProcesses(f.options.Dir)) == 0 })
		})
	}
}

func TestRequestsInFlightKeepAReplicaFromBeingFrozen(t *testing.T) {
	o, traffic := keeping(t, local.Keep{Frozen: time.Hour})
	f := start(t, o)
	ref := f.deploy(f.sleeper("echo"))
	id := f.until(ref, "ready replica", ready(1)).Replicas[0].ID
	traffic.set(id, 1)
	f.scale(ref, 0)
	f.until(ref, "replica out of service", func(e function.Endpoints) bool { return e.Tier() == function.Frozen })
	before := traffic.asked()
	eventually(t, "it was asked a few times more", func() bool { return traffic.asked() > before+3 })
	if s := f.states(); strings.Contains(s, "T") {
		t.Errorf("processes are %s with a request in flight", s)
	}
	traffic.set(id, 0)
	f.until(ref, "frozen replica", rests(function.Frozen))
}

func TestAFrozenReplicaGoesWhenItsTimeIsOver(t *testing.T) {
	o, _ := keeping(t, local.Keep{Frozen: 20 * time.Millisecond, Zygote: time.Hour}) // it is no pool
	f := start(t, o)
	ref := f.deploy(f.sleeper("echo"))
	f.until(ref, "ready replica", ready(1))
	f.scale(ref, 0)
	e := f.until(ref, "sleep", func(e function.Endpoints) bool { return rests(function.Asleep)(e) && len(e.Replicas) == 0 })
	if want := "nothing called it for another 20ms"; e.Rest.Why != want {
		t.Errorf("it sleeps because %q, want %q", e.Rest.Why, want)
	}
	eventually(t, "no process is left", func() bool { return len(replicaProcesses(f.options.Dir)) == 0 })
	f.scale(ref, 1)
	f.until(ref, "ready replica", ready(1))
}

func TestAFrozenReplicaEndsLikeOthers(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *fixture, function.Ref){
		"removal": func(t *testing.T, f *fixture, ref function.Ref) {
			if err := f.Remove(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
		},
		"an end of the platform": func(_ *testing.T, f *fixture, _ function.Ref) { f.stop() },
		"a kill": func(t *testing.T, f *fixture, ref function.Ref) {
			for _, pid := range replicaProcesses(f.options.Dir) {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			e := f.until(ref, "sleep", rests(function.Asleep))
			if !strings.Contains(e.Rest.Why, "killed") {
				t.Errorf("it sleeps because %q", e.Rest.Why)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, _ := keeping(t, local.Keep{Frozen: time.Hour})
			f := start(t, o)
			ref := f.deploy(f.sleeper("echo"))
			e := f.until(ref, "ready replica", ready(1))
			_, _ = f.call(e.Replicas[0], "/child") // which is stopped with it
			f.scale(ref, 0)
			f.until(ref, "frozen replica", rests(function.Frozen))
			end(t, f, ref)
			eventually(t, "no process is left", func() bool { return len(replicaProcesses(f.options.Dir)) == 0 })
		})
	}
}

func TestAnUpdateOfAFrozenFunction(t *testing.T) {
	o, _ := keeping(t, local.Keep{Frozen: time.Hour})
	f := start(t, o)
	ref := f.deploy(f.sleeper("echo"))
	f.until(ref, "ready replica", ready(1))
	f.scale(ref, 0)
	f.until(ref, "frozen replica", rests(function.Frozen))
	spec := f.sleeper("echo")
	spec.Image = "echo:2"
	f.deploy(spec)
	e := f.until(ref, "ready replica of the next revision", ready(1))
	if e.Revision != 2 {
		t.Errorf("revision is %d", e.Revision)
	}
	eventually(t, "nothing is frozen", func() bool { return !strings.Contains(f.states(), "T") })
}

func TestNothingFrozenOutlivesAKilledPlatform(t *testing.T) {
	o, _ := keeping(t, local.Keep{Frozen: time.Hour})
	f := start(t, o)
	ref := f.deploy(f.sleeper("echo"))
	f.until(ref, "ready replica", ready(1))
	f.stop()

	child := exec.CommandContext(t.Context(), o.Helper[0], "platform", o.Dir, o.SocketDir, ref.Name)
	child.Stderr = t.Output()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	events := json.NewDecoder(out)
	for frozen := false; !frozen; {
		var e function.Event
		if err := events.Decode(&e); err != nil {
			t.Fatal(err)
		}
		frozen = e.Endpoints != nil && rests(function.Frozen)(*e.Endpoints)
	}
	if s := f.states(); !strings.Contains(s, "T") {
		t.Fatalf("processes are %q, want stopped ones", s)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	eventually(t, "no process is left", func() bool { return len(replicaProcesses(o.Dir)) == 0 })
}

// Calls come, and the function is put to sleep, at the same instants.
func TestFreezingAndWakingAtTheSameInstant(t *testing.T) {
	o, _ := keeping(t, local.Keep{Frozen: time.Hour})
	f := start(t, o)
	ref := f.deploy(f.sleeper("echo"))
	id := f.until(ref, "ready replica", ready(1)).Replicas[0].ID
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	for range rounds {
		f.scale(ref, 0)
		pause := rand.N(3 * time.Millisecond)
		time.Sleep(pause)
		f.scale(ref, 1)
		if rand.IntN(3) == 0 {
			continue // and is not waited for
		}
		e := f.until(ref, "ready replica", ready(1))
		if e.Replicas[0].ID != id {
			t.Fatalf("replica %s took the place of %s", e.Replicas[0].ID, id)
		}
		if status, _ := f.call(e.Replicas[0], "/"); status != 200 {
			t.Fatalf("it answers %d", status)
		}
	}
}

func TestIdleReplicasGoFirst(t *testing.T) {
	o, traffic := keeping(t, local.Keep{})
	f := start(t, o)
	ref := f.deploy(f.spec("echo"))
	f.scale(ref, 3)
	e := f.until(ref, "three ready replicas", ready(3))
	for _, r := range e.Replicas {
		traffic.set(r.ID, 2)
	}
	idle, busiest := e.Replicas[0].ID, e.Replicas[1].ID
	traffic.set(idle, 0)
	traffic.set(busiest, 5)
	f.scale(ref, 2)
	e = f.until(ref, "two replicas", ready(2))
	if e.Replicas[0].ID == idle || e.Replicas[1].ID == idle {
		t.Error("a busy replica went instead of the idle one")
	}
	f.scale(ref, 1)
	if e = f.until(ref, "one replica", ready(1)); e.Replicas[0].ID != busiest {
		t.Error("the busiest replica went")
	}
}

func TestAReplicaThatSomebodyStoppedIsOutOfUseUntilItGoesOn(t *testing.T) {
	f := start(t, options(t))
	ref := f.deploy(f.spec("echo"))
	f.scale(ref, 2)
	e := f.until(ref, "two ready replicas", ready(2))
	pid := f.pidOf(e.Replicas[0])
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	f.until(ref, "unready replica", func(e function.Endpoints) bool { return !e.Replicas[0].Ready && e.Replicas[1].Ready })
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	again := f.until(ref, "two ready replicas", ready(2))
	if again.Replicas[0].ID != e.Replicas[0].ID {
		t.Error("it was replaced")
	}
}

// pidOf returns the first process of a replica.
func (f *fixture) pidOf(r function.Replica) int {
	f.t.Helper()
	_, body := f.call(r, "/pid")
	pid, err := strconv.Atoi(body)
	if err != nil {
		f.t.Fatal(err)
	}
	return pid
}

func TestMemoryBoundsReplicas(t *testing.T) {
	var mu sync.Mutex
	free := int64(8 << 30)
	set := func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		free = n
	}
	o, _ := keeping(t, local.Keep{Frozen: time.Hour})
	o.FreeMemory = func() (int64, int64, error) {
		mu.Lock()
		defer mu.Unlock()
		return free, 8 << 30, nil
	}
	f := start(t, o)
	kept := f.deploy(f.sleeper("kept"))
	f.until(kept, "ready replica", ready(1))
	ref := f.deploy(f.sleeper("echo"))
	f.until(ref, "ready replica", ready(1))

	set(400 << 20) // which is left to others
	e := f.until(ref, "a bound", func(e function.Endpoints) bool { return e.Room != nil })
	if e.Room.Replicas != 1 || !strings.Contains(e.Room.Reason, "memory: a replica takes") || !strings.Contains(e.Room.Reason, "0 MiB are free") {
		t.Errorf("its room is %+v", e.Room)
	}
	f.until(kept, "a bound", func(e function.Endpoints) bool { return e.Room != nil })
	f.scale(ref, 2)
	e = f.until(ref, "a reason to wait", func(e function.Endpoints) bool { return e.Waiting != "" })
	if !strings.Contains(e.Waiting, "not enough memory") || e.Failure != "" {
		t.Errorf("one replica that is missing: waiting is %q, failure %q", e.Waiting, e.Failure)
	}

	// A function that sleeps is not woken beyond what there is.
	f.scale(ref, 0)
	e = f.until(ref, "sleep for want of memory", rests(function.Asleep))
	if want := "memory was short"; e.Rest.Why != want {
		t.Errorf("it sleeps because %q, want %q", e.Rest.Why, want)
	}
	f.scale(ref, 1)
	e = f.until(ref, "failure", failed)
	if !strings.Contains(e.Failure, "not enough memory: a replica takes") {
		t.Errorf("failure is %q", e.Failure)
	}

	set(8 << 30)
	f.until(ref, "ready replica", ready(1))
}

// A platform with a bound of its own: what is kept makes room for what is called.
func TestAKeptReplicaMakesRoomForOneThatIsCalled(t *testing.T) {
	o, _ := keeping(t, local.Keep{Frozen: time.Hour})
	o.MaxMemory = 1 // until it is known what a replica takes, none is refused
	f := start(t, o)
	first, second := f.deploy(f.sleeper("first")), f.deploy(f.sleeper("second"))
	bounded := func(e function.Endpoints) bool { return ready(1)(e) && e.Room != nil }
	f.until(first, "ready replica", bounded)
	f.until(second, "ready replica", bounded)
	f.scale(second, 0)
	f.until(second, "sleep", rests(function.Asleep))
	f.scale(first, 0)
	f.until(first, "sleep", rests(function.Asleep))
}

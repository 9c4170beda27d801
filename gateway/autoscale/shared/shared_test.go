package shared

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/graphene-faas/graphene/gateway/autoscale"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/testkit/natstest"
)

var echo = function.Ref{Name: "echo", Namespace: "openfaas-fn"}

// A wire is a way to NATS that can be cut.
type wire struct {
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (w *wire) Dial(network, address string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return nil, errors.New("the wire is cut")
	}
	c, err := net.Dial(network, address)
	if err == nil {
		w.conns = append(w.conns, c)
	}
	return c, err
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for _, c := range w.conns {
			c.Close()
		}
		w.conns = nil
	}
}

// A gateway is what takes part in a test, and what it heard.
type gateway struct {
	*Group
	wire wire
	stop func()

	mu      sync.Mutex
	poked   int
	learned []autoscale.Decision
}

func (g *gateway) Poke(function.Ref) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.poked++
}

func (g *gateway) Learn(_ function.Ref, d autoscale.Decision) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.learned = append(g.learned, d)
}

func (g *gateway) pokes() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.poked
}

// broker runs a NATS server that answers on a port.
func broker(t *testing.T, port int) *server.Server {
	t.Helper()
	return natstest.Server(t, func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "127.0.0.1", port })
}

func join(t *testing.T, url, name string) *gateway {
	t.Helper()
	g := &gateway{}
	nc, err := nats.Connect(url, nats.SetCustomDialer(&g.wire), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		t.Fatal(err)
	}
	g.Group = New(Options{Conn: nc, Name: name, Log: testkit.Log(t)})
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := g.Run(ctx, g); err != nil {
			t.Error(err)
		}
	})
	g.stop = sync.OnceFunc(func() {
		cancel()
		run.Wait()
		nc.Close()
	})
	t.Cleanup(g.stop)
	return g
}

// until waits for what must come to be.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within half a minute", what)
		}
	}
}

// leaders are those of all that decide.
func leaders(all []*gateway) (found []*gateway) {
	for _, g := range all {
		if g.Leading() {
			found = append(found, g)
		}
	}
	return found
}

func gateways(t *testing.T, url string, n int) []*gateway {
	t.Helper()
	var all []*gateway
	for i := range n {
		all = append(all, join(t, url, fmt.Sprint("gateway-", i)))
	}
	until(t, "one gateway decides", func() bool { return len(leaders(all)) == 1 })
	return all
}

func complete(g *gateway) bool {
	_, complete := g.Others(echo)
	return complete
}

func TestGatewaysAddUpWhatTheySee(t *testing.T) {
	all := gateways(t, broker(t, -1).ClientURL(), 3)
	for i, g := range all {
		want := autoscale.Load{InFlight: 7 - 1<<i, Waiting: 70 - 10<<i, Busy: 1, Rate: 200}
		until(t, "the others are added up", func() bool {
			for i, g := range all {
				g.Publish(echo, autoscale.Load{InFlight: 1 << i, Waiting: 10 << i, Busy: 0.5, Rate: 100})
			}
			got, complete := g.Others(echo)
			return cmp.Equal(want, got) && complete
		})
		if g.pokes() < 2 {
			t.Errorf("gateway %d was told of more to do %d times, want 2", i, g.pokes())
		}
	}
	// What nobody says again ceases to count.
	until(t, "old samples are forgotten", func() bool {
		got, complete := all[0].Others(echo)
		return got == (autoscale.Load{}) && complete
	})

	decided := autoscale.Decision{Desired: 3, Reason: "because", Inputs: autoscale.Inputs{Type: function.ScaleCapacity}}
	all[0].Announce(echo, decided)
	for i, g := range all {
		if i == 0 {
			continue
		}
		until(t, "the others learn what was decided", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return slices.ContainsFunc(g.learned, func(d autoscale.Decision) bool { return d.Desired == decided.Desired && d.Reason == decided.Reason })
		})
	}
	if len(all[0].learned) > 0 {
		t.Error("a gateway learns its own decisions from others")
	}
}

func TestALeaderThatVanishesIsSucceeded(t *testing.T) {
	all := gateways(t, broker(t, -1).ClientURL(), 3)
	for range 2 {
		before := leaders(all)
		if len(before) != 1 {
			t.Fatalf("%d gateways decide", len(before))
		}
		gone := before[0]
		gone.Publish(echo, autoscale.Load{InFlight: 5})
		rest := slices.DeleteFunc(slices.Clone(all), func(g *gateway) bool { return g == gone })
		until(t, "its calls are known", func() bool {
			got, _ := rest[0].Others(echo)
			return got.InFlight == 5
		})
		began := time.Now()
		gone.wire.set(true)
		until(t, "another decides", func() bool { return len(leaders(rest)) == 1 })
		took := time.Since(began)
		t.Logf("after %v another decides", took)
		// Twice what is promised, for a machine that is busy.
		if took > 2*unknown {
			t.Errorf("for %v nobody decided", took)
		}
		until(t, "its calls count no more", func() bool {
			got, _ := rest[0].Others(echo)
			return got.InFlight == 0
		})
		if complete(rest[0]) {
			t.Error("nobody misses the gateway that vanished")
		}
		// The one that is cut off knows of nobody else, and adds replicas by
		// what it sees.
		until(t, "the one that was cut off decides for itself", gone.Leading)
		if complete(gone) {
			t.Error("the gateway that was cut off thinks that it knows everything")
		}
		gone.wire.set(false)
		until(t, "one of all decides", func() bool { return len(leaders(all)) == 1 })
		until(t, "all are known", func() bool { return complete(all[0]) && complete(all[1]) && complete(all[2]) })
	}
}

func TestAGatewayThatLeavesIsNotMissed(t *testing.T) {
	all := gateways(t, broker(t, -1).ClientURL(), 2)
	until(t, "all are known", func() bool { return complete(all[0]) && complete(all[1]) })
	leader := leaders(all)[0]
	other := all[0]
	if other == leader {
		other = all[1]
	}
	leader.stop()
	if leader.Leading() {
		t.Error("it still decides")
	}
	until(t, "the other decides", other.Leading)
	if !complete(other) {
		t.Error("the gateway that left is missed")
	}
}

func TestWithoutNATSEachDecidesByWhatItSees(t *testing.T) {
	first := broker(t, -1)
	port := first.Addr().(*net.TCPAddr).Port
	all := gateways(t, first.ClientURL(), 2)
	first.Shutdown()
	first.WaitForShutdown()
	until(t, "each decides for itself", func() bool { return len(leaders(all)) == 2 })
	for _, g := range all {
		if complete(g) {
			t.Error("a gateway thinks that it knows everything")
		}
	}
	broker(t, port) // which remembers nothing
	until(t, "one decides", func() bool { return len(leaders(all)) == 1 && complete(all[0]) && complete(all[1]) })
}

func TestSeveralServersOfNATSKeepTheLease(t *testing.T) {
	servers := natstest.Cluster(t, 3)
	nc, err := nats.Connect(servers[0].ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	g := New(Options{Conn: nc, Name: "one", Replicas: 3, Log: testkit.Log(t)})
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = g.lease.run(ctx) })
	until(t, "the lease is got", func() bool {
		g.lease.mu.Lock()
		defer g.lease.mu.Unlock()
		return time.Now().Before(g.lease.until)
	})
	cancel()
	run.Wait()
}

func TestALeaseEndsHereBeforeItEndsAtItsServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLease(Options{Log: testkit.Log(t)}, "one")
		if l.leading(time.Now()) {
			t.Error("it decides before it knows anything")
		}
		began := time.Now()
		time.Sleep(300 * time.Millisecond) // the answer takes that long
		l.note(began, false, true, nil)
		if !l.leading(began.Add(term - 1)) {
			t.Error("it does not decide although the lease is its own")
		}
		if l.leading(began.Add(term)) {
			t.Error("it decides although the lease may be over: its term begins before it is asked for")
		}
		// It stood still, and the lease is another's.
		time.Sleep(time.Minute)
		l.note(time.Now(), true, false, nil)
		if l.leading(time.Now()) {
			t.Error("it decides although another has the lease")
		}
		time.Sleep(unknown)
		if l.note(time.Now(), false, false, errors.New("no servers")); l.leading(time.Now()) {
			t.Error("it gives up at once")
		}
		time.Sleep(time.Millisecond)
		if !l.leading(time.Now()) {
			t.Error("nobody decides while it is not known who should")
		}
	})
}

func TestAGatewayThatIsNotHeardOfIsMissedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Options{Name: "one", Log: testkit.Log(t)})
		second := func() { // passes, and all but the one that is missed say something
			time.Sleep(time.Second)
			g.take(message{From: g.id}, time.Now())
			g.miss(time.Now())
		}
		second()
		if _, complete := g.Others(echo); complete {
			t.Error("it knows all others before they had the time to say anything")
		}
		for range 3 {
			second()
			g.take(message{From: "two", Loads: []loadOf{{echo, autoscale.Load{InFlight: 3}}}}, time.Now())
		}
		if got, complete := g.Others(echo); !complete || got.InFlight != 3 {
			t.Errorf("%+v, %t", got, complete)
		}
		second()
		second()
		second()
		if got, complete := g.Others(echo); complete || got.InFlight != 0 {
			t.Errorf("of one that says nothing: %+v, %t", got, complete)
		}
		for range int(missed / time.Second) {
			second()
		}
		if _, complete := g.Others(echo); !complete || len(g.others) != 0 {
			t.Errorf("it is missed for ever; %d are remembered", len(g.others))
		}
	})
}

func TestOnlyMoreToDoIsUrgent(t *testing.T) {
	g := New(Options{Name: "one", Log: testkit.Log(t)})
	now := time.Now()
	say := func(l autoscale.Load) int { return len(g.take(message{From: "two", Loads: []loadOf{{echo, l}}}, now)) }
	if say(autoscale.Load{InFlight: 1}) != 1 || say(autoscale.Load{InFlight: 1}) != 0 || say(autoscale.Load{InFlight: 1, Waiting: 1}) != 1 ||
		say(autoscale.Load{InFlight: 2}) != 0 || say(autoscale.Load{InFlight: 1}) != 0 || say(autoscale.Load{InFlight: 1, Floor: 3}) != 1 {
		t.Error("what makes a function urgent is new load, more of it, and an alert")
	}
}

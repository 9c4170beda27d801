package local_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/web"
	"github.com/graphene-faas/graphene/provider"
)

// A link lies between a gateway and the replicas it calls. What is sent arrives
// later by delay, in each direction.
type link struct {
	delay time.Duration

	probes, calls atomic.Int64 // that crossed it
	connections   atomic.Int64 // with calls on them

	mu     sync.Mutex
	relays map[string]string // where to call instead, by a replica's address
	open   sync.WaitGroup
}

// to returns an address that leads to another over the link, until ctx ends.
func (l *link) to(ctx context.Context, address string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if relay, ok := l.relays[address]; ok {
		return relay, nil
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	if l.relays == nil {
		l.relays = map[string]string{}
	}
	l.relays[address] = "tcp:" + ln.Addr().String()
	context.AfterFunc(ctx, func() { ln.Close() })
	l.open.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			l.open.Go(func() { l.carry(ctx, near, address) })
		}
	})
	return l.relays[address], nil
}

// carry connects near with a replica, until one of the two hangs up.
func (l *link) carry(ctx context.Context, near net.Conn, address string) {
	defer near.Close()
	network, path, _ := strings.Cut(address, ":")
	far, err := new(net.Dialer).DialContext(ctx, network, path)
	if err != nil { // a way off, too, nobody listens
		l.wait(ctx, time.Now().Add(2*l.delay))
		return
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
	var both sync.WaitGroup
	both.Go(func() {
		defer far.Close()
		used := false
		l.send(ctx, far, near, func(sent []byte) {
			probes := bytes.Count(sent, []byte(" /_/ready HTTP/1.1\r\n"))
			calls := bytes.Count(sent, []byte(" HTTP/1.1\r\n")) - probes
			l.probes.Add(int64(probes))
			l.calls.Add(int64(calls))
			if calls > 0 && !used {
				used = true
				l.connections.Add(1)
			}
		})
	})
	both.Go(func() {
		defer near.Close()
		l.send(ctx, near, far, func([]byte) {})
	})
	both.Wait()
}

// send writes what comes from one side to the other, later, and shows it to
// seen.
func (l *link) send(ctx context.Context, to io.Writer, from io.Reader, seen func([]byte)) {
	type packet struct {
		due  time.Time
		data []byte
	}
	under := make(chan packet, 1000)
	var arriving sync.WaitGroup
	defer arriving.Wait()
	defer close(under)
	arriving.Go(func() {
		for p := range under {
			l.wait(ctx, p.due)
			_, _ = to.Write(p.data) // the other side may have hung up
		}
	})
	for {
		buf := make([]byte, 64<<10)
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		seen(buf[:n])
		under <- packet{time.Now().Add(l.delay), buf[:n]}
	}
}

func (l *link) wait(ctx context.Context, due time.Time) {
	select {
	case <-time.After(time.Until(due)):
	case <-ctx.Done():
	}
}

// A distant is a runtime whose replicas are called over a link. One that is
// silent never says that they are ready, as a cluster says it only long after.
type distant struct {
	*fixture
	link   *link
	silent bool
}

func (d distant) Watch(ctx context.Context, report func(function.Event)) error {
	return d.fixture.Watch(ctx, func(e function.Event) {
		if e.Endpoints != nil {
			moved := *e.Endpoints
			moved.Replicas = slices.Clone(moved.Replicas)
			for i, r := range moved.Replicas {
				address, err := d.link.to(ctx, r.Address)
				if err != nil {
					d.t.Error(err)
				}
				moved.Replicas[i].Address = address
				moved.Replicas[i].Ready = r.Ready && !d.silent
			}
			e.Endpoints = &moved
		}
		report(e)
	})
}

// A delay between gateway and replicas costs a call the round trips that it
// needs, and nothing else: no probe that gives up too early and starts over, no
// call that is sent twice, no connection that is not used again.
func TestAFunctionAWayOffWakesAndIsCalledAsOneThatIsNear(t *testing.T) {
	for _, delay := range []time.Duration{20 * time.Millisecond, 70 * time.Millisecond} {
		t.Run(fmt.Sprint(delay), func(t *testing.T) { testFar(t, delay, false) })
		t.Run(fmt.Sprint(delay, " and probing"), func(t *testing.T) { testFar(t, delay, true) })
	}
}

func testFar(t *testing.T, delay time.Duration, silent bool) {
	d := distant{start(t, options(t)), &link{delay: delay}, silent}
	functions := provider.New(provider.Options{
		Runtime: d, Secrets: d, Logs: d, Namespaces: d,
		Info: types.ProviderInfo{Name: "distant"}, Log: testkit.Log(t),
	})
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front := gateway.New(gateway.Options{Listener: ln, Provider: web.InProcess(functions.Handler()), Drain: time.Second, Log: testkit.Log(t)})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{functions.Run, front.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	defer d.link.open.Wait()
	defer running.Wait()
	defer stop()

	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	call := func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+ln.Addr().String()+"/function/echo", nil)
		if err != nil {
			t.Error(err)
			return
		}
		res, err := client.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || string(body) != "hello from echo" {
			t.Errorf("a call was answered %d %q, %v", res.StatusCode, body, err)
		}
	}

	ref := d.deploy(d.spec("echo"))
	d.until(ref, "ready replica", ready(1))
	eventually(t, "the gateway knows the function", func() bool {
		e, ok := front.Table().Endpoints(ref)
		return ok && len(e.Replicas) == 1
	})
	call()

	const together = 20
	for range 2 {
		d.scale(ref, 0)
		eventually(t, "it sleeps", func() bool {
			e, _ := front.Table().Endpoints(ref)
			return e.Desired == 0 && len(e.Replicas) == 0
		})
		probes, calls := d.link.probes.Load(), d.link.calls.Load()
		began := time.Now()
		var all sync.WaitGroup
		for range together {
			all.Go(call)
		}
		all.Wait()
		t.Logf("%d calls together woke it, and were answered after %v and %d probes", together, time.Since(began), d.link.probes.Load()-probes)
		if n := d.link.calls.Load() - calls; n != together {
			t.Errorf("%d calls were sent to replicas, want %d", n, together)
		}
		if e, _ := front.Table().Endpoints(ref); e.Desired != 1 {
			t.Errorf("it has %d replicas, want 1", e.Desired)
		}
	}
	connections, calls := d.link.connections.Load(), d.link.calls.Load()
	for range 10 {
		call()
	}
	if more, n := d.link.connections.Load()-connections, d.link.calls.Load()-calls; more > 0 || n != 10 {
		t.Errorf("ten calls in a row took %d connections more, and were sent %d times", more, n)
	}
}

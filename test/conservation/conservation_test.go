// Package conservation holds the queue of asynchronous calls to its promise:
// while gateway, worker and NATS are killed over and over, and cut off from
// each other, every call that was accepted is accounted for, and each is run.
package conservation

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/internal/function"
)

// Sizes of the test.
const (
	calls     = 20_000
	killEvery = 2 * time.Second
	inflight  = 64              // calls that the worker runs at once
	atMost    = 3 * time.Minute // for the killing; then everything may settle
	settling  = 2 * time.Minute
)

func TestMain(m *testing.M) {
	// The test starts itself again, as the processes that it kills.
	var err error
	switch role := os.Getenv("CONSERVATION_ROLE"); role {
	case "":
		os.Exit(m.Run())
	case "nats":
		err = runNATS()
	case "gateway":
		err = runGateway()
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// runNATS is a NATS server on the port that it is told.
func runNATS() error {
	var port int
	if _, err := fmt.Sscan(os.Getenv("PORT"), &port); err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "nats", Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: os.Getenv("DIR"), NoLog: true,
		JetStreamMaxStore: 1 << 50, // streams reserve room; the disk need not have it
	})
	if err != nil {
		return err
	}
	s.Start()
	s.WaitForShutdown()
	return errors.New("the NATS server ended")
}

// runGateway is the part of a gateway that calls go through: the queue's HTTP
// side, and the proxy to the one function there is.
func runGateway() error {
	nc, err := async.Connect(async.ConnectOptions{URL: os.Getenv("NATS"), Name: "gateway"})
	if err != nil {
		return err
	}
	q, err := async.New(nc, async.Options{})
	if err != nil {
		return err
	}
	go func() { _ = q.Run(context.Background()) }() // until the process is killed
	table := invoke.NewTable(invoke.TableOptions{})
	table.Set(function.Endpoints{
		Ref: function.Ref{Name: "fn", Namespace: function.DefaultNamespace}, Desired: 1, Min: 1,
		Replicas: []function.Replica{{ID: "1", Address: "tcp:" + os.Getenv("FUNCTION"), Ready: true}},
		Settings: function.Settings{ExecTimeout: function.Duration(time.Minute)},
	})
	table.Synced()
	mux := http.NewServeMux()
	mux.Handle("/function/", invoke.NewProxy(table, invoke.ProxyOptions{}))
	mux.Handle("/async-function/", async.NewAPI(async.APIOptions{Queue: q, Find: table.Find}))
	return http.ListenAndServe(os.Getenv("LISTEN"), mux)
}

// A process is killed and started again.
type process struct {
	t    *testing.T
	name string
	args []string
	env  []string

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

func (p *process) start() {
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Env = append(os.Environ(), p.env...)
	p.cmd.Stderr = p.t.Output()
	if err := p.cmd.Start(); err != nil {
		p.t.Error(err)
		return
	}
	ended := make(chan struct{})
	p.ended = ended
	cmd := p.cmd
	go func() {
		_ = cmd.Wait() // it is killed
		close(ended)
	}()
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.ended
}

// keepUp starts the process again if it has ended by itself.
func (p *process) keepUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ended:
		p.start()
	default:
	}
}

func (p *process) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kill()
	p.start()
}

// freePort returns a port that nobody listens on. The processes keep theirs
// across restarts.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// A ledger is what the function knows: how often each call ran, and whose
// effect it has applied.
type ledger struct {
	mu      sync.Mutex
	runs    map[string]int
	effects map[string]int
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	time.Sleep(2 * time.Millisecond) // what it takes to do something
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs[string(body)]++
	// This is how a function has one effect however often it runs: it
	// remembers the keys whose effect it has had.
	if key := r.Header.Get("Idempotency-Key"); key != "" && l.effects[key] == 0 {
		l.effects[key]++
	}
	fmt.Fprintf(w, "did %s", body)
}

func TestNoAcceptedCallIsLostWhileProcessesAreKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	dir := t.TempDir()
	worker := filepath.Join(dir, "queue-worker")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", worker, "../../gateway/cmd/queue-worker")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &ledger{runs: map[string]int{}, effects: map[string]int{}}
	fn := httptest.NewServer(l)
	defer fn.Close()
	natsAt, gatewayAt := freePort(t), freePort(t)
	_, natsPort, _ := strings.Cut(natsAt, ":")
	between, err := newWire(natsAt)
	if err != nil {
		t.Fatal(err)
	}
	defer between.close()
	processes := []*process{
		{t: t, name: "nats", args: []string{self}, env: []string{"CONSERVATION_ROLE=nats", "PORT=" + natsPort, "DIR=" + filepath.Join(dir, "nats")}},
		{t: t, name: "gateway", args: []string{self}, env: []string{
			"CONSERVATION_ROLE=gateway", "NATS=nats://" + between.addr(), "LISTEN=" + gatewayAt, "FUNCTION=" + strings.TrimPrefix(fn.URL, "http://"),
		}},
		{t: t, name: "worker", args: []string{worker}, env: []string{
			"nats_url=nats://" + between.addr(), "gateway_url=http://" + gatewayAt, "basic_auth=false", "metrics_listen=none",
			fmt.Sprintf("max_inflight=%d", inflight), fmt.Sprintf("max_inflight_per_function=%d", inflight),
			// Attempts fail only because processes die, so there are plenty.
			"max_retry_attempts=1000", "initial_retry_wait=100ms", "max_retry_wait=1s",
		}},
	}
	for _, p := range processes {
		p.start()
		defer p.kill()
	}

	var kills atomic.Int64
	var killing sync.WaitGroup
	stopKilling := make(chan struct{})
	killing.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-tick.C:
			case <-stopKilling:
				return
			}
			for _, p := range processes {
				p.keepUp()
			}
			if time.Since(last) >= killEvery {
				last = time.Now()
				kills.Add(1)
				switch n := rand.IntN(len(processes) + 2); n {
				case len(processes):
					between.cutFor(time.Second)
				case len(processes) + 1:
					between.freezeFor(time.Second)
				default:
					processes[n].restart()
				}
			}
		}
	})

	gateway := "http://" + gatewayAt + "/async-function/"
	var ids [calls]atomic.Pointer[string]
	var submitting sync.WaitGroup
	var next atomic.Int64
	for range 16 {
		submitting.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
			defer client.CloseIdleConnections()
			for {
				i := int(next.Add(1) - 1)
				if i >= calls {
					return
				}
				ids[i].Store(new(submit(t, client, gateway, i)))
				time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond) // so that there is something to kill
			}
		})
	}
	// While that goes on, calls that were accepted are asked for.
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	began := time.Now()
	submitted := make(chan struct{})
	go func() { submitting.Wait(); close(submitted) }()
	samples := 0
	for open := true; open; {
		select {
		case <-submitted:
			open = false
		case <-time.After(20 * time.Millisecond):
		}
		if id := ids[rand.IntN(calls)].Load(); id != nil {
			if state := ask(t, client, gateway, *id); state == "" {
				t.Errorf("call %s was accepted and is not known", *id)
			}
			samples++
		}
		if time.Since(began) > atMost {
			break
		}
	}
	close(stopKilling)
	killing.Wait()
	keepUp := time.AfterFunc(time.Second, func() {
		for _, p := range processes {
			p.keepUp()
		}
	})
	defer keepUp.Stop()
	<-submitted

	// Nothing is killed any more: every call must come to its end.
	states := map[string]int{}
	deadline := time.Now().Add(settling)
	for i := range ids {
		id := *ids[i].Load()
		state := ask(t, client, gateway, id)
		for state != "done" && state != "failed" && state != "" && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
			state = ask(t, client, gateway, id)
		}
		states[state]++
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	total, never := 0, 0
	for i := range calls {
		n := l.runs[fmt.Sprint(i)]
		total += n
		if n == 0 {
			never++
		}
	}
	repeated := total - (calls - never)
	t.Logf("%d calls, %d kills and cuts, %d samples in %s: states %v, %d runs were repeated", calls, kills.Load(), samples, time.Since(began).Round(time.Second), states, repeated)
	if states["done"] != calls || never > 0 {
		t.Errorf("of %d accepted calls these are known: %v; %d never ran", calls, states, never)
	}
	if most := int(kills.Load()) * inflight; repeated > most {
		t.Errorf("%d runs were repeated, want at most %d kills × %d in flight", repeated, kills.Load(), inflight)
	}
	for key, n := range l.effects {
		if n != 1 {
			t.Errorf("key %s had %d effects", key, n)
		}
	}
	if len(l.effects) != calls {
		t.Errorf("%d effects, want %d", len(l.effects), calls)
	}
}

// submit submits call i until it is accepted, and returns its id.
func submit(t *testing.T, client *http.Client, gateway string, i int) string {
	for {
		req, err := http.NewRequestWithContext(t.Context(), "POST", gateway+"fn", strings.NewReader(fmt.Sprint(i)))
		if err != nil {
			t.Error(err)
			return ""
		}
		req.Header.Set("Idempotency-Key", fmt.Sprint("key-", i))
		resp, err := client.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusAccepted {
				return resp.Header.Get("X-Call-Id")
			}
		}
		time.Sleep(50 * time.Millisecond) // the gateway is down, or NATS is
	}
}

// ask returns the state of a call, "" if it is not known.
func ask(t *testing.T, client *http.Client, gateway, id string) string {
	for {
		resp, err := client.Get(gateway + id)
		if err == nil {
			var c struct{ State string }
			err = json.NewDecoder(bufio.NewReader(resp.Body)).Decode(&c)
			resp.Body.Close()
			if resp.StatusCode == http.StatusNotFound {
				return ""
			}
			if err == nil && resp.StatusCode == http.StatusOK {
				return c.State
			}
		}
		if t.Context().Err() != nil {
			return ""
		}
		time.Sleep(50 * time.Millisecond) // the gateway is down, or NATS is
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsd "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// What the queue must reach: as parts of what its peers do, and for the time
// from a submission to the end of its call.
const (
	acceptLimit  = 0.50
	drainLimit   = 0.40
	latencyLimit = 25 * time.Millisecond
	// fairLimit is how much longer the small functions' calls may take beside
	// the large one than they take by themselves: half of the turns are theirs
	// at the very least.
	fairLimit = 2.5
	// listLimit is for the first page of a listing of queuedCalls.
	listLimit = 100 * time.Millisecond
)

const (
	drainCalls   = 30_000
	queuedCalls  = 1_000_000
	smallLanes   = 1000 // functions with few calls beside one with queuedCalls
	smallCalls   = 50   // calls of each
	acceptors    = 64   // connections that submit
	latencyCalls = 2000
	listedPages  = 10
	listedCalls  = 50 // on a page
)

// benchQueue measures the queue against what one would write with nats.go
// alone, on the same broker, in this process.
func benchQueue(out io.Writer, o options) error {
	load, generator := generateLoad()
	fmt.Fprintf(out, "Accepting: POST of 26 bytes by %s, %d connections, %s each; draining: %d empty calls of a Go function; the broker, its peers and the function share this process's %d CPUs. From the memory on the functions are a process apart.\n\n",
		generator, acceptors, o.duration, drainCalls, runtime.NumCPU())
	fmt.Fprintf(out, "| | nats.go alone | queue | ratio | bound |\n|---|---|---|---|---|\n")
	var missed []error
	for _, always := range []bool{false, true} {
		name := "synced every 2 minutes"
		if always {
			name = "synced always"
		}
		if err := benchQueueSynced(out, o, load, name, always, &missed); err != nil {
			return err
		}
	}
	if err := benchQueueMemory(out, &missed); err != nil {
		return err
	}
	return errors.Join(missed...)
}

func benchQueueSynced(out io.Writer, o options, load loadFunc, name string, always bool, missed *[]error) error {
	b, err := openBroker(always, false)
	if err != nil {
		return err
	}
	defer b.close()

	var bare, ours []float64
	for range o.rounds {
		r, err := load(b.url+"/bare", acceptors, 26, o.duration)
		if err != nil {
			return fmt.Errorf("accept with nats.go alone: %w", err)
		}
		bare = append(bare, r.rate)
		if r, err = load(b.url+"/async-function/echo", acceptors, 26, o.duration); err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		if r.failures > 0 {
			return fmt.Errorf("accept: %d of %d calls were refused", r.failures, r.requests)
		}
		ours = append(ours, r.rate)
	}
	ratio := middle(ours) / middle(bare)
	fmt.Fprintf(out, "| accepted per second, %s | %.0f | %.0f | %.2f | %.2f |\n", name, middle(bare), middle(ours), ratio, acceptLimit)
	if ratio < acceptLimit {
		*missed = append(*missed, fmt.Errorf("accepting reaches %.2f of its peer, %s", ratio, name))
	}

	if err := b.reset(); err != nil {
		return err
	}
	var whole []float64
	bare, ours = nil, nil
	for range o.rounds {
		alone, err := b.drainAlone(loop{})
		if err != nil {
			return fmt.Errorf("drain with nats.go alone: %w", err)
		}
		bare = append(bare, alone)
		if alone, err = b.drainAlone(loop{call: true, store: true}); err != nil {
			return fmt.Errorf("call and store with nats.go alone: %w", err)
		}
		whole = append(whole, alone)
		rate, err := b.drain()
		if err != nil {
			return fmt.Errorf("drain: %w", err)
		}
		ours = append(ours, rate)
	}
	ratio = middle(ours) / middle(bare)
	fmt.Fprintf(out, "| drained per second, %s | %.0f | %.0f | %.2f | %.2f |\n", name, middle(bare), middle(ours), ratio, drainLimit)
	if ratio < drainLimit {
		*missed = append(*missed, fmt.Errorf("draining reaches %.2f of its peer, %s", ratio, name))
	}
	fmt.Fprintf(out, "| the same, where nats.go alone also calls the function and stores a result, %s | %.0f | %.0f | %.2f | |\n", name, middle(whole), middle(ours), middle(ours)/middle(whole))

	p50, p99, err := b.latency(middle(ours) / 10)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "| submission to end of call at %.0f/s, %s | | p50 %s, p99 %s | | p99 %s |\n", middle(ours)/10, name, millis(p50), millis(p99), millis(latencyLimit))
	if p99 > latencyLimit {
		*missed = append(*missed, fmt.Errorf("a call ends %s after its submission, %s", p99, name))
	}
	return nil
}

func middle(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// A broker is a NATS server in this process, with the queue, its peers and one
// function, called echo, that answers at a Unix socket.
type broker struct {
	dir    string
	socket string // of the function
	apart  *role  // plays the function, if it is not this process
	server *natsd.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	queue  *async.Queue
	proxy  http.Handler
	url    string
	each   atomic.Pointer[func(body string)]
	stop   context.CancelFunc
	parts  sync.WaitGroup
}

// openBroker starts a broker that syncs always or from time to time, with the
// function in a process apart or in this one.
func openBroker(always, apart bool) (*broker, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the broker: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	b := &broker{dir: dir, stop: stop}
	if err := b.open(ctx, always, apart); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *broker) open(ctx context.Context, always, apart bool) (err error) {
	b.server, err = natsd.NewServer(&natsd.Options{
		ServerName: "bench", DontListen: true, NoSigs: true, NoLog: true, JetStream: true,
		StoreDir: filepath.Join(b.dir, "queue"), MaxPayload: 8 << 20, SyncAlways: always,
		JetStreamMaxStore: 1 << 50, // streams reserve room; the disk need not have it
	})
	if err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	b.server.Start()
	if !b.server.ReadyForConnections(time.Minute) {
		return errors.New("the broker does not start")
	}
	if b.nc, err = nats.Connect("", nats.InProcessServer(b.server)); err != nil {
		return fmt.Errorf("connect to the broker: %w", err)
	}
	if b.js, err = jetstream.New(b.nc); err != nil {
		return err
	}
	if _, err = b.js.CreateStream(ctx, jetstream.StreamConfig{Name: "BARE", Subjects: []string{"bare"}, Retention: jetstream.WorkQueuePolicy}); err != nil {
		return err
	}
	if _, err = b.js.CreateStream(ctx, jetstream.StreamConfig{Name: "STORED", Subjects: []string{"stored"}, MaxMsgs: 200_000}); err != nil {
		return err
	}
	if b.queue, err = async.Open(ctx, b.nc, async.Options{MaxBacklog: 10_000_000, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}); err != nil {
		return err
	}
	b.socket = filepath.Join(b.dir, "s")
	if apart {
		if b.apart, err = startRole("upstream", b.socket); err != nil {
			return err
		}
	} else {
		functions, err := net.Listen("unix", b.socket)
		if err != nil {
			return err
		}
		b.parts.Go(func() { _ = web.Serve(ctx, functions, http.HandlerFunc(b.function), web.ServeOptions{}) })
	}
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	table := invoke.NewTable(invoke.TableOptions{})
	names := []string{"echo"}
	for i := range smallLanes {
		names = append(names, smallName(i))
	}
	for _, name := range names {
		table.Set(function.Endpoints{
			Ref: function.Ref{Name: name, Namespace: function.DefaultNamespace}, Desired: 1, Min: 1,
			Replicas: []function.Replica{{ID: "1", Address: "unix:" + b.socket, Ready: true}},
		})
	}
	table.Synced()
	b.proxy = invoke.NewProxy(table, invoke.ProxyOptions{Version: "bench"})
	b.url = "http://" + front.Addr().String()
	b.parts.Go(func() { _ = table.Run(ctx) })
	mux := http.NewServeMux()
	mux.HandleFunc("POST /bare", b.publish)
	mux.Handle(async.CallsPath, async.NewAPI(async.APIOptions{Queue: b.queue, Find: table.Find}))
	b.parts.Go(func() { _ = web.Serve(ctx, front, mux, web.ServeOptions{}) })
	return nil
}

func (b *broker) close() {
	b.stop()
	b.parts.Wait()
	if b.nc != nil {
		b.nc.Close()
	}
	if b.server != nil {
		b.server.Shutdown()
		b.server.WaitForShutdown()
	}
	if b.apart != nil {
		b.apart.stop()
	}
	os.RemoveAll(b.dir)
}

// publish is the peer: what one writes who needs a durable 202 and no more.
func (b *broker) publish(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if _, err := b.js.Publish(r.Context(), "bare", body); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func (b *broker) function(_ http.ResponseWriter, r *http.Request) {
	if each := b.each.Load(); each != nil {
		body, _ := io.ReadAll(r.Body)
		(*each)(string(body))
	}
}

// reset empties what the measurements of accepting have left.
func (b *broker) reset() error {
	for _, name := range []string{"BARE", "GRAPHENE_CALLS"} {
		stream, err := b.js.Stream(context.Background(), name)
		if err != nil {
			return err
		}
		if err := stream.Purge(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// smallName returns the name of one of the functions with few calls.
func smallName(i int) string { return "small-" + strconv.Itoa(i) }

// fill puts n calls into the queue.
func (b *broker) fill(n int) error { return b.fillWith(n, func(int) string { return "echo" }) }

// fillWith is fill for calls of the functions that name says.
func (b *broker) fillWith(n int, name func(i int) string) error {
	var submitting sync.WaitGroup
	var failed atomic.Pointer[error]
	for first := range acceptors {
		submitting.Go(func() {
			for i := first; i < n/acceptors*acceptors; i += acceptors {
				if err := b.submit(name(i), ""); err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	submitting.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (b *broker) submit(name, body string) error {
	_, err := b.queue.Submit(context.Background(), async.Submission{
		Function: function.Ref{Name: name, Namespace: function.DefaultNamespace},
		Request:  types.QueueRequest{Method: "POST", Function: name, Header: http.Header{"Content-Type": {"text/plain"}}},
		Body:     strings.NewReader(body), Length: int64(len(body)),
	})
	return err
}

// work runs a worker until the function it returns is called.
func (b *broker) work() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	w := async.NewWorker(b.queue, async.WorkerOptions{
		Gateway: web.InProcess(b.proxy), URL: &url.URL{Scheme: "http", Host: "gateway"}, Queued: invoke.HeaderQueued, Submitter: invoke.HeaderSubmitter, Drain: time.Minute,
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = w.Run(ctx)
	}()
	return func() { cancel(); <-ended }
}

// drain returns how many empty calls a second the worker gets done.
func (b *broker) drain() (float64, error) {
	if err := b.fill(drainCalls); err != nil {
		return 0, err
	}
	var stop func()
	rate, err := paced(drainCalls/acceptors*acceptors, func() error {
		stop = b.work()
		calls, err := b.js.Stream(context.Background(), "GRAPHENE_CALLS")
		if err != nil {
			return err
		}
		for {
			info, err := calls.Info(context.Background())
			if err != nil || info.State.Msgs == 0 {
				return err
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	stop()
	return rate, err
}

// latency submits calls at a rate, at random moments, and returns how long
// after its submission a call has ended.
func (b *broker) latency(rate float64) (p50, p99 time.Duration, err error) {
	stop := b.work()
	defer stop()
	begun := make([]time.Time, latencyCalls)
	took := make([]time.Duration, latencyCalls)
	var left sync.WaitGroup
	left.Add(latencyCalls)
	each := func(body string) {
		if i, err := strconv.Atoi(body); err == nil {
			took[i] = time.Since(begun[i])
			left.Done()
		}
	}
	b.each.Store(&each)
	defer b.each.Store(nil)
	next := time.Now()
	var failed atomic.Pointer[error]
	for i := range latencyCalls {
		next = next.Add(time.Duration(rand.ExpFloat64() / rate * float64(time.Second)))
		time.Sleep(time.Until(next))
		begun[i] = next // intended: a late start counts
		go func() {
			if err := b.submit("echo", strconv.Itoa(i)); err != nil {
				failed.Store(&err)
				left.Done()
			}
		}()
	}
	left.Wait()
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	slices.Sort(took)
	return took[latencyCalls/2], took[latencyCalls*99/100], nil
}

// benchQueueMemory measures what this process, broker included, holds while a
// million calls of one function wait, and how long a thousand other functions
// with fifty calls each take beside them. The functions are a process apart.
func benchQueueMemory(out io.Writer, missed *[]error) error {
	b, err := openBroker(false, true)
	if err != nil {
		return err
	}
	defer b.close()
	sizes := map[int]int64{}
	filled := 0
	for _, n := range []int{queuedCalls / 10, queuedCalls} {
		if err := b.fill(n - filled); err != nil {
			return fmt.Errorf("queue a million calls: %w", err)
		}
		filled = n
		if sizes[n], err = resident(os.Getpid()); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "| resident with %d and %d calls queued, broker included | | %.0f MB, %.0f MB | | flat |\n",
		queuedCalls/10, queuedCalls, float64(sizes[queuedCalls/10])/1e6, float64(sizes[queuedCalls])/1e6)

	first, all, err := b.list(listedPages)
	if err != nil {
		return fmt.Errorf("list a million calls: %w", err)
	}
	fmt.Fprintf(out, "| listing them: the first page of %d calls, and %d pages | | %s, %s | | first %s |\n",
		listedCalls, listedPages, millis(first), millis(all), millis(listLimit))
	if first > listLimit {
		*missed = append(*missed, fmt.Errorf("the first page of a million calls takes %s", first))
	}

	beside, err := b.drainSmall(true)
	if err != nil {
		return fmt.Errorf("drain small functions beside a large one: %w", err)
	}
	size, err := resident(os.Getpid())
	if err != nil {
		return err
	}
	backlog, err := b.queue.Backlog(context.Background())
	if err != nil {
		return err
	}
	calls, err := b.js.Stream(context.Background(), "GRAPHENE_CALLS")
	if err != nil {
		return err
	}
	if err := calls.Purge(context.Background()); err != nil {
		return err
	}
	alone, err := b.drainSmall(true)
	if err != nil {
		return fmt.Errorf("drain small functions: %w", err)
	}
	late, err := b.drainSmall(false)
	if err != nil {
		return fmt.Errorf("drain small functions whose calls waited for the worker: %w", err)
	}
	ratio := beside.Seconds() / alone.Seconds()
	fmt.Fprintf(out, "| %d functions with %d calls each: alone, and beside one with %d, of which %d were left | %.1f s | %.1f s | %.2f | %.2f |\n",
		smallLanes, smallCalls, queuedCalls, backlog[function.Ref{Name: "echo", Namespace: function.DefaultNamespace}],
		alone.Seconds(), beside.Seconds(), ratio, fairLimit)
	fmt.Fprintf(out, "| resident then | | %.0f MB | | |\n", float64(size)/1e6)
	fmt.Fprintf(out, "| the same %d functions alone, from their first submission on: with the worker at work, and started when all calls were queued | %.1f s | %.1f s | %.2f | |\n",
		smallLanes, alone.Seconds(), late.Seconds(), late.Seconds()/alone.Seconds())
	if ratio > fairLimit {
		*missed = append(*missed, fmt.Errorf("small functions take %.1f times as long beside a large one", ratio))
	}
	return nil
}

// list reads pages of a listing of all calls, and returns how long the first
// took, and all of them.
func (b *broker) list(pages int) (first, all time.Duration, err error) {
	start := time.Now()
	f := async.Filter{Limit: listedCalls}
	for i := range pages {
		page, err := b.queue.List(context.Background(), f)
		if err != nil {
			return 0, 0, err
		}
		if len(page.Calls) != listedCalls || page.Next == "" {
			return 0, 0, fmt.Errorf("page %d has %d calls", i, len(page.Calls))
		}
		if i == 0 {
			first = time.Since(start)
		}
		f.Cursor = page.Next
	}
	return first, time.Since(start), nil
}

// drainSmall submits the calls of the functions that have few, to a queue whose
// worker is at work or starts when they are all there. It returns how long it
// takes from the first of them until the last has ended.
func (b *broker) drainSmall(atWork bool) (time.Duration, error) {
	ctx := context.Background()
	calls, err := b.js.Stream(ctx, "GRAPHENE_CALLS")
	if err != nil {
		return 0, err
	}
	start := time.Now()
	var stop func()
	if atWork {
		stop = b.work()
	}
	err = b.fillWith(smallLanes*smallCalls, func(i int) string { return smallName(i % smallLanes) })
	if !atWork {
		stop = b.work()
	}
	defer stop()
	if err != nil {
		return 0, err
	}
	for {
		info, err := calls.Info(ctx, jetstream.WithSubjectFilter(">"))
		if err != nil {
			return 0, err
		}
		left := 0
		for subject := range info.State.Subjects {
			if strings.Contains(subject, "small-") {
				left++
			}
		}
		if left == 0 {
			return time.Since(start), nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}

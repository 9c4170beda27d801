package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	batchMax       = 32
	batchTolerance = 1.25             // of the prototype's p99, which differs that much from run to run
	batchTime      = 5 * time.Second  // of each rate and peer
	idleTime       = 10 * time.Second // in which one tick of /proc is the limit of 0.1 %
)

var batchRates = []int{20, 150, 500, 1000, 1800} // calls per second

// benchBatch measures the batches of one worker whose model takes 5 ms and
// 0.3 ms for each input, beside a batcher of a few lines in this process. Calls
// arrive at random, whether or not earlier ones were answered, and their time
// counts from when they should have been sent.
func benchBatch(out io.Writer, o options) error {
	w, err := openWorkshop(o)
	if err != nil {
		return err
	}
	defer w.close()
	pool, err := w.startPool("batch", filepath.Join(w.dir, "batch.sock"), "workers=1", fmt.Sprintf("batch_max=%d", batchMax))
	if err != nil {
		return err
	}
	defer pool.stop()
	if err := pool.echoes("/"); err != nil {
		return err
	}
	prototype, err := startPrototype(filepath.Join(w.dir, "prototype.sock"))
	if err != nil {
		return err
	}
	defer prototype.stop()

	fmt.Fprintf(out, "A model that takes 5 ms, and 0.3 ms for each input, one run at a time; batches of at most %d; calls arrive at random (Poisson) for %s per rate, times count from when they were due. The prototype, in Go and over HTTP as well, runs what is waiting.\n\n", batchMax, batchTime)
	fmt.Fprintf(out, "| calls per second | pool p50 | p99 | prototype p50 | p99 |\n|---|---|---|---|---|\n")
	var missed []error
	for _, rate := range batchRates {
		ours, err := openLoop(pool.client, pool.url, rate, batchTime)
		if err != nil {
			return err
		}
		theirs, err := openLoop(prototype.client, "http://function", rate, batchTime)
		if err != nil {
			return err
		}
		p99, limit := percentile(ours, 99), time.Duration(batchTolerance*float64(percentile(theirs, 99)))
		fmt.Fprintf(out, "| %d | %s | %s | %s | %s |\n", rate, millis(percentile(ours, 50)), millis(p99), millis(percentile(theirs, 50)), millis(percentile(theirs, 99)))
		if p99 > limit {
			missed = append(missed, fmt.Errorf("at %d calls per second the p99 is %s, and may be %s", rate, millis(p99), millis(limit)))
		}
	}

	ownBefore, belowBefore, err := treeTime(pool.pid())
	if err != nil {
		return err
	}
	time.Sleep(idleTime)
	own, below, err := treeTime(pool.pid())
	if err != nil {
		return err
	}
	used := own - ownBefore + below - belowBefore
	fmt.Fprintf(out, "\nBounds: p99 at most %.2f times the prototype's; processor time when idle at most 0.1 %%: %.2f %% in %s.\n", batchTolerance, 100*used.Seconds()/idleTime.Seconds(), idleTime)
	if used > idleTime/1000 {
		missed = append(missed, fmt.Errorf("when idle the pool uses %s of processor time in %s", used, idleTime))
	}
	return errors.Join(missed...)
}

// percentile is the n-th of a hundred of sorted times.
func percentile(sorted []time.Duration, n int) time.Duration { return sorted[len(sorted)*n/100] }

// openLoop sends calls at random times, rate of them per second on average,
// and returns sorted how long after its time each was answered.
func openLoop(client *http.Client, url string, rate int, duration time.Duration) ([]time.Duration, error) {
	random := rand.New(rand.NewPCG(1, uint64(rate))) // the same calls for every peer
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	var calls sync.WaitGroup
	begun := time.Now()
	for due := time.Duration(0); due < duration; due += time.Duration(random.ExpFloat64() * float64(time.Second) / float64(rate)) {
		time.Sleep(due - time.Since(begun))
		calls.Go(func() {
			err := post(client, url)
			late := time.Since(begun) - due
			mu.Lock()
			defer mu.Unlock()
			took, failed = append(took, late), cmp.Or(failed, err)
		})
	}
	calls.Wait()
	slices.Sort(took)
	return took, failed
}

func post(client *http.Client, url string) error {
	resp, err := client.Post(url, "text/plain", strings.NewReader("x"))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the function answers %s %q, %w", resp.Status, body, err)
	}
	return nil
}

// A prototype batches naturally: whatever waits when the model is free is run.
type prototype struct {
	waiting chan chan struct{}
	server  *http.Server
	client  *http.Client
	running sync.WaitGroup
}

func startPrototype(socket string) (*prototype, error) {
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	p := &prototype{waiting: make(chan chan struct{}, 100_000)}
	p.server = &http.Server{Handler: p}
	p.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 1024,
	}}
	p.running.Go(func() { _ = p.server.Serve(ln) }) // until it is closed
	p.running.Go(p.run)
	return p, nil
}

func (p *prototype) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // one byte
	done := make(chan struct{})
	p.waiting <- done
	<-done
	_, _ = io.WriteString(w, "x")
}

// run is all there is to it.
func (p *prototype) run() {
	for first := range p.waiting {
		batch := []chan struct{}{first}
		for more := true; more && len(batch) < batchMax; {
			select {
			case next, open := <-p.waiting:
				if more = open; open {
					batch = append(batch, next)
				}
			default:
				more = false
			}
		}
		time.Sleep(5*time.Millisecond + time.Duration(len(batch))*300*time.Microsecond)
		for _, done := range batch {
			close(done)
		}
	}
}

func (p *prototype) stop() {
	p.client.CloseIdleConnections()
	p.server.Close()
	close(p.waiting) // every call has been answered
	p.running.Wait()
}

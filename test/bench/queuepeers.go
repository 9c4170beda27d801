package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// paced runs f, which does n things, and returns how many it did a second.
func paced(n int, f func() error) (float64, error) {
	start := time.Now()
	err := f()
	return float64(n) / time.Since(start).Seconds(), err
}

// A loop is a worker as one would write it with nats.go, that promises some of
// what the queue's worker does.
type loop struct {
	call  bool // calls the function over HTTP, with nothing in between
	store bool // stores a result, durably, before it acknowledges
}

// peerCalls is how many calls of a peer run at once, as the worker's.
const peerCalls = 256

// drainAlone returns how many messages a second a loop of nats.go consumes and
// acknowledges that does in between what p says.
func (b *broker) drainAlone(p loop) (float64, error) {
	ctx := context.Background()
	stream, err := b.js.Stream(ctx, "BARE")
	if err != nil {
		return 0, err
	}
	if err := stream.Purge(ctx); err != nil { // of what the loop before has not quite acknowledged
		return 0, err
	}
	body := []byte(`{"Header":{"Content-Type":["text/plain"]},"Host":"","Body":"","Method":"POST","Path":"","QueryString":"","Function":"echo"}`)
	for range drainCalls {
		if _, err := b.js.PublishAsync("bare", body, jetstream.WithStallWait(time.Minute)); err != nil {
			return 0, err
		}
	}
	<-b.js.PublishAsyncComplete()
	consumer, err := b.js.CreateConsumer(ctx, "BARE", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MemoryStorage: true, MaxAckPending: 4096})
	if err != nil {
		return 0, err
	}
	defer func() { _ = b.js.DeleteConsumer(ctx, "BARE", consumer.CachedInfo().Name) }()
	transport := &http.Transport{MaxIdleConnsPerHost: peerCalls, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.socket)
	}}
	defer transport.CloseIdleConnections()

	var failed sync.Map
	done := make(chan struct{}, drainCalls)
	one := func(m jetstream.Msg) {
		defer func() { done <- struct{}{} }()
		if p.call {
			if err := postTo(transport); err != nil {
				failed.Store(err.Error(), true)
				return
			}
		}
		if p.store {
			f, err := b.js.PublishAsync("stored", []byte("0123456789"))
			if err != nil {
				failed.Store(err.Error(), true)
				return
			}
			select {
			case <-f.Ok():
			case err := <-f.Err():
				failed.Store(err.Error(), true)
				return
			}
		}
		_ = m.Ack()
	}
	work := make(chan jetstream.Msg, peerCalls)
	var workers sync.WaitGroup
	handle := func(m jetstream.Msg) { work <- m }
	if p == (loop{}) {
		handle = one // as the consume loop that it is
	} else {
		for range peerCalls {
			workers.Go(func() {
				for m := range work {
					one(m)
				}
			})
		}
	}
	rate, err := paced(drainCalls, func() error {
		consuming, err := consumer.Consume(handle)
		if err != nil {
			return err
		}
		for range drainCalls {
			<-done
		}
		consuming.Stop()
		<-consuming.Closed()
		return nil
	})
	close(work)
	workers.Wait()
	failed.Range(func(text, _ any) bool { err = fmt.Errorf("%v", text); return false })
	return rate, err
}

// postTo calls the function.
func postTo(transport *http.Transport) error {
	req, err := http.NewRequest("POST", "http://function/", bytes.NewReader(nil))
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

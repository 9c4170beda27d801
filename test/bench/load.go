package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// token is sent to both proxies, so that both read the same bytes.
const token = "a-token-of-the-length-that-tokens-have"

// A loadFunc sends as many requests to url as connections can carry one after
// the other for a time: POST of body bytes, or GET if that is 0.
type loadFunc func(url string, connections, body int, duration time.Duration) (result, error)

// generateLoad returns wrk, or something like it when there is no wrk, and its
// name.
func generateLoad() (loadFunc, string) {
	path, err := exec.LookPath("wrk")
	if err != nil {
		return goLoad, "a Go client, as wrk is not installed"
	}
	return func(url string, connections, body int, duration time.Duration) (result, error) {
		return wrkLoad(path, url, connections, body, duration)
	}, "wrk"
}

// summary makes wrk say what it found as JSON, in microseconds.
const summary = `done = function(s, latency, requests)
  local e = s.errors
  io.write(string.format('\n{"requests":%d,"duration":%d,"failures":%d,"p50":%d,"p99":%d}\n',
    s.requests, s.duration, e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
`

func wrkLoad(wrk, url string, connections, body int, duration time.Duration) (result, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return result{}, fmt.Errorf("make a directory for wrk's script: %w", err)
	}
	defer os.RemoveAll(dir)
	script := filepath.Join(dir, "summary.lua")
	lua := summary
	if body > 0 {
		lua += fmt.Sprintf("wrk.method = 'POST'\nwrk.body = string.rep('x', %d)\n", body)
	}
	if err := os.WriteFile(script, []byte(lua), 0o600); err != nil {
		return result{}, fmt.Errorf("write wrk's script: %w", err)
	}
	out, err := exec.Command(wrk, "-t1", fmt.Sprintf("-c%d", connections), fmt.Sprintf("-d%ds", max(1, int(duration.Seconds()))),
		"-H", "Authorization: Bearer "+token, "-s", script, url).Output()
	if err != nil {
		return result{}, fmt.Errorf("run wrk: %w", err)
	}
	var s struct {
		Requests, Duration, Failures, P50, P99 int
	}
	if err := json.Unmarshal(out[max(0, bytes.IndexByte(out, '{')):], &s); err != nil {
		return result{}, fmt.Errorf("read wrk's summary %q: %w", out, err)
	}
	return result{
		requests: s.Requests,
		failures: s.Failures,
		rate:     float64(s.Requests) / (float64(s.Duration) / 1e6),
		p50:      time.Duration(s.P50) * time.Microsecond,
		p99:      time.Duration(s.P99) * time.Microsecond,
	}, nil
}

// goLoad is what wrk does, in Go. It costs this process more than wrk would,
// and the proxies the same.
func goLoad(url string, connections, body int, duration time.Duration) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), duration)
	defer cancel()
	transport := &http.Transport{MaxIdleConnsPerHost: connections}
	defer transport.CloseIdleConnections()

	payload := strings.Repeat("x", body)
	var mu sync.Mutex
	var all []time.Duration
	failures := 0
	start := time.Now()
	var clients sync.WaitGroup
	for range connections {
		clients.Go(func() {
			var took []time.Duration
			failed := 0
			for ctx.Err() == nil {
				began := time.Now()
				if err := call(ctx, transport, url, payload); err == nil {
					took = append(took, time.Since(began))
				} else if ctx.Err() == nil {
					failed++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			failures += failed
		})
	}
	clients.Wait()
	if len(all) == 0 {
		return result{failures: failures}, nil
	}
	slices.Sort(all)
	return result{
		requests: len(all),
		failures: failures,
		rate:     float64(len(all)) / time.Since(start).Seconds(),
		p50:      all[len(all)/2],
		p99:      all[len(all)*99/100],
	}, nil
}

func call(ctx context.Context, transport *http.Transport, url, payload string) error {
	method := http.MethodGet
	if payload != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(payload))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", res.Status)
	}
	return nil
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// A result is one measurement.
type result struct {
	requests int
	failures int
	rate     float64       // requests per second
	cpu      time.Duration // of the proxy, per request
	p50, p99 time.Duration
}

// gatewayLimit is what the whole request path may cost, as a part of what the
// bare proxy costs.
const gatewayLimit = 0.95

// benchGateway measures the proxies in turn, so that what else the machine does
// hits all of them, and prints their medians.
func benchGateway(out io.Writer, o options) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return fmt.Errorf("make a directory for the socket: %w", err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")

	upstream, err := startRole("upstream", socket)
	if err != nil {
		return err
	}
	defer upstream.stop()
	roles := []string{"bare", "pooled", "gateway"}
	proxies := map[string]*role{}
	for _, name := range roles {
		if proxies[name], err = startRole(name, socket); err != nil {
			return err
		}
		defer proxies[name].stop()
	}

	load, generator := generateLoad()
	results := map[string][]result{}
	for round := range o.rounds + 1 {
		for _, name := range roles {
			duration := o.duration
			if round == 0 {
				duration = min(duration, time.Second) // warm up; does not count
			}
			r, err := measure(proxies[name], load, o, duration)
			if err != nil {
				return fmt.Errorf("measure %s: %w", name, err)
			}
			if r.failures > 0 && name == "gateway" { // the others lose one of large bodies at times
				return fmt.Errorf("measure %s: %d of %d requests failed", name, r.failures, r.requests)
			}
			if round > 0 {
				results[name] = append(results[name], r)
			}
		}
	}

	bare := median(results["bare"])
	ratio := func(r result) float64 { return float64(r.cpu) / float64(bare.cpu) }
	what := "GET of 26 bytes"
	if o.body > 0 {
		what = fmt.Sprintf("POST of %d bytes, echoed,", o.body)
	}
	fmt.Fprintf(out, "%s from a Go server on a Unix socket; load by %s, %d connections; medians of %d × %s; %d CPUs, %s\n\n",
		what, generator, o.connections, o.rounds, o.duration, runtime.NumCPU(), runtime.Version())
	fmt.Fprintf(out, "| proxy | CPU per request | ratio | requests/s | p50 | p99 |\n|---|---|---|---|---|---|\n")
	for _, row := range []struct{ role, title string }{
		{"bare", "bare httputil.ReverseProxy, http.Transport"},
		{"pooled", "the same with a BufferPool"},
		{"gateway", "gateway: routing, token, call id, metrics, limits"},
	} {
		r := median(results[row.role])
		fmt.Fprintf(out, "| %s | %s | %.2f | %.0f | %s | %s |\n", row.title, micros(r.cpu), ratio(r), r.rate, micros(r.p50), micros(r.p99))
	}
	if got := ratio(median(results["gateway"])); got > gatewayLimit {
		return fmt.Errorf("the gateway costs %.2f of the bare proxy, which is more than %.2f", got, gatewayLimit)
	}
	return nil
}

func micros(d time.Duration) string {
	return fmt.Sprintf("%.1f µs", float64(d)/float64(time.Microsecond))
}

func median(all []result) result {
	slices.SortFunc(all, func(a, b result) int { return int(a.cpu - b.cpu) })
	return all[len(all)/2]
}

func measure(proxy *role, load loadFunc, o options, duration time.Duration) (result, error) {
	before, err := proxy.ask()
	if err != nil {
		return result{}, err
	}
	r, err := load("http://"+before.Address+"/function/echo", o.connections, o.body, duration)
	if err != nil {
		return result{}, err
	}
	after, err := proxy.ask()
	if err != nil {
		return result{}, err
	}
	if r.requests == 0 {
		return result{}, fmt.Errorf("no request was answered within %s", duration)
	}
	r.cpu = (after.CPU - before.CPU) / time.Duration(r.requests)
	return r, nil
}

// A role is a copy of this program that serves.
type role struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	reports *json.Decoder
	first   report
}

func startRole(name, socket string) (*role, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	r := &role{cmd: exec.Command(self, "serve", name, socket)}
	r.cmd.Stderr = os.Stderr
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	r.reports = json.NewDecoder(stdout)
	if err := r.reports.Decode(&r.first); err != nil {
		r.stop()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return r, nil
}

// ask returns what the role has used so far.
func (r *role) ask() (report, error) {
	if _, err := io.WriteString(r.in, "0\n"); err != nil {
		return report{}, fmt.Errorf("ask for a report: %w", err)
	}
	var now report
	if err := r.reports.Decode(&now); err != nil {
		return report{}, fmt.Errorf("read a report: %w", err)
	}
	return now, nil
}

func (r *role) stop() {
	r.in.Close()
	_ = r.cmd.Wait() // its standard error was shown
}

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// What Python functions are held to.
const (
	flaskFactor = 5.0                   // requests per second, as a multiple of Flask's
	poolLimit   = 45 * time.Microsecond // processor time per request of watchdog and workers
	pythonLimit = 20 * time.Microsecond // of which the workers'
	poolWorkers = 2
	echoBody    = 5 // bytes, as proxies are usually compared with
)

// benchPython measures one handler in Python, behind the gateway and a pool of
// workers, behind Flask, waitress and a reverse proxy, and behind the pool
// alone. Both run on the same interpreter.
func benchPython(out io.Writer, o options) error {
	w, err := openWorkshop(o)
	if err != nil {
		return err
	}
	defer w.close()
	version, err := w.pythonVersion()
	if err != nil {
		return err
	}

	flaskSocket, poolSocket := filepath.Join(w.dir, "flask.sock"), filepath.Join(w.dir, "pool.sock")
	flask, err := startServer(exec.Command(w.interpreter, filepath.Join(w.dir, "flask_waitress.py"), filepath.Join(w.dir, "echo"), flaskSocket), flaskSocket, "/")
	if err != nil {
		return err
	}
	defer flask.stop()
	workers := []string{fmt.Sprintf("workers=%d", poolWorkers), fmt.Sprintf("workers_min=%d", poolWorkers)}
	behind, err := w.startPool("echo", poolSocket, workers...)
	if err != nil {
		return err
	}
	defer behind.stop()
	alone, err := w.startPool("echo", "", workers...)
	if err != nil {
		return err
	}
	defer alone.stop()
	for _, s := range []*server{flask, behind, alone} {
		if err := s.echoes("/"); err != nil {
			return err
		}
	}
	proxy, err := startRole("bare", flaskSocket)
	if err != nil {
		return err
	}
	defer proxy.stop()
	gateway, err := startRole("gateway-to-pool", poolSocket)
	if err != nil {
		return err
	}
	defer gateway.stop()

	at := func(r *role) string { return "http://" + r.first.Address + "/function/echo" }
	peers := []*peer{
		{title: "Flask and waitress behind `httputil.ReverseProxy`", url: at(proxy), front: proxy.cmd.Process.Pid, python: flask.pid()},
		{title: fmt.Sprintf("gateway and pool, %d workers", poolWorkers), url: at(gateway), front: gateway.cmd.Process.Pid, pool: behind.pid()},
		{title: fmt.Sprintf("pool without the gateway, %d workers", poolWorkers), url: alone.url, pool: alone.pid()},
	}
	o.body = cmp.Or(o.body, echoBody)
	generator, err := measurePeers(peers, o)
	if err != nil {
		return err
	}

	fmt.Fprintf(out, "A handler that echoes a POST of %d bytes; %s on both sides; access logs to /dev/null; load by %s, %d connections; medians of %d × %s; %d CPUs, %s\n\n",
		o.body, version, generator, o.connections, o.rounds, o.duration, runtime.NumCPU(), runtime.Version())
	fmt.Fprintf(out, "| server | requests/s | ratio | CPU per request, all | of which Python | p50 | p99 |\n|---|---|---|---|---|---|---|\n")
	slow := peers[0].median().rate
	for _, p := range peers {
		m := p.median()
		fmt.Fprintf(out, "| %s | %.0f | %.2f | %s | %s | %s | %s |\n", p.title, m.rate, m.rate/slow, micros(m.cpu), micros(m.python), micros(m.p50), micros(m.p99))
	}
	fmt.Fprintf(out, "\nBounds: gateway and pool at least %.0f times Flask; without the gateway at most %s per request, of which Python %s.\n", flaskFactor, micros(poolLimit), micros(pythonLimit))

	var missed []error
	if factor := peers[1].median().rate / slow; factor < flaskFactor {
		missed = append(missed, fmt.Errorf("gateway and pool answer %.2f times as many requests as Flask, which is less than %.0f", factor, flaskFactor))
	}
	if m := peers[2].median(); m.cpu > poolLimit || m.python > pythonLimit {
		missed = append(missed, fmt.Errorf("a request of the pool costs %s, of which Python %s, and may cost %s and %s",
			micros(m.cpu), micros(m.python), micros(poolLimit), micros(pythonLimit)))
	}
	return errors.Join(missed...)
}

// A peer is a way to serve a function, made of processes.
type peer struct {
	title, url string
	front      int // process in front; 0 for none
	pool       int // an fwatchdog, with its workers below; 0 for none
	python     int // a single process of Python; 0 for none
	results    []cost
}

// A cost is a result, whose cpu is that of all processes.
type cost struct {
	result
	python time.Duration // per request, of Python alone
}

// measurePeers fills the results, measuring the peers in turn, so that what
// else the machine does hits all of them. It returns the name of the load's
// generator.
func measurePeers(peers []*peer, o options) (string, error) {
	load, generator := generateLoad()
	for round := range o.rounds + 1 {
		for _, p := range peers {
			duration := o.duration
			if round == 0 {
				duration = min(duration, time.Second) // warm up; does not count
			}
			r, err := p.measure(load, o, duration)
			if err != nil {
				return "", fmt.Errorf("measure %s: %w", p.title, err)
			}
			if round > 0 {
				p.results = append(p.results, r)
			}
		}
	}
	return generator, nil
}

func (p *peer) measure(load loadFunc, o options, duration time.Duration) (cost, error) {
	allBefore, pythonBefore, err := p.used()
	if err != nil {
		return cost{}, err
	}
	r, err := load(p.url, o.connections, o.body, duration)
	if err != nil {
		return cost{}, err
	}
	all, python, err := p.used()
	if err != nil {
		return cost{}, err
	}
	switch {
	case r.requests == 0:
		return cost{}, fmt.Errorf("no request was answered within %s", duration)
	case r.failures > 0:
		return cost{}, fmt.Errorf("%d of %d requests failed", r.failures, r.requests)
	}
	r.cpu = (all - allBefore) / time.Duration(r.requests)
	return cost{result: r, python: (python - pythonBefore) / time.Duration(r.requests)}, nil
}

// used is the processor time of all processes so far, and of those in Python.
func (p *peer) used() (all, python time.Duration, err error) {
	for _, pid := range []int{p.front, p.pool, p.python} {
		if pid == 0 {
			continue
		}
		own, below, err := treeTime(pid)
		if err != nil {
			return 0, 0, err
		}
		all += own + below
		if pid == p.python {
			python += own
		}
		python += below
	}
	return all, python, nil
}

// median is the result with the median rate.
func (p *peer) median() cost {
	slices.SortFunc(p.results, func(a, b cost) int { return cmp.Compare(a.rate, b.rate) })
	return p.results[len(p.results)/2]
}

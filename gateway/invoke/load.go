package invoke

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// A LoadReporter tells the provider how many requests each replica is
// answering, so that those with little to do are the first to go when a
// function is scaled down.
type LoadReporter struct {
	// Gateway names this gateway among several.
	Gateway string
	Client  *http.Client
	URL     *url.URL // the provider's
	Table   *Table
	Log     *slog.Logger
}

const (
	// loadPause is the shortest time between two reports.
	loadPause = time.Second
	// loadRepeat is the longest while anything is in flight: the provider
	// forgets what a gateway reported after a while.
	loadRepeat = 4 * time.Second
	// loadTimeout bounds one report.
	loadTimeout = 5 * time.Second
	// loadUnwanted is for how long a provider that knows no reports is left
	// alone.
	loadUnwanted = 5 * time.Minute
)

// Run reports changes until ctx ends, and returns nil then.
func (l *LoadReporter) Run(ctx context.Context) error {
	tick := time.NewTicker(loadPause)
	defer tick.Stop()
	last := []function.Load{} // as the provider knows it
	var sent, unwanted time.Time
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now, load := time.Now(), l.Table.load()
		fresh := reflect.DeepEqual(load, last) && (len(load) == 0 || now.Sub(sent) < loadRepeat)
		if fresh || now.Before(unwanted) {
			continue
		}
		status, err := l.send(ctx, function.LoadReport{Gateway: l.Gateway, Functions: load})
		switch {
		case err != nil:
			l.Log.Debug("the provider does not take the report of load", "err", err)
		case status == http.StatusNotFound, status == http.StatusMethodNotAllowed, status == http.StatusNotImplemented:
			unwanted = now.Add(loadUnwanted)
		case status >= 300:
			l.Log.Debug("the provider does not take the report of load", "status", status)
		default:
			last, sent = load, now
		}
	}
}

func (l *LoadReporter) send(ctx context.Context, report function.LoadReport) (status int, err error) {
	text, err := json.Marshal(report)
	if err != nil {
		return 0, err // unreachable: it consists of texts and numbers
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.URL.JoinPath("load").String(), bytes.NewReader(text))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.Client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096)) // lets the connection be used again
	return resp.StatusCode, nil
}

// load returns how many requests each replica is answering, of the functions
// that answer any, in the order of their names.
func (t *Table) load() []function.Load {
	all := []function.Load{}
	for r := range t.all() {
		if r.inflight.count() == 0 {
			continue
		}
		f := function.Load{Ref: r.ref, Replicas: map[string]int{}}
		r.mu.Lock()
		for _, rep := range r.replicas {
			if n := rep.inflight.Load(); n > 0 {
				f.Replicas[rep.ID] = int(n)
			}
		}
		r.mu.Unlock()
		if len(f.Replicas) > 0 {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b function.Load) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}

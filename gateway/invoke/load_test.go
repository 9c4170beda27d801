package invoke

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// reports is a provider that keeps the reports of load that it gets.
type reports struct {
	status int

	mu  sync.Mutex
	all []string
}

func (r *reports) RoundTrip(req *http.Request) (*http.Response, error) {
	text, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, req.Method+" "+req.URL.String()+" "+string(text))
	return &http.Response{StatusCode: r.status, Body: io.NopCloser(strings.NewReader("")), Header: http.Header{}}, nil
}

// since returns the reports that came since it was asked last.
func (r *reports) since() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// whileReporting runs f in virtual time, with a table whose load is reported.
func whileReporting(t *testing.T, to *reports, f func(*testing.T, *Table)) {
	t.Helper()
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		l := &LoadReporter{
			Gateway: "g1", Client: &http.Client{Transport: to}, Table: table, Log: slog.New(slog.DiscardHandler),
			URL: &url.URL{Scheme: "http", Host: "provider"},
		}
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() {
			if err := l.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		f(t, table)
		cancel()
		run.Wait()
	})
}

func TestTheProviderHearsOfLoadWhenItChangesAndWhileThereIsAny(t *testing.T) {
	to := &reports{status: http.StatusNoContent}
	whileReporting(t, to, func(t *testing.T, table *Table) {
		const none = `POST http://provider/load {"gateway":"g1","functions":[]}`
		const one = `POST http://provider/load {"gateway":"g1","functions":[{"name":"echo","namespace":"openfaas-fn","replicas":{"a":1}}]}`
		expect := func(when string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, to.since()); diff != "" {
				t.Errorf("%s (-want +got)\n%s", when, diff)
			}
		}
		table.Set(replicas(true, 1, "a"))
		time.Sleep(10*time.Second + time.Millisecond)
		expect("nothing in flight")

		r := routeOf(t, table)
		g := mustAcquire(t, r)
		time.Sleep(1500 * time.Millisecond)
		expect("a call", one)
		time.Sleep(9 * time.Second)
		expect("the same call, still there", one, one)

		r.release(g.replica)
		time.Sleep(10 * time.Second)
		expect("nothing in flight again", none)
	})
}

func TestAProviderThatWantsNoLoadIsLeftAlone(t *testing.T) {
	to := &reports{status: http.StatusNotFound}
	whileReporting(t, to, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 1, "a"))
		mustAcquire(t, routeOf(t, table))
		time.Sleep(loadUnwanted)
		if got := to.since(); len(got) != 1 {
			t.Errorf("%d reports in five minutes, want one", len(got))
		}
	})
}

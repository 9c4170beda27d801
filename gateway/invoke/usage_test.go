package invoke

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
)

// startUsage measures until the test ends.
func startUsage(t *testing.T, u *Usage) {
	t.Helper()
	u.Log = testkit.Log(t)
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = u.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		run.Wait()
	})
}

// learn waits until it is known what echo uses.
func learn(t *testing.T, u *Usage) float64 {
	t.Helper()
	for {
		if milliCPU, known := u.CPU(echo); known {
			return milliCPU
		}
		select {
		case <-t.Context().Done():
			t.Fatal("it is never known")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestWhatReplicasUseIsAddedUp(t *testing.T) {
	began := time.Now()
	using := func(cores float64) *instance {
		return startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/_/metrics" {
				t.Errorf("a function was asked for %s", r.URL.Path)
			}
			fmt.Fprintf(w, "# HELP function_cpu_seconds_total Time.\n# TYPE function_cpu_seconds_total counter\nfunction_cpu_seconds_total %g\npool_waiting 0\n", cores*time.Since(began).Seconds())
		}))
	}
	table := startTable(t, TableOptions{})
	table.Set(endpoints(using(0.5), using(0.25)))
	u := &Usage{Table: table}
	startUsage(t, u)
	if got := learn(t, u); math.Abs(got-750) > 75 {
		t.Errorf("half a core and a quarter are %v thousandths", got)
	}
}

func TestTheProviderMeasuresWhatDoesNotSayWhatItUses(t *testing.T) {
	foreign := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))
	table := startTable(t, TableOptions{})
	table.Set(endpoints(foreign))
	u := &Usage{Table: table, Provider: func(_ context.Context, ref function.Ref) (float64, bool) { return 321, ref == echo }}
	startUsage(t, u)
	if got := learn(t, u); got != 321 {
		t.Errorf("got %v, want what the provider says", got)
	}
}

func TestMetricsOfStrangersAreReadWithCare(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"function_cpu_seconds_total 1.5\n":                    1500 * time.Millisecond,
		"a 1\nfunction_cpu_seconds_total 2e1\nb 2\n":          20 * time.Second,
		"function_cpu_seconds_total 0":                        0,
		"function_cpu_seconds_total -1\n":                     -1,
		"function_cpu_seconds_total NaN\n":                    -1,
		"function_cpu_seconds_total 1e300\n":                  -1,
		"process_cpu_seconds_total 1\n":                       -1,
		strings.Repeat("x", 100<<10) + "\nfunction_cpu_secon": -1,
		"": -1,
	} {
		got, err := readUsage(strings.NewReader(text))
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%.60q is %v, %v; want %v", text, got, err, want)
		}
	}
}

func FuzzReadUsage(f *testing.F) {
	f.Add("function_cpu_seconds_total 1.5\n")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := readUsage(strings.NewReader(text)); got < 0 && err == nil {
			t.Errorf("%q is %v", text, got)
		}
	})
}

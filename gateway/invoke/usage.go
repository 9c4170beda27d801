package invoke

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// A Usage knows what functions use of processors, of those that somebody asks
// about. Our watchdogs say it themselves; for replicas of which one does not,
// the provider is asked.
type Usage struct {
	Table *Table
	// Provider measures what all replicas of a function use together, in
	// thousandths of a core. It reports false where it cannot; nil cannot.
	Provider func(ctx context.Context, ref function.Ref) (milliCPU float64, known bool)
	Log      *slog.Logger

	mu    sync.Mutex // guards what follows
	asked map[function.Ref]*used
}

// used is what is known of one function.
type used struct {
	asked    time.Time // for the last time
	at       time.Time // of milliCPU; zero: never known
	milliCPU float64
	replicas map[string]spent // by id
}

// spent is the processor time of a replica at one moment.
type spent struct {
	at    time.Time
	total time.Duration
}

const (
	usagePause = time.Second // between two measurements
	// usageAge is for how long a measurement is good.
	usageAge = 3 * time.Second
	// usageWanted is for how long a function is measured that nobody asks about
	// any more.
	usageWanted = 10 * time.Second
	// usageTimeout bounds one question.
	usageTimeout = time.Second
	// usageAtOnce bounds how many functions are measured at a time.
	usageAtOnce = 16
)

// The metric by which our watchdogs tell their processor time, in seconds, and
// where they do on replicas that have a network address.
const (
	usageMetric = "function_cpu_seconds_total "
	usagePort   = "8081"
)

// CPU returns what all replicas of ref use together, in thousandths of a core.
// It does not wait: who asks first learns nothing, and has the function
// measured.
func (u *Usage) CPU(ref function.Ref) (milliCPU float64, known bool) {
	now := time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	f, ok := u.asked[ref]
	if !ok {
		if u.asked == nil {
			u.asked = map[function.Ref]*used{}
		}
		f = &used{replicas: map[string]spent{}}
		u.asked[ref] = f
	}
	f.asked = now
	return f.milliCPU, !f.at.IsZero() && now.Sub(f.at) <= usageAge
}

// Run measures until ctx ends, and returns nil then.
func (u *Usage) Run(ctx context.Context) error {
	client := &http.Client{Timeout: usageTimeout, Transport: &http.Transport{DialContext: u.Table.o.Dial, MaxIdleConnsPerHost: 1, IdleConnTimeout: 2 * usageWanted}}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(usagePause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var all sync.WaitGroup
		room := make(chan struct{}, usageAtOnce)
		for ref, f := range u.wanted(time.Now()) {
			room <- struct{}{}
			all.Go(func() {
				defer func() { <-room }()
				u.measure(ctx, client, ref, f)
			})
		}
		all.Wait()
	}
}

// wanted returns the functions to measure, and forgets those that nobody asks
// about.
func (u *Usage) wanted(now time.Time) map[function.Ref]*used {
	u.mu.Lock()
	defer u.mu.Unlock()
	some := map[function.Ref]*used{}
	for ref, f := range u.asked {
		if now.Sub(f.asked) > usageWanted {
			delete(u.asked, ref)
			continue
		}
		some[ref] = f
	}
	return some
}

// measure finds out what one function uses. Only Run touches f.replicas.
func (u *Usage) measure(ctx context.Context, client *http.Client, ref function.Ref, f *used) {
	milliCPU, known := u.ofReplicas(ctx, client, ref, f)
	if !known && u.Provider != nil {
		ctx, cancel := context.WithTimeout(ctx, usageTimeout)
		defer cancel()
		milliCPU, known = u.Provider(ctx, ref)
	}
	if !known {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	f.milliCPU, f.at = milliCPU, time.Now()
}

// ofReplicas adds up what the replicas of ref have used since they were asked
// before. It is not known while one of them says nothing; one that is asked for
// the first time counts as the mean of the others.
func (u *Usage) ofReplicas(ctx context.Context, client *http.Client, ref function.Ref, f *used) (milliCPU float64, known bool) {
	found, ok := u.Table.routes.Load(ref.String())
	if !ok {
		return 0, false
	}
	usable := found.(*route).view.Load().usable
	before := f.replicas
	f.replicas = make(map[string]spent, len(usable))
	counted := 0
	for _, rep := range usable {
		now, err := u.ask(ctx, client, rep)
		if err != nil {
			u.Log.Debug("a replica does not say what it uses of processors", "function", ref, "replica", rep.ID, "err", err)
			return 0, false
		}
		f.replicas[rep.ID] = now
		if last, ok := before[rep.ID]; ok && now.at.After(last.at) && now.total >= last.total {
			milliCPU += 1000 * float64(now.total-last.total) / float64(now.at.Sub(last.at))
			counted++
		}
	}
	if counted == 0 {
		return 0, len(usable) == 0
	}
	return milliCPU * float64(len(usable)) / float64(counted), true
}

// ask asks one replica for the processor time it has used.
func (u *Usage) ask(ctx context.Context, client *http.Client, rep *replica) (spent, error) {
	ctx, cancel := context.WithTimeout(ctx, usageTimeout)
	defer cancel()
	network, address, _ := strings.Cut(rep.Address, ":")
	url, get := "http://replica/_/metrics", rep.transport.RoundTrip
	if network == "tcp" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return spent{}, fmt.Errorf("its address: %w", err)
		}
		url, get = "http://"+net.JoinHostPort(host, usagePort)+"/metrics", client.Do
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return spent{}, err
	}
	res, err := get(req)
	if err != nil {
		return spent{}, err
	}
	defer res.Body.Close()
	at := time.Now()
	total, err := readUsage(io.LimitReader(res.Body, maxMetrics))
	return spent{at, total}, err
}

// maxMetrics bounds the metrics of one replica, in bytes.
const maxMetrics = 1 << 20

// readUsage finds the processor time in a replica's metrics.
func readUsage(metrics io.Reader) (time.Duration, error) {
	lines := bufio.NewScanner(metrics)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), usageMetric)
		if !ok {
			continue
		}
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || !(seconds >= 0 && seconds < 1e9) {
			return 0, fmt.Errorf("the metric %q is %q", usageMetric, text)
		}
		return time.Duration(seconds * float64(time.Second)), nil
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("no metric %q", usageMetric)
}

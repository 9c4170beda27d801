package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// Main runs this process as a function and returns its exit status. A Go
// function is
//
//	func main() { os.Exit(watchdog.Main(http.HandlerFunc(function.Handle))) }
//
// and a nil handler runs what the environment names instead. Main stands in
// for the function's own main: it alone in this package reads the process's
// environment and takes its signals. SIGTERM or an interrupt drains; a second
// one ends the process at once.
func Main(h http.Handler) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	o, err := FromEnviron(os.Environ())
	if err == nil {
		if h != nil {
			o.Mode, o.Handler = InProcess, h
		}
		o.Adopt = h == nil
		o.Environ = absolutePythonPath(o.Environ)
		o.Stdout, o.Stderr = os.Stdout, os.Stderr
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		err = run(ctx, o)
	}
	if err != nil {
		report(os.Stderr, err)
		return 1
	}
	return 0
}

func run(ctx context.Context, o Options) error {
	wd, err := New(o)
	if err != nil {
		return err
	}
	if o.Mode == Pool {
		runtime.GOMAXPROCS(poolShare(runtime.GOMAXPROCS(0)))
	}
	return wd.Run(ctx)
}

// poolShare is how many of the processors that a pool can use its watchdog
// uses. Even the shortest calls spend a third of their time in Python, but Go
// wakes a thread for whatever it could do at the same time, and that thread
// would be in a worker's way: where there are two processors, a pool answers a
// tenth more calls if one of them is left to the workers.
func poolShare(processors int) int { return max(1, processors*3/4) }

func report(w io.Writer, err error) { fmt.Fprintf(w, "watchdog: %v\n", err) }

// Healthcheck asks the watchdog that listens where the environment says
// whether it is healthy, for container images that want a command for it. It
// returns the exit status: 0 for healthy.
func Healthcheck() int {
	o, err := FromEnviron(os.Environ())
	if err == nil {
		err = checkHealth(context.Background(), &o)
	}
	if err != nil {
		report(os.Stderr, err)
		return 1
	}
	return 0
}

func checkHealth(ctx context.Context, o *Options) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://function/_/health", nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{DialContext: o.dial}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("check health: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New("check health: " + res.Status)
	}
	return nil
}

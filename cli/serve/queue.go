package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// A queue is the queue of asynchronous calls with everything behind it: a NATS
// server without a port, in this process, and a connection to it.
type queue struct {
	*async.Queue
	server *server.Server
	conn   *nats.Conn
	space  *space
}

// QueueSync says when what the queue accepts is forced onto the disk: at once
// ("always"), or every so often. It changes what a power cut can take away; a
// killed process loses nothing either way.
type QueueSync struct {
	Always   bool
	Interval time.Duration
}

// UnmarshalText reads "always" or a time span.
func (s *QueueSync) UnmarshalText(text []byte) error {
	if string(text) == "always" {
		*s = QueueSync{Always: true}
		return nil
	}
	var d function.Duration
	if err := d.UnmarshalText(text); err != nil || d == 0 {
		return fmt.Errorf("want always, or a time span such as 2m")
	}
	*s = QueueSync{Interval: d.Std()}
	return nil
}

// startTimeout bounds how long the server takes to read what it has stored.
const startTimeout = 5 * time.Minute

// openQueue starts the queue with its files in dir.
func openQueue(ctx context.Context, dir string, o Options, meter async.Meter) (*queue, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the queue: %w", err)
	}
	disk := &space{dir: dir, reserve: int64(o.QueueReserve)}
	s, err := server.NewServer(&server.Options{
		ServerName:   "graphene",
		DontListen:   true,
		NoSigs:       true,
		NoLog:        true,
		JetStream:    true,
		StoreDir:     dir,
		MaxPayload:   8 << 20,
		SyncInterval: o.QueueSync.Interval,
		SyncAlways:   o.QueueSync.Always,
		// The disk is watched here, with an answer that callers understand.
		JetStreamMaxStore:  1 << 50,
		JetStreamMaxMemory: 1 << 30,
	})
	if err != nil {
		return nil, fmt.Errorf("start the queue: %w", err)
	}
	s.SetLoggerV2(natsLog{o.Log}, false, false, false)
	q := &queue{server: s, space: disk}
	s.Start()
	if !s.ReadyForConnections(startTimeout) {
		return nil, errors.Join(fault.Unavailable.Errorf("the queue in %s does not start", dir), q.Close())
	}
	if q.conn, err = nats.Connect("", nats.InProcessServer(s), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond)); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the queue: %w", err), q.Close())
	}
	maxBytes, keepBytes, err := disk.divide(int64(o.QueueMaxBytes), int64(o.QueueKeepBytes))
	if err != nil {
		return nil, errors.Join(err, q.Close())
	}
	if maxBytes < int64(o.QueueMaxBytes) || keepBytes < int64(o.QueueKeepBytes) {
		o.Log.Info("the queue takes less than it may, since the disk has no more", "waiting_mb", maxBytes>>20, "kept_mb", keepBytes>>20)
	}
	q.Queue, err = async.Open(ctx, q.conn, async.Options{
		MaxBacklog: int64(o.QueueMaxBacklog),
		MaxBytes:   maxBytes,
		KeepBytes:  keepBytes,
		MaxBody:    int64(o.QueueMaxBody),
		MaxRecords: int64(o.QueueMaxResults),
		ResultAge:  o.QueueResultAge.Std(),
		Room:       disk.check,
		Meter:      meter,
		Log:        o.Log,
	})
	if err != nil {
		return nil, errors.Join(err, q.Close())
	}
	return q, nil
}

// worker returns the worker, which calls functions through gateway, in this
// process. address is where others reach the gateway.
func (q *queue) worker(o Options, gateway http.RoundTripper, address string, tracer *trace.Tracer) (*async.Worker, error) {
	w := async.WorkerOptions{
		Name:    "*",
		Gateway: gateway,
		URL:     &url.URL{Scheme: "http", Host: "gateway"},
		Queued:  invoke.HeaderQueued, Submitter: invoke.HeaderSubmitter,
		MaxInflight:    o.QueueMaxInflight,
		MaxPerFunction: o.QueueMaxPerFunction,
		Drain:          o.Drain.Std(),
		Tracer:         tracer,
	}
	// The names under which functions' callbacks know the gateway: its own
	// address, and those of OpenFaaS installations.
	_, port, _ := strings.Cut(strings.TrimPrefix(address, "http://"), ":")
	w.Callback.Gateways = []string{"127.0.0.1:" + port, "localhost:" + port, "gateway:8080", "gateway.openfaas:8080"}
	for text := range strings.SplitSeq(o.QueueCallbackPermit, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fault.Invalid.Errorf("callbacks may go to %q: want networks such as 10.0.0.0/8, separated by commas", text)
		}
		w.Callback.Permit = append(w.Callback.Permit, prefix)
	}
	if o.QueueCallbackSecret != "" {
		secret, err := os.ReadFile(o.QueueCallbackSecret)
		if err != nil {
			return nil, fault.Invalid.Errorf("secret that signs callbacks: %w", err)
		}
		w.Callback.Secret = []byte(strings.TrimSpace(string(secret)))
	}
	return async.NewWorker(q.Queue, w), nil
}

// Close ends the connection and the server, which writes what it still holds.
func (q *queue) Close() error {
	if q.conn != nil {
		q.conn.Close()
	}
	q.server.Shutdown()
	q.server.WaitForShutdown()
	return nil
}

// A space watches how much is left on the disk of a directory.
type space struct {
	dir     string
	reserve int64

	mu   sync.Mutex
	seen time.Time
	free int64
}

// spaceAge is for how long a look at the disk is good.
const spaceAge = 250 * time.Millisecond

// check returns an error of kind fault.Unavailable if less than the reserve is
// left: JetStream stops working altogether on a disk that is full.
func (s *space) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.seen) > spaceAge {
		free, err := freeSpace(s.dir)
		if err != nil {
			return fault.Unavailable.Errorf("the disk of the queue cannot be looked at: %w", err)
		}
		s.free, s.seen = free, now
	}
	if s.free < s.reserve {
		return fault.Unavailable.Errorf("the disk of the queue has %d MB left, and %d MB are kept free", s.free>>20, s.reserve>>20)
	}
	return nil
}

// leastShare is what a queue is allowed on the fullest disk, in bytes: the
// reserve stops it before.
const leastShare = 64 << 20

// divide returns how many bytes calls that wait, and those that have ended, may
// take: what was asked for, but each no more than half of what the disk has for
// the queue, with what it takes already and without the reserve.
func (s *space) divide(waiting, kept int64) (int64, int64, error) {
	free, err := freeSpace(s.dir)
	if err != nil {
		return 0, 0, fmt.Errorf("look at the disk of the queue: %w", err)
	}
	var used int64
	err = filepath.WalkDir(s.dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		// A file that has just gone takes nothing.
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			used += info.Size()
		}
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("look at what the queue has stored: %w", err)
	}
	most := max(leastShare, (free+used-s.reserve)/2)
	return min(waiting, most), min(kept, most), nil
}

// natsLog carries what the server says into the platform's log.
type natsLog struct{ log *slog.Logger }

const natsSays = "the queue's server reports"

func (l natsLog) Noticef(format string, v ...any) { l.Debugf(format, v...) }
func (l natsLog) Warnf(format string, v ...any) {
	l.log.Warn(natsSays, "text", fmt.Sprintf(format, v...))
}
func (l natsLog) Fatalf(format string, v ...any) { l.Errorf(format, v...) }
func (l natsLog) Errorf(format string, v ...any) {
	l.log.Error(natsSays, "text", fmt.Sprintf(format, v...))
}
func (l natsLog) Debugf(format string, v ...any) {
	l.log.Debug(natsSays, "text", fmt.Sprintf(format, v...))
}
func (l natsLog) Tracef(string, ...any) {}

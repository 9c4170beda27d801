package watchdog

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"
)

// A Mode says how requests become answers.
type Mode string

const (
	HTTP        Mode = "http"        // a child process that is an HTTP server; requests are proxied to it
	Streaming   Mode = "streaming"   // a process for each call; what it prints is the answer, as it prints it
	Serializing Mode = "serializing" // a process for each call; the answer is sent when it has ended well
	Classic     Mode = "classic"     // as Serializing, with the habits of OpenFaaS's first watchdog
	Static      Mode = "static"      // files of a directory
	InProcess   Mode = "inproc"      // a Go handler in this process
	Pool        Mode = "pool"        // Python workers forked from one process that has loaded the function
)

// Options configure a [Watchdog]. [FromEnviron] fills them from the environment
// with the documented defaults; a zero value here means what its comment says.
type Options struct {
	Mode    Mode
	Handler http.Handler // answers in mode [InProcess]

	Process    []string // program and arguments; modes that have a child
	Environ    []string // the child's environment
	Upstream   *url.URL // where the child listens; mode [HTTP]
	StaticPath string   // directory to serve; mode [Static]

	Listener net.Listener // where to accept; nil means Listen
	Listen   string       // "unix:PATH" or "tcp:HOST:PORT"
	PeerUID  *int         // on a Unix socket, accept only this user, root, and our own; nil accepts everyone
	Metrics  string       // "HOST:PORT" for /metrics; empty serves them at /_/metrics of the main listener
	LockFile string       // exists while the watchdog is healthy; empty for none

	ReadTimeout  time.Duration // reading a request's body; zero: no bound but ExecTimeout
	WriteTimeout time.Duration // from the start of a call to the end of its answer; zero: no bound but ExecTimeout
	ExecTimeout  time.Duration // one call, after the function has loaded; zero: no bound
	DrainDelay   time.Duration // how long to go on accepting after being told to stop

	MaxInflight    int   // calls at the same time; more get 429. Zero: no limit
	MaxHeaderBytes int   // zero: 1 MiB
	MaxBody        int64 // bytes of a request's body; zero: no limit
	MaxBuffer      int64 // bytes of a body or an answer that must be held as a whole; zero: 64 MiB

	BufferBody  bool   // give the child a Content-Length even if the request has none; mode [HTTP]
	ContentType string // of answers in modes [Streaming] and [Serializing], and [Classic] if not empty
	Classic     ClassicOptions

	ReadyPath string // asked of the function to answer /_/ready; empty: the watchdog knows itself

	// FunctionTokens has callers show a token; nil lets everybody through, for
	// whom the platform has let through.
	FunctionTokens *FunctionTokens

	Workers WorkerOptions // mode [Pool]

	// Adopt makes processes that the function has started children of this one
	// when their own parent ends, where the system can do that. They are counted
	// with what else its workers have started, and reaped. It is for a process
	// that has no children but the function's.
	Adopt bool

	LifelineFD int // descriptor whose end means that the platform has died; zero: none

	PrefixLogs bool         // put time and stream before each line of the child's output
	LogBuffer  int          // longest line of output in bytes; zero: 64 KiB
	LogCallID  bool         // end access log lines and a pool's printed lines with the call id
	Stdout     io.Writer    // the child's standard output; nil discards
	Stderr     io.Writer    // the child's standard error and the access log; nil discards
	Log        *slog.Logger // what the watchdog itself has to say; nil discards
}

// ClassicOptions configure mode [Classic].
type ClassicOptions struct {
	CGIHeaders     bool // tell the process of the request by Http_ variables
	CombineOutput  bool // what the process prints as errors is part of the answer, and else goes to Stderr
	MarshalRequest bool // give the process headers and body as one JSON document
	WriteDebug     bool // log answers
	DebugHeaders   bool // log the headers of requests, but not what may be a secret
}

// WorkerOptions configure the processes of mode [Pool].
type WorkerOptions struct {
	Min, Max int // processes; zero: one, and one per usable processor

	// Threads each worker may use for numeric work. More than one means that
	// no worker can be forked from a loaded process, since the libraries'
	// thread pools do not survive a fork: each loads for itself. Zero: one.
	Threads int

	// Concurrent is how many calls or batches each worker answers at a time,
	// each in a Python thread of its own, or, if the handler is async, in a
	// task; an async handler without handle_batch answers AsyncCalls. Zero: one.
	Concurrent int

	MaxRequests  int           // a worker is replaced after as many; zero: never
	MaxAge       time.Duration // a worker is replaced when it is as old; zero: never
	MaxGrowth    int64         // bytes that a worker may grow beyond its size after its first calls until it is replaced; zero: no limit
	MaxMemory    int64         // bytes resident, shared pages included, beyond which a worker is replaced; zero: no limit
	MaxProcesses int           // processes and threads that a worker may have, with all that it has started; it is killed with more. Zero: no limit
	LoadTimeout  time.Duration // zero: ten minutes
	IdleTimeout  time.Duration // a worker above Min ends after as long without work; zero: one minute
	MaxQueue     int           // calls waiting for a worker; more get 429. Zero: 10,000
	BatchMax     int           // calls that handle_batch is given together; zero: 32
	BatchLatency time.Duration // what a call of a function with handle_batch should take; calls that would take longer get 429. Zero: no target
	AsyncCalls   int           // calls at the same time in one worker with an async handler; zero: 100

	HandlerDir string // directory holding handler.py; empty: "function"
	Style      string // "http", "model" or "classic"; empty: by the handler's signature
}

func (o WorkerOptions) withDefaults(processors int) WorkerOptions {
	setDefault(&o.Max, processors)
	setDefault(&o.Min, 1)
	o.Max = max(o.Max, o.Min)
	setDefault(&o.Threads, 1)
	setDefault(&o.Concurrent, 1)
	setDefault(&o.LoadTimeout, 10*time.Minute)
	setDefault(&o.IdleTimeout, time.Minute)
	setDefault(&o.MaxQueue, 10_000)
	setDefault(&o.AsyncCalls, 100)
	setDefault(&o.BatchMax, 32)
	setDefault(&o.HandlerDir, "function")
	return o
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// budget is how long one call may take: the shorter of the timeouts that are
// set. Zero means as long as it likes.
func (o *Options) budget() time.Duration {
	if o.WriteTimeout > 0 && (o.ExecTimeout == 0 || o.WriteTimeout < o.ExecTimeout) {
		return o.WriteTimeout
	}
	return o.ExecTimeout
}

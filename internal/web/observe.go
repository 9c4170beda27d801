package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"
)

// An Observation is what [Observe] learned about one request.
type Observation struct {
	Status   int   // as sent, or 200 if the handler wrote nothing
	Bytes    int64 // of the answer's body
	Duration time.Duration
}

// Observe runs next and then done, also when next panics. Writers that next
// sees keep what the server's own can do, by [http.ResponseController].
func Observe(next http.Handler, done func(r *http.Request, o Observation)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		defer func() {
			if rec.status == 0 {
				rec.status = http.StatusOK
			}
			done(r, Observation{Status: rec.status, Bytes: rec.bytes, Duration: time.Since(start)})
		}()
		next.ServeHTTP(rec, r)
	})
}

// AccessLog writes one line to log, at the level that level chooses, for each
// request that next has answered. The line holds what the platform chose and nothing a caller could
// smuggle in: no headers, no query, no body. Handlers add to it by [Annotate].
func AccessLog(log *slog.Logger, level func(*http.Request, Observation) slog.Level, next http.Handler) http.Handler {
	observed := Observe(next, func(r *http.Request, o Observation) {
		level := level(r, o)
		if !log.Enabled(r.Context(), level) {
			return
		}
		attrs := []slog.Attr{
			slog.String("method", r.Method),
			slog.String("path", r.URL.Path),
			slog.Int("status", o.Status),
			slog.Int64("bytes", o.Bytes),
			slog.Duration("duration", o.Duration),
			slog.String("call_id", CallID(r.Context())),
		}
		if added, ok := r.Context().Value(notesKey{}).(*notes); ok {
			attrs = append(attrs, added.attrs...)
		}
		log.LogAttrs(r.Context(), level, "request answered", attrs...)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		observed.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), notesKey{}, new(notes))))
	})
}

// Always is a level for [AccessLog].
func Always(level slog.Level) func(*http.Request, Observation) slog.Level {
	return func(*http.Request, Observation) slog.Level { return level }
}

// Changes is a level for [AccessLog]: what changed something, or failed, at
// info level, and what only looked, as programs do all the time, at debug
// level.
func Changes(r *http.Request, o Observation) slog.Level {
	if (r.Method == http.MethodGet || r.Method == http.MethodHead) && o.Status < 400 {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

type notesKey struct{}

type notes struct{ attrs []slog.Attr }

// Annotate adds attributes to the line that [AccessLog] writes for the request
// ctx belongs to. It is for the goroutine that handles the request.
func Annotate(ctx context.Context, attrs ...slog.Attr) {
	if n, ok := ctx.Value(notesKey{}).(*notes); ok {
		n.attrs = append(n.attrs, attrs...)
	}
}

// Recover answers 500 for a handler that panics, and logs the panic with its
// stack. [http.ErrAbortHandler] passes: it is how a handler cuts an answer
// short on purpose. So does a panic after the answer has begun, as the only
// honest end of a half-written answer is a broken connection.
func Recover(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(http.ErrAbortHandler)
			}
			logPanic(log, r, p)
			if rec.status != 0 {
				panic(http.ErrAbortHandler)
			}
			http.Error(w, internalText, http.StatusInternalServerError)
		}()
		next.ServeHTTP(rec, r)
	})
}

// logPanic writes p to log, with the stack of whoever recovered it.
func logPanic(log *slog.Logger, r *http.Request, p any) {
	log.Error("handler panicked", "method", r.Method, "path", r.URL.Path,
		"call_id", CallID(r.Context()), "err", fmt.Sprint(p), "stack", string(debug.Stack()))
}

// Bound limits how long a request to next may take to arrive and its answer
// to leave; 0 is no bound. It is for servers that also carry streams and so
// have no timeouts of their own.
func Bound(read, write time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		now := time.Now()
		// Writers that know no deadlines, such as those of tests, do without.
		if read > 0 && r.ContentLength != 0 {
			// Without a body the request has arrived, and what the server reads
			// now is whether the caller is still there: running out of time
			// would look as if they had left.
			_ = control.SetReadDeadline(now.Add(read))
		}
		if write > 0 {
			_ = control.SetWriteDeadline(now.Add(write))
		}
		next.ServeHTTP(w, r)
	})
}

// Unbound lifts what [Bound] set, for an answer that lasts as long as the
// caller listens.
func Unbound(w http.ResponseWriter) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Time{})
}

// A recorder remembers the status and counts the bytes that pass through it.
type recorder struct {
	http.ResponseWriter
	status int // 0 until the answer has begun
	bytes  int64
}

// Unwrap is how http.ResponseController finds the server's own writer.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) begin() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.begin()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom lets the server use sendfile.
func (w *recorder) ReadFrom(src io.Reader) (int64, error) {
	w.begin()
	n, err := io.Copy(w.ResponseWriter, src)
	w.bytes += n
	return n, err
}

// Flush is for handlers that ask for an http.Flusher by name.
func (w *recorder) Flush() {
	w.begin()
	_ = http.NewResponseController(w.ResponseWriter).Flush() // a writer that buffers nothing needs none
}

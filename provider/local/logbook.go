package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/openfaas/faas-provider/logs"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// What one function has printed takes at most this much space. The oldest
// segment is deleted when a new one begins.
const (
	segmentSize = 10 << 20
	segments    = 3
)

// logBooks are the logs of all functions.
type logBooks struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	books map[function.Ref]*logBook
}

func newLogBooks(dir string, log *slog.Logger) *logBooks {
	return &logBooks{dir: dir, log: log, books: map[function.Ref]*logBook{}}
}

// book returns the log of a function, which is made when it is first written to.
func (l *logBooks) book(ref function.Ref) *logBook {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, known := l.books[ref]
	if !known {
		b = newLogBook(filepath.Join(l.dir, ref.Namespace, ref.Name), segmentSize, l.log.With("function", ref))
		l.books[ref] = b
	}
	return b
}

// remove ends and deletes a function's log. Replicas that still run print into
// the void from then on.
func (l *logBooks) remove(ref function.Ref) error {
	l.mu.Lock()
	b, known := l.books[ref]
	delete(l.books, ref)
	l.mu.Unlock()
	if known {
		b.close()
	}
	return os.RemoveAll(filepath.Join(l.dir, ref.Namespace, ref.Name))
}

func (l *logBooks) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.books {
		b.close()
	}
}

// A logBook is what one function has printed: numbered files of lines, each
// with its time and the replica it came from. One goroutine at a time writes;
// any number read, and follow the writer from file to file.
type logBook struct {
	dir  string
	size int64 // of one segment
	log  *slog.Logger

	mu      sync.Mutex
	file    *os.File // nil until the first write
	number  int      // of the segment that is written, once there is one
	written int64    // bytes in it
	broken  bool     // the last write failed, and that was said
	closed  bool
	changed chan struct{} // closed, and replaced, at every change
}

func newLogBook(dir string, size int64, log *slog.Logger) *logBook {
	return &logBook{dir: dir, size: size, log: log, changed: make(chan struct{})}
}

// write adds a line. It does not fail: a line that cannot be written is lost,
// and the first one of a row is reported.
func (b *logBook) write(instance, text string) {
	line := formatLine(time.Now(), instance, text)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	err := b.append(line)
	if err != nil && !b.broken {
		b.log.Warn("function's log cannot be written; lines are lost", "err", err)
	}
	b.broken = err != nil
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *logBook) append(line []byte) error {
	if b.file == nil {
		if err := b.open(); err != nil {
			return err
		}
	}
	if b.written >= b.size {
		if err := b.turn(b.number + 1); err != nil {
			return err
		}
	}
	n, err := b.file.Write(line)
	b.written += int64(n)
	if err != nil && n > 0 {
		// Half a line would swallow the next one.
		if b.file.Truncate(b.written-int64(n)) == nil {
			b.written -= int64(n)
		}
	}
	return err
}

// open goes on where an earlier process has left off.
func (b *logBook) open() error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	numbers, err := b.numbers()
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return b.turn(1)
	}
	if err := b.turn(numbers[len(numbers)-1]); err != nil {
		return err
	}
	// That process may have died in the middle of a line.
	end := make([]byte, 1)
	if n, err := b.file.ReadAt(end, max(0, b.written-1)); n == 1 && end[0] != '\n' {
		n, err = b.file.Write([]byte{'\n'})
		b.written += int64(n)
		return err
	} else if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// turn goes on in another segment and deletes those that are too old.
func (b *logBook) turn(number int) error {
	f, err := os.OpenFile(b.segment(number), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if b.file != nil {
		b.file.Close() // nothing is buffered
	}
	b.file, b.number, b.written = f, number, info.Size()
	numbers, err := b.numbers()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if n <= number-segments {
			if err := os.Remove(b.segment(n)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *logBook) segment(number int) string {
	return filepath.Join(b.dir, fmt.Sprintf("%06d.log", number))
}

// numbers returns the segments there are, in order.
func (b *logBook) numbers() ([]int, error) {
	entries, err := os.ReadDir(b.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), ".log")
		if n, err := strconv.Atoi(text); ok && err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func (b *logBook) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.closed = true
	if b.file != nil {
		b.file.Close() // nothing is buffered
	}
	close(b.changed)
}

// state returns what a reader needs to know to go on: the segment that is
// being written, a channel that is closed when there is more, and whether
// there never will be.
func (b *logBook) state() (number int, changed <-chan struct{}, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.number, b.changed, b.closed
}

// A line is the time, the replica, and what was printed, separated by spaces.
func formatLine(t time.Time, instance, text string) []byte {
	line := t.UTC().AppendFormat(nil, time.RFC3339Nano)
	line = append(line, ' ')
	line = append(line, instance...)
	line = append(line, ' ')
	line = append(line, text...)
	return append(line, '\n')
}

// parseLine reads what formatLine wrote.
func parseLine(line []byte) (m logs.Message, ok bool) {
	at, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok {
		return m, false
	}
	instance, text, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return m, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(at))
	if err != nil {
		return m, false
	}
	m.Timestamp, m.Instance = t, string(instance)
	m.Text = strings.ToValidUTF8(strings.TrimSuffix(string(text), "\n"), "\uFFFD") + "\n"
	return m, true
}

// A reader reads a log from its beginning, segment by segment.
type reader struct {
	b       *logBook
	file    *os.File
	lines   *bufio.Reader
	number  int    // of the segment that is read
	partial []byte // a line whose end has not been seen
	last    bool   // nothing is written to this segment any more
}

// next returns the next line, without looking at what it says, or io.EOF when
// there is none yet.
func (r *reader) next() ([]byte, error) {
	for {
		if r.file == nil {
			if err := r.advance(); err != nil {
				return nil, err
			}
		}
		chunk, err := r.lines.ReadBytes('\n')
		r.partial = append(r.partial, chunk...)
		if err == nil {
			line := r.partial
			r.partial = nil
			return line, nil
		}
		if !errors.Is(err, io.EOF) {
			return nil, err
		}
		if r.last {
			r.close()
			continue
		}
		// Once there is a later segment this one is complete, but it may have
		// grown since it was read: look again before leaving it.
		if r.last, err = r.outdated(); err != nil {
			return nil, err
		}
		if !r.last {
			return nil, io.EOF
		}
	}
}

// outdated reports whether there is a segment after the one that is read.
func (r *reader) outdated() (bool, error) {
	if current, _, _ := r.b.state(); current != 0 {
		return current > r.number, nil
	}
	numbers, err := r.b.numbers() // nobody has written yet in this process
	return len(numbers) > 0 && numbers[len(numbers)-1] > r.number, err
}

// advance opens the oldest segment after the one that was read.
func (r *reader) advance() error {
	for {
		numbers, err := r.b.numbers()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(numbers, func(n int) bool { return n > r.number })
		if i < 0 {
			return io.EOF
		}
		f, err := os.Open(r.b.segment(numbers[i]))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile: the next one is the oldest
		}
		if err != nil {
			return err
		}
		r.file, r.lines, r.number = f, bufio.NewReaderSize(f, 64<<10), numbers[i]
		return nil
	}
}

func (r *reader) close() {
	if r.file != nil {
		r.file.Close() // only read from
		r.file, r.partial, r.last = nil, nil, false
	}
}

// Query implements package provider's Logs.
func (r *Runtime) Query(ctx context.Context, q logs.Request) (<-chan logs.Message, error) {
	ref := function.Ref{Name: q.Name, Namespace: q.Namespace}
	f, err := r.function(ref)
	if err != nil {
		return nil, fault.NotFound.Errorf("function log request failed: %w", err)
	}
	out := make(chan logs.Message)
	go func() {
		defer close(out)
		if err := f.log.query(ctx, q, out); err != nil && ctx.Err() == nil {
			r.Log.Warn("log cannot be read", "function", ref, "err", err)
		}
	}()
	return out, nil
}

// query sends what q asks for.
func (b *logBook) query(ctx context.Context, q logs.Request, out chan<- logs.Message) error {
	rd := &reader{b: b}
	defer rd.close()
	send := func(m logs.Message) error {
		m.Name, m.Namespace = q.Name, q.Namespace
		select {
		case out <- m:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var recent []logs.Message // the last q.Tail of those there are
	history := true
	for {
		_, changed, closed := b.state()
		line, err := rd.next()
		switch {
		case err == nil:
			m, ok := parseLine(line)
			if !ok || q.Instance != "" && m.Instance != q.Instance || q.Since != nil && m.Timestamp.Before(*q.Since) {
				continue
			}
			if !history || q.Tail <= 0 {
				if err := send(m); err != nil {
					return err
				}
				continue
			}
			if len(recent) >= 2*q.Tail { // now and then, so that each line is moved once on average
				recent = append(recent[:0], recent[q.Tail:]...)
			}
			recent = append(recent, m)
		case !errors.Is(err, io.EOF):
			return err
		default:
			if history {
				history = false
				for _, m := range recent[max(0, len(recent)-max(q.Tail, 0)):] {
					if err := send(m); err != nil {
						return err
					}
				}
				recent = nil
			}
			if !q.Follow || closed {
				return nil
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// Package audit keeps the log of who did what, apart from everything else that
// a gateway says: one JSON document per line, in a file that only grows.
//
// What is logged is decided where it happens, by the fields that every such
// line has; this package only knows where lines go. Start with [Open].
package audit

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// A File is a log that another program may move away, as logrotate does: it
// is made again then, within a second, under its own name. It is safe for
// concurrent use.
type File struct {
	name string

	mu     sync.Mutex // guards what follows
	f      *os.File
	looked time.Time
}

// lookPause is how often it is looked whether the file was moved.
const lookPause = time.Second

// Open opens the file of that name for appending, and makes it, readable to
// its owner alone, if it is not there.
func Open(name string) (*File, error) {
	l := &File{name: name}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	return l, nil
}

func (l *File) open() error {
	f, err := os.OpenFile(l.name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if l.f != nil {
		_ = l.f.Close() // what was written to it is written
	}
	l.f, l.looked = f, time.Now()
	return nil
}

// Write appends p, which is a whole line. If the file cannot be made again
// after it was moved, p goes to where it was moved.
func (l *File) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.looked) >= lookPause {
		l.looked = now
		if l.moved() {
			if err := l.open(); err != nil {
				n, _ := l.f.Write(p)
				return n, err
			}
		}
	}
	return l.f.Write(p)
}

func (l *File) moved() bool {
	at, err := os.Stat(l.name)
	if err != nil {
		return true
	}
	is, err := l.f.Stat()
	return err != nil || !os.SameFile(at, is)
}

// Close closes the file.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

// Handler returns a handler that writes to l what is logged at level info and
// above. That it fails is lost here: see [slog.Handler].
func (l *File) Handler() slog.Handler { return slog.NewJSONHandler(l, nil) }

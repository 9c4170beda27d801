package image

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// lastLines is how much of a failed tool's output an error has.
const lastLines = 15

// stopGrace is how long a tool may take to clean up after an interrupt.
const stopGrace = 5 * time.Second

// command prepares a tool that is interrupted when ctx ends, so that it can
// remove its own temporary files, and killed if that takes long.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopGrace
	return cmd
}

// runTool runs cmd and shows its output. If that is shown to nobody, the end of
// it is part of the error, where the directory it ran in, a copy, is called by
// the handler's name.
func (b *build) runTool(ctx context.Context, cmd *exec.Cmd) error {
	var tail tailWriter
	out := untilDone{ctx, io.MultiWriter(b.Output, &tail)}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && b.Output != io.Discard {
		return fmt.Errorf("%w; what it said is above", err)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, strings.ReplaceAll(tail.String(), cmd.Dir, filepath.Clean(b.Dir)))
	}
	return nil
}

// An untilDone drops what is written after its context has ended: what a tool
// says of being interrupted, such as Python's traceback, is news to nobody.
type untilDone struct {
	ctx context.Context
	w   io.Writer
}

func (u untilDone) Write(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return len(p), nil
	}
	return u.w.Write(p)
}

// A tailWriter remembers the end of what is written to it.
type tailWriter struct{ text []byte }

func (t *tailWriter) Write(p []byte) (int, error) {
	const limit = 16 << 10
	t.text = append(t.text, p...)
	if len(t.text) > 2*limit {
		t.text = append(t.text[:0], t.text[len(t.text)-limit:]...)
	}
	return len(p), nil
}

// String returns the last lines.
func (t *tailWriter) String() string {
	var lines []string
	s := bufio.NewScanner(bytes.NewReader(t.text))
	s.Buffer(nil, 64<<10)
	for s.Scan() {
		lines = append(lines, strings.TrimRight(s.Text(), "\r"))
	}
	return strings.Join(lines[max(0, len(lines)-lastLines):], "\n")
}

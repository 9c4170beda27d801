package local

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openfaas/faas-provider/logs"
)

func collect(t *testing.T, b *logBook, q logs.Request) []string {
	t.Helper()
	out := make(chan logs.Message)
	var err error
	var done sync.WaitGroup
	done.Go(func() {
		defer close(out)
		err = b.query(t.Context(), q, out)
	})
	var lines []string
	for m := range out {
		lines = append(lines, strings.TrimSuffix(m.Text, "\n"))
	}
	done.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestALogKeepsItsNewestSegments(t *testing.T) {
	dir := t.TempDir()
	b := newLogBook(dir, 200, slog.New(slog.DiscardHandler))
	for i := range 100 {
		b.write("r", fmt.Sprint("line ", i))
	}
	b.close()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != segments {
		t.Errorf("there are the files %v, %v", files, err)
	}
	lines := collect(t, b, logs.Request{})
	if len(lines) == 0 || lines[len(lines)-1] != "line 99" || lines[0] == "line 0" {
		t.Errorf("it has %v", lines)
	}
	if diff := cmp.Diff([]string{"line 97", "line 98", "line 99"}, collect(t, b, logs.Request{Tail: 3})); diff != "" {
		t.Errorf("tail (-want +got)\n%s", diff)
	}
}

func TestALogGoesOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	b := newLogBook(dir, 1000, slog.New(slog.DiscardHandler))
	b.write("r", "before")
	b.close()
	// The platform was killed while it wrote a line.
	file, err := os.OpenFile(b.segment(1), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(string(formatLine(time.Now(), "r", "half of a line"))[:40]); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	again := newLogBook(dir, 1000, slog.New(slog.DiscardHandler))
	again.write("r", "after")
	lines := collect(t, again, logs.Request{})
	if lines[0] != "before" || lines[len(lines)-1] != "after" {
		t.Errorf("it has %q", lines)
	}
	again.close()
}

func TestAFollowerSeesEveryLineAcrossSegments(t *testing.T) {
	const n = 2000
	b := newLogBook(t.TempDir(), 40_000, slog.New(slog.DiscardHandler)) // all of it fits into the segments
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := make(chan logs.Message)
	var done sync.WaitGroup
	done.Go(func() {
		defer close(out)
		if err := b.query(ctx, logs.Request{Follow: true}, out); err != nil {
			t.Error(err)
		}
	})
	done.Go(func() {
		for i := range n {
			b.write("r", fmt.Sprint(i))
		}
	})
	for i := range n {
		if m := <-out; m.Text != fmt.Sprint(i, "\n") {
			t.Fatalf("line %d is %q", i, m.Text)
		}
	}
	b.close()
	for range out {
	}
	done.Wait()
}

func TestWhatWasPrintedIsReadBack(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	for _, text := range []string{"", " ", "hello", "two  spaces ", "tab\tand\rreturn"} {
		m, ok := parseLine(formatLine(at, "echo-1", text))
		if !ok || m.Text != text+"\n" || m.Instance != "echo-1" || !m.Timestamp.Equal(at) {
			t.Errorf("%q is read as %+v", text, m)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05Z echo-1 hello\n"))
	f.Add([]byte("2026-01-02T03:04:05Z  \n"))
	f.Add([]byte("\x00\xff \n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, ok := parseLine(line)
		if ok && !strings.HasSuffix(m.Text, "\n") {
			t.Errorf("%q has text %q", line, m.Text)
		}
	})
}

func TestATailExplainsAFailureBriefly(t *testing.T) {
	var last tail
	for _, line := range []string{"one", "", "two", "three", "  four  ", strings.Repeat("x", 10_000)} {
		last.add([]byte(line))
	}
	want := "three\nfour\n" + strings.Repeat("x", tailWidth)
	if diff := cmp.Diff(want, last.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	last.add([]byte("watchdog: the function could not be loaded"))
	if got, want := last.String(), "the function could not be loaded"; got != want {
		t.Errorf("with the watchdog's last word it is %q, want %q", got, want)
	}
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// What the watchdog itself may take.
const (
	watchdogSizeLimit   = 9_000_000
	watchdogReadyLimit  = 10 * time.Millisecond
	watchdogMemoryLimit = 12_000_000
)

// benchWatchdog measures what fwatchdog takes, beside the function that it
// runs: as a file, until it answers, and in memory.
func benchWatchdog(out io.Writer, o options) error {
	program, err := filepath.Abs(o.fwatchdog)
	if err != nil {
		return err
	}
	file, err := os.Stat(program)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("hello\n"), 0o644); err != nil {
		return err
	}

	var ready []time.Duration
	var memory []int64
	for i := range o.repeats {
		socket := filepath.Join(dir, fmt.Sprintf("%d.sock", i))
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), "mode=static", "static_path="+dir, "listen=unix:"+socket)
		begun := time.Now()
		s, err := startServer(cmd, socket, "/_/ready")
		if err != nil {
			return err
		}
		ready = append(ready, time.Since(begun))
		if err := callOften(s, 100); err != nil {
			return err
		}
		bytes, err := resident(s.pid())
		s.stop()
		if err != nil {
			return err
		}
		memory = append(memory, bytes)
	}
	slices.Sort(memory)

	fmt.Fprintf(out, "Mode `static`, so that there is no child to wait for; %d starts\n\n", o.repeats)
	fmt.Fprintf(out, "| what | median | worst | bound |\n|---|---|---|---|\n")
	fmt.Fprintf(out, "| size of the stripped program | %.1f MB | | %.0f MB |\n", float64(file.Size())/1e6, watchdogSizeLimit/1e6)
	fmt.Fprintf(out, "| from start to the first answer of `/_/ready` | %s | %s | %s |\n", millis(mid(ready)), millis(slices.Max(ready)), millis(watchdogReadyLimit))
	fmt.Fprintf(out, "| resident after a hundred calls | %.1f MB | %.1f MB | %.0f MB |\n", float64(memory[len(memory)/2])/1e6, float64(slices.Max(memory))/1e6, watchdogMemoryLimit/1e6)

	var missed []error
	if file.Size() > watchdogSizeLimit {
		missed = append(missed, fmt.Errorf("fwatchdog has %d bytes, which is more than %d", file.Size(), watchdogSizeLimit))
	}
	if got := mid(ready); got > watchdogReadyLimit {
		missed = append(missed, fmt.Errorf("fwatchdog is ready after %s, which is more than %s", millis(got), millis(watchdogReadyLimit)))
	}
	if got := memory[len(memory)/2]; got > watchdogMemoryLimit {
		missed = append(missed, fmt.Errorf("fwatchdog holds %d bytes, which is more than %d", got, watchdogMemoryLimit))
	}
	return errors.Join(missed...)
}

func callOften(s *server, n int) error {
	for range n {
		resp, err := s.client.Get(s.url + "/")
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

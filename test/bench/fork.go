package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// What one more worker may cost.
const (
	forkLimit       = 10 * time.Millisecond // from the decision to its first answer
	forkMemoryLimit = 0.15                  // of what the first takes
	freshStarts     = 3
)

// benchFork measures one more worker of a function that holds a model, where
// every worker is kept busy by a call that has had its first line and goes on,
// so that each next call needs another.
func benchFork(out io.Writer, o options) error {
	w, err := openWorkshop(o)
	if err != nil {
		return err
	}
	defer w.close()
	version, err := w.pythonVersion()
	if err != nil {
		return err
	}
	if text, err := exec.Command(w.interpreter, filepath.Join(w.dir, "model", "train.py"), w.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("train the model: %w\n%s", err, text)
	}

	var fresh []time.Duration
	for i := range freshStarts {
		begun := time.Now()
		s, err := w.startModel(fmt.Sprintf("fresh%d.sock", i), 1)
		if err != nil {
			return err
		}
		if _, _, err := s.firstAnswer(strings.NewReader("")); err != nil {
			return err
		}
		fresh = append(fresh, time.Since(begun))
		s.stop()
	}

	s, err := w.startModel("fork.sock", 1+o.repeats)
	if err != nil {
		return err
	}
	defer s.stop()
	var warm, forked []time.Duration
	for range o.repeats {
		took, end, err := s.firstAnswer(strings.NewReader(""))
		if err != nil {
			return err
		}
		end()
		warm = append(warm, took)
	}
	before, err := descendants(s.pid())
	if err != nil {
		return err
	}
	first, err := proportionalBelow(s.pid())
	if err != nil {
		return err
	}
	for i := range 1 + o.repeats {
		body, more := io.Pipe()
		took, end, err := s.firstAnswer(body)
		if err != nil {
			return err
		}
		defer end()
		defer more.Close()
		if i > 0 { // that took the worker that there was
			forked = append(forked, took)
		}
	}
	after, err := descendants(s.pid())
	if err != nil {
		return err
	}
	added := len(after) - len(before)
	if added < o.repeats {
		return fmt.Errorf("%d calls at a time made %d more workers", 1+o.repeats, added)
	}
	all, err := proportionalBelow(s.pid())
	if err != nil {
		return err
	}
	each := float64(all-first) / float64(added)

	fmt.Fprintf(out, "A random forest of scikit-learn with 100 trees and 100 MB of weights; %s; each call needs another worker\n\n", version)
	fmt.Fprintf(out, "| what | median | worst | bound |\n|---|---|---|---|\n")
	fmt.Fprintf(out, "| a fresh process: start, import, load, first answer (%d) | %s | %s | |\n", len(fresh), millis(mid(fresh)), millis(slices.Max(fresh)))
	fmt.Fprintf(out, "| one more worker: from the call that needs it to its answer's first byte (%d) | %s | %s | %s |\n", len(forked), millis(mid(forked)), millis(slices.Max(forked)), millis(forkLimit))
	fmt.Fprintf(out, "| a worker that is there, answering the same (%d) | %s | %s | |\n", len(warm), millis(mid(warm)), millis(slices.Max(warm)))
	fmt.Fprintf(out, "| memory (PSS) of the first worker and what it is forked from | %.1f MB | | |\n", float64(first)/1e6)
	fmt.Fprintf(out, "| memory (PSS) of each further worker | %.1f MB, %.1f %% of the first | | %.0f %% |\n", each/1e6, 100*each/float64(first), 100*forkMemoryLimit)

	var missed []error
	if got := mid(forked); got > forkLimit {
		missed = append(missed, fmt.Errorf("one more worker answers after %s, which is more than %s", millis(got), millis(forkLimit)))
	}
	if part := each / float64(first); part > forkMemoryLimit {
		missed = append(missed, fmt.Errorf("one more worker takes %.0f %% of the first one's memory, which is more than %.0f %%", 100*part, 100*forkMemoryLimit))
	}
	return errors.Join(missed...)
}

// startModel starts a function that holds the model.
func (w *workshop) startModel(socket string, workers int) (*server, error) {
	return w.startPool("model", filepath.Join(w.dir, socket), "handler_style=model", "model_dir="+w.dir, fmt.Sprintf("workers=%d", workers), "workers_min=1")
}

// firstAnswer calls the function and returns how long the first line took. The
// call goes on until its body and end do.
func (s *server) firstAnswer(body io.Reader) (took time.Duration, end func(), err error) {
	req, err := http.NewRequest(http.MethodPost, s.url, body)
	if err != nil {
		return 0, nil, err
	}
	begun := time.Now()
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	took = time.Since(begun)
	if err != nil || resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return 0, nil, fmt.Errorf("%s answers %s %q, %w", s.cmd, resp.Status, line, err)
	}
	return took, func() {
		_, _ = io.Copy(io.Discard, resp.Body) // what comes after the first line says nothing
		resp.Body.Close()
	}, nil
}

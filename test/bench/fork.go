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

// benchFork measures one more worker of functions that hold a model. The bounds
// are for the one whose answer takes no time worth mentioning.
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
		return fmt.Errorf("train the models: %w\n%s", err, text)
	}
	linear, err := w.measureForks("linear", o.repeats)
	if err != nil {
		return err
	}
	forest, err := w.measureForks("forest", o.repeats)
	if err != nil {
		return err
	}

	fmt.Fprintf(out, "Models of scikit-learn, each with 100 MB of weights: a scaler and a logistic regression, and a forest of 100 trees; %s; each call needs another worker; medians of %d, and the worst\n\n", version, o.repeats)
	fmt.Fprintf(out, "| what | linear | forest | bound, linear |\n|---|---|---|---|\n")
	row := func(what string, times func(forks) []time.Duration, bound string) {
		l, f := times(linear), times(forest)
		fmt.Fprintf(out, "| %s | %s, %s | %s, %s | %s |\n", what, millis(mid(l)), millis(slices.Max(l)), millis(mid(f)), millis(slices.Max(f)), bound)
	}
	row(fmt.Sprintf("a fresh process: start, import, load, first answer (%d)", freshStarts), func(f forks) []time.Duration { return f.fresh }, "")
	row("one more worker: from the call that needs it to its answer's first byte", func(f forks) []time.Duration { return f.forked }, millis(forkLimit))
	row("a worker that is there, answering the same", func(f forks) []time.Duration { return f.warm }, "")
	fmt.Fprintf(out, "| memory (PSS) of the first worker and what it is forked from | %.1f MB | %.1f MB | |\n", linear.first/1e6, forest.first/1e6)
	fmt.Fprintf(out, "| memory (PSS) of each further worker | %.1f MB, %.1f %% | %.1f MB, %.1f %% | %.0f %% |\n",
		linear.each/1e6, 100*linear.each/linear.first, forest.each/1e6, 100*forest.each/forest.first, 100*forkMemoryLimit)

	var missed []error
	if got := mid(linear.forked); got > forkLimit {
		missed = append(missed, fmt.Errorf("one more worker answers after %s, which is more than %s", millis(got), millis(forkLimit)))
	}
	if part := linear.each / linear.first; part > forkMemoryLimit {
		missed = append(missed, fmt.Errorf("one more worker takes %.0f %% of the first one's memory, which is more than %.0f %%", 100*part, 100*forkMemoryLimit))
	}
	return errors.Join(missed...)
}

// forks is what was measured with one model.
type forks struct {
	fresh, forked, warm []time.Duration
	first, each         float64 // bytes
}

// measureForks keeps every worker busy by a call that has had its first line
// and goes on, so that each next call needs another.
func (w *workshop) measureForks(model string, repeats int) (forks, error) {
	var f forks
	for i := range freshStarts {
		begun := time.Now()
		s, err := w.startModel(model, fmt.Sprintf("%s%d.sock", model, i), 1)
		if err != nil {
			return f, err
		}
		_, end, err := s.firstAnswer(strings.NewReader(""))
		if err != nil {
			return f, err
		}
		f.fresh = append(f.fresh, time.Since(begun))
		end()
		s.stop()
	}

	s, err := w.startModel(model, model+".sock", 1+repeats)
	if err != nil {
		return f, err
	}
	defer s.stop()
	for range repeats {
		took, end, err := s.firstAnswer(strings.NewReader(""))
		if err != nil {
			return f, err
		}
		end()
		f.warm = append(f.warm, took)
	}
	before, err := descendants(s.pid())
	if err != nil {
		return f, err
	}
	first, err := proportionalBelow(s.pid())
	if err != nil {
		return f, err
	}
	for i := range 1 + repeats {
		body, more := io.Pipe()
		took, end, err := s.firstAnswer(body)
		if err != nil {
			return f, err
		}
		defer end()
		defer more.Close()
		if i > 0 { // that took the worker that there was
			f.forked = append(f.forked, took)
		}
	}
	after, err := descendants(s.pid())
	if err != nil {
		return f, err
	}
	added := len(after) - len(before)
	if added < repeats {
		return f, fmt.Errorf("%d calls at a time made %d more workers", 1+repeats, added)
	}
	all, err := proportionalBelow(s.pid())
	f.first, f.each = float64(first), float64(all-first)/float64(added)
	return f, err
}

// startModel starts a function that holds the model.
func (w *workshop) startModel(model, socket string, workers int) (*server, error) {
	return w.startPool("model", filepath.Join(w.dir, socket), "handler_style=model", "model_dir="+w.dir, "model_file="+model+".pickle",
		fmt.Sprintf("workers=%d", workers), "workers_min=1")
}

// firstAnswer calls the function and returns how long the first line took. The
// call goes on until its body and end do.
func (s *server) firstAnswer(body io.Reader) (took time.Duration, end func(), err error) {
	req, err := http.NewRequest(http.MethodPost, s.url, body)
	if err != nil {
		return 0, nil, err
	}
	begun := time.Now()
	resp, err := s.client.Do(req) //nolint:bodyclose // end closes it
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

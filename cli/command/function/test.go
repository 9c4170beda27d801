package function

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/image"
	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/internal/fault"
)

// minLeakCalls are what graphene_function.leaks needs to judge.
const minLeakCalls = 8

// testGrace is how long a test may take to clean up after an interrupt.
const testGrace = 5 * time.Second

type testOptions struct {
	f      *command.Factory
	build  buildOptions
	output term.Format
	leaks  bool
	calls  int
	body   string
}

func testCommand(f *command.Factory) *cobra.Command {
	o := &testOptions{f: f, build: buildOptions{parallel: 1, quiet: true}}
	cmd := &cobra.Command{
		Use:     "test [NAME...]",
		Short:   "Run tests of functions, or look for what they leak",
		GroupID: "function",
		Long: `Runs the tests of the stack file's functions, or of those that are named, on
this machine and without a platform: "go test" for Go, "python3 -m unittest" for
Python, in a copy of the handler with what build.py makes and the packages of
requirements.txt and test-requirements.txt. Packages are shared with builds.

--leaks calls a Python handler many times instead, and lists by line of code
what it keeps: memory, open files, threads, child processes, temporary files.
Calls are slower than usual meanwhile. A handler that keeps what it was sent only
if it is new needs different bodies: each line of a file whose name ends in
.jsonl is one.

The exit code is 0 if all is well, 1 if a test failed or something leaks.`,
		Example: `  graphene test
  graphene test wine --leaks --body wine.json
  graphene test wine --leaks --calls 1000 --body wines.jsonl -o json`,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args) },
		ValidArgsFunction: f.CompleteStack,
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.leaks, "leaks", false, "call the handler many times and list what it keeps")
	flags.IntVar(&o.calls, "calls", 200, "with --leaks: number of calls to measure, after a tenth as many to warm up")
	flags.StringVar(&o.body, "body", "", "with --leaks: file with the body to send; of .jsonl each line, in turn")
	flags.StringVar(&o.build.python, "python", "", "Python interpreter to test with (default python3)")
	flags.StringArrayVar(&o.build.pipArgs, "pip-arg", nil, "argument for pip install, such as --pip-arg=--no-index; may be repeated")
	flags.BoolVar(&o.build.noCache, "no-cache", false, "install packages and run build.py again")
	command.OutputFlag(cmd, &o.output)
	return cmd
}

// A testResult is what is known of one function afterwards.
type testResult struct {
	Function string `json:"function"`
	Passed   bool   `json:"passed"`
	// Output is what the tests printed.
	Output string `json:"output,omitempty"`
	// Leaks is the report of graphene_function.leaks.
	Leaks json.RawMessage `json:"leaks,omitempty"`

	text string
}

func (o *testOptions) run(ctx context.Context, names []string) error {
	if o.calls < minLeakCalls {
		return command.Usagef("--calls is %d, want %d or more", o.calls, minLeakCalls)
	}
	if o.body != "" && !o.leaks {
		return command.Usagef("--body goes with --leaks")
	}
	if o.body != "" {
		o.body = o.f.Path(o.body)
		if _, err := os.Stat(o.body); err != nil {
			return command.NotFoundError(err, "--body names a file")
		}
	}
	file, functions, err := o.f.Selected(ctx, names)
	if err != nil {
		return err
	}
	b, err := newBuilder(o.f, o.build, file)
	if err != nil {
		return err
	}
	results := []testResult{}
	var failed []string
	err = b.all(ctx, functions, func(ctx context.Context, task *term.Task, fn stack.Function) (string, error) {
		r, err := o.test(ctx, b, task, fn)
		if err != nil {
			return "", err
		}
		results = append(results, r)
		if !r.Passed {
			failed = append(failed, fn.Name)
		}
		return "", nil
	})
	if err := o.output.Write(o.f.Streams.Out, results, func(*term.Table) {}); err != nil {
		return err
	}
	if o.output.IsTable() {
		for _, r := range results {
			o.f.Streams.Printf("%s:\n%s", r.Function, indent(r.text))
		}
	}
	if len(failed) > 0 {
		verdict := "tests failed"
		if o.leaks {
			verdict = "something leaks"
		}
		err = errors.Join(err, fmt.Errorf("%s: %s", strings.Join(failed, ", "), verdict))
	}
	return err
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("  " + strings.TrimRight(line, "\r\n") + "\n")
	}
	return b.String()
}

func (o *testOptions) test(ctx context.Context, b *builder, task *term.Task, fn stack.Function) (testResult, error) {
	options, err := b.options(ctx, task, fn)
	if err != nil {
		return testResult{}, err
	}
	if o.leaks && options.Kind != image.Python {
		return testResult{}, fault.Unsupported.Errorf("test %s: only Python handlers can be searched for leaks", fn.Name)
	}
	result := testResult{Function: fn.Name}
	err = image.Prepare(ctx, options, func(ctx context.Context, w image.Workplace) error {
		task.Step("test " + fn.Name)
		tmp, err := os.MkdirTemp("", "graphene-test-")
		if err != nil {
			return fmt.Errorf("test %s: %w", fn.Name, err)
		}
		defer os.RemoveAll(tmp)
		cmd := o.command(ctx, w, options.Env["handler_style"])
		cmd.Env = append(o.environ(w, options.Env, fn), "TMPDIR="+tmp)
		if o.leaks {
			return o.runLeaks(ctx, cmd, w, &result)
		}
		return o.runTests(ctx, cmd, w, &result)
	})
	return result, err
}

// command returns what is to be run, which the environment is still missing
// from.
func (o *testOptions) command(ctx context.Context, w image.Workplace, style string) *exec.Cmd {
	args := []string{"go", "test", "./..."}
	switch {
	case o.leaks:
		args = []string{w.Python, "-m", "graphene_function", "leaks", w.Dir, "--json", "--calls", strconv.Itoa(o.calls), "--warmup", strconv.Itoa(o.calls / 10)}
		if o.body != "" {
			args = append(args, "--body", o.body)
		}
		if style != "" {
			args = append(args, "--style", style)
		}
	case w.Python != "":
		args = []string{w.Python, "-m", "unittest", "-v"}
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = w.Dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = testGrace
	return cmd
}

// environ is that of this process, the template's and the function's.
func (o *testOptions) environ(w image.Workplace, template map[string]string, fn stack.Function) []string {
	env := append([]string{}, o.f.Environ...)
	if w.Python == "" {
		return append(env, "GOWORK=off", "GO111MODULE=on")
	}
	for _, more := range []map[string]string{template, fn.Environment} {
		for name, value := range more {
			env = append(env, name+"="+value)
		}
	}
	return append(env, "PYTHONPATH="+w.PythonPath, "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1")
}

func (o *testOptions) runTests(ctx context.Context, cmd *exec.Cmd, w image.Workplace, result *testResult) error {
	out, err := cmd.CombinedOutput()
	if err := started(ctx, cmd, err); err != nil {
		return err
	}
	result.text = o.words(w, out)
	result.Output = result.text
	result.Passed = err == nil
	return nil
}

// Exit statuses of graphene_function.leaks.
const (
	leaksNothing   = 0
	leaksSomething = 1
)

func (o *testOptions) runLeaks(ctx context.Context, cmd *exec.Cmd, w image.Workplace, result *testResult) error {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := started(ctx, cmd, cmd.Run()); err != nil {
		return err
	}
	code := cmd.ProcessState.ExitCode()
	var report map[string]any
	if code != leaksNothing && code != leaksSomething || json.Unmarshal(stdout.Bytes(), &report) != nil {
		text := strings.TrimSpace(o.words(w, stderr.Bytes()) + "\n" + cmd.ProcessState.String())
		return fault.Invalid.Errorf("test %s: the handler cannot be measured; --body says what it is sent\n%s", result.Function, lastLines(text, 20))
	}
	text, _ := report["text"].(string)
	delete(report, "text")
	leaks, err := json.Marshal(report)
	if err != nil {
		return fmt.Errorf("read the report: %w", err)
	}
	result.text = o.words(w, []byte(text))
	result.Leaks = leaks
	result.Passed = code == leaksNothing
	return nil
}

// started returns the error of a command that did not run to its end.
func started(ctx context.Context, cmd *exec.Cmd, err error) error {
	switch _, ended := errors.AsType[*exec.ExitError](err); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil || ended:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return fault.NotFound.Errorf("there is no %s in PATH", filepath.Base(cmd.Path))
	}
	return fmt.Errorf("run %s: %w", filepath.Base(cmd.Path), err)
}

// words replaces the copy's name by the original's.
func (o *testOptions) words(w image.Workplace, text []byte) string {
	return strings.ReplaceAll(string(text), w.Dir, o.f.Rel(w.Original))
}

func lastLines(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

//go:build unix

package proc_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/proc"
)

// lines collects a stream.
type lines struct {
	mu   sync.Mutex
	got  []string
	more chan struct{}
}

func newLines() *lines { return &lines{more: make(chan struct{}, 1)} }

func (l *lines) add(line []byte) {
	l.mu.Lock()
	l.got = append(l.got, string(line))
	l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.got...)
}

// await returns the first n lines, once there are as many.
func (l *lines) await(t *testing.T, n int) []string {
	t.Helper()
	for {
		if got := l.all(); len(got) >= n {
			return got[:n]
		}
		select {
		case <-l.more:
		case <-t.Context().Done():
			t.Fatalf("the test ended with %d of %d lines", len(l.all()), n)
		}
	}
}

func start(t *testing.T, c proc.Command) *proc.Child {
	t.Helper()
	child, err := proc.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Kill() })
	return child
}

func shell(script string) []string { return []string{"sh", "-c", script} }

func TestOutputArrivesByLineAndAllOfItBeforeTheEnd(t *testing.T) {
	out, errs := newLines(), newLines()
	child := start(t, proc.Command{
		Args:   shell(`echo one; echo; printf 'no newline'; echo bad >&2; exit 3`),
		Stdout: out.add, Stderr: errs.add,
	})
	err := child.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 3 {
		t.Errorf("Wait() = %v, want exit status 3", err)
	}
	if diff := cmp.Diff([]string{"one", "", "no newline"}, out.all()); diff != "" {
		t.Errorf("stdout (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"bad"}, errs.all()); diff != "" {
		t.Errorf("stderr (-want +got)\n%s", diff)
	}
}

func TestExitZeroIsNil(t *testing.T) {
	child := start(t, proc.Command{Args: []string{"true"}})
	for range 2 {
		if err := child.Wait(); err != nil {
			t.Errorf("Wait() = %v", err)
		}
	}
	if err := child.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal after the end = %v, want os.ErrProcessDone", err)
	}
}

func TestFilesBecomeDescriptorsFromThree(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	child := start(t, proc.Command{Args: shell(`echo here >&3`), Files: []*os.File{w}})
	w.Close()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "here\n" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

func TestStreamsCanBeFiles(t *testing.T) {
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	out, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	child := start(t, proc.Command{Args: shell(`cat; echo more >&2`), Stdin: in, RawStdout: end, RawStderr: end})
	in.Close()
	end.Close()
	fmt.Fprint(feed, "given\x00")
	feed.Close()
	got, err := io.ReadAll(out)
	if err != nil || string(got) != "given\x00more\n" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

func TestStopKillsWhatIgnoresTheTerm(t *testing.T) {
	out := newLines()
	child := start(t, proc.Command{Args: shell(`trap '' TERM; echo up; while :; do sleep 1; done`), Stdout: out.add})
	out.await(t, 1)
	err := child.Stop(10 * time.Millisecond)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("Stop() = %v, want a kill", err)
	}
}

func TestStopIsGentleFirst(t *testing.T) {
	out := newLines()
	child := start(t, proc.Command{
		Args:   shell(`trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done`),
		Stdout: out.add,
	})
	out.await(t, 1)
	if err := child.Stop(time.Minute); err != nil {
		t.Errorf("Stop() = %v", err)
	}
	if diff := cmp.Diff([]string{"up", "bye"}, out.all()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// The grandchild holds the output pipe and outlives its parent, unless the
// whole group ends with its leader.
func TestAChildThatIsStoppedEndsGentlyToo(t *testing.T) {
	out := newLines()
	child := start(t, proc.Command{Args: shell(`trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.01; done`), Stdout: out.add})
	out.await(t, 1)
	if err := child.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	exit, ok := errors.AsType[*exec.ExitError](child.Stop(time.Minute))
	if !ok || exit.ExitCode() != 7 {
		t.Errorf("it ended with %v, want its own status 7", exit)
	}
}

func TestTheGroupEndsWithItsLeader(t *testing.T) {
	out := newLines()
	child := start(t, proc.Command{Args: shell(`sleep 1000 & echo $!`), Stdout: out.add})
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(out.await(t, 1)[0], &pid); err != nil {
		t.Fatal(err)
	}
	// Whoever adopts it may not reap it, so a zombie counts as gone. One that
	// lives keeps this loop until the test's deadline.
	for state := "?"; state != "" && state != "Z"; state = processState(pid) {
		runtime.Gosched()
	}
}

// processState is the letter in /proc/PID/stat, or empty if there is no such process.
func processState(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return rest[:1]
}

func TestAProgramThatIsNotThereIsAnErrorThatNamesIt(t *testing.T) {
	_, err := proc.Start(proc.Command{Args: []string{"no-such-program"}, Stdout: func([]byte) {}})
	if err == nil || !strings.Contains(err.Error(), "no-such-program") || !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("Start() = %v", err)
	}
	if _, err := proc.Start(proc.Command{}); err == nil {
		t.Error("a command without arguments started")
	}
}

func TestAFloodWithoutNewlinesComesInBoundedPieces(t *testing.T) {
	var longest, total int
	child := start(t, proc.Command{
		Args:    shell(`head -c 5000000 /dev/zero`),
		MaxLine: 1000,
		Stdout: func(line []byte) {
			longest, total = max(longest, len(line)), total+len(line)
		},
	})
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	if longest != 1000 || total != 5_000_000 {
		t.Errorf("longest piece %d, total %d", longest, total)
	}
}

func TestLinesSplitsAtTheBoundAndNowhereElse(t *testing.T) {
	var got []string
	proc.Lines(strings.NewReader("abcd\nabcde\nabcdefgh\n\nx"), 4, func(line []byte) { got = append(got, string(line)) })
	want := []string{"abcd", "abcd", "e", "abcd", "efgh", "", "x"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func FuzzLinesLosesNothing(f *testing.F) {
	f.Add("a\nb\n", 1)
	f.Add("\n\n\nabc", 2)
	f.Add(strings.Repeat("x", 5000)+"\n", 4096)
	f.Fuzz(func(t *testing.T, in string, maxLine int) {
		maxLine = max(1, maxLine%8192)
		var pieces []string
		proc.Lines(strings.NewReader(in), maxLine, func(line []byte) {
			if len(line) > maxLine {
				t.Fatalf("a piece of %d bytes with a bound of %d", len(line), maxLine)
			}
			pieces = append(pieces, string(line))
		})
		want := strings.ReplaceAll(in, "\n", "")
		if got := strings.Join(pieces, ""); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

func BenchmarkLines(b *testing.B) {
	const n = 1000
	in := strings.Repeat(strings.Repeat("x", 99)+"\n", n)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		proc.Lines(bufio.NewReader(strings.NewReader(in)), 0, func([]byte) {})
	}
}

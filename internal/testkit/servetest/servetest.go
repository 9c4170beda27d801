// Package servetest runs `graphene serve` as its users do, for tests of the
// whole platform.
//
// Start with [Build], once, and [Start] for each platform.
package servetest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
)

const (
	// startTime is how long a platform may take to start, on a machine that is
	// busy with other things; stopTime how long to stop.
	startTime = 2 * time.Minute
	stopTime  = time.Minute
)

// Build builds the program graphene in a directory, and returns its path.
func Build(dir string) (string, error) {
	path := filepath.Join(dir, "graphene")
	build := exec.Command("go", "build", "-o", path, "github.com/graphene-faas/graphene/cli/cmd/graphene")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build graphene: %w\n%s", err, out)
	}
	return path, nil
}

// Dir makes a directory for a platform, which goes when the test ends. Unlike
// that of t.TempDir its path is short enough for the names of sockets, and the
// users that replicas run as may enter it.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gr-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A Process is a `graphene serve`.
type Process struct {
	URL  string // where it answers
	Cmd  *exec.Cmd
	Log  *testkit.Buffer // what it prints
	Done <-chan struct{} // closed when it has ended; the state of Cmd says how
}

var readyLine = regexp.MustCompile(`ready at (http://\S+)`)

// Start runs cmd, a `graphene serve`, and returns when it is ready. The caller
// stops it, before the test ends.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	done := make(chan struct{})
	p := &Process{Cmd: cmd, Log: new(testkit.Buffer), Done: done}
	cmd.Stderr = p.Log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan string, 1)
	go func() {
		defer close(done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			fmt.Fprintln(p.Log, lines.Text())
			if m := readyLine.FindStringSubmatch(lines.Text()); m != nil {
				select {
				case ready <- m[1]:
				default: // it has said so before
				}
			}
		}
		_ = cmd.Wait() // the state says how it ended
	}()
	select {
	case p.URL = <-ready:
	case <-done:
		t.Fatalf("graphene serve ended: %v\n%s", cmd.ProcessState, p.Log)
	case <-time.After(startTime):
		_ = cmd.Process.Kill()
		<-done
		t.Fatalf("graphene serve is not ready within %v\n%s", startTime, p.Log)
	}
	return p
}

// Stop ends the platform as an operator would. One that has ended stays so.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	_ = p.Cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.Done:
	case <-time.After(stopTime):
		t.Errorf("graphene serve does not stop within %v", stopTime)
		_ = p.Cmd.Process.Kill()
		<-p.Done
	}
}

// Kill ends the platform as a power cut would.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	if err := p.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.Done
}

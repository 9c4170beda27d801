package watchdog

import (
	"context"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestProcessorTimeIsThatOfAllBelow(t *testing.T) {
	before, ok := cpuTime()
	if !ok {
		t.Skip("SKIPPED: this kernel does not list the children of a process")
	}
	ctx, end := context.WithTimeout(t.Context(), 30*time.Second)
	// A grandchild that works: its parent only waits for it.
	busy := exec.CommandContext(ctx, "sh", "-c", "sh -c 'while :; do :; done' & wait")
	busy.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	busy.Cancel = func() error { return syscall.Kill(-busy.Process.Pid, syscall.SIGKILL) }
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		end()
		_ = busy.Wait() // it was killed
	}()
	now := before
	for now-before < 100*time.Millisecond && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		now, _ = cpuTime()
	}
	if now-before < 100*time.Millisecond {
		t.Errorf("a busy grandchild has used %v", now-before)
	}
}

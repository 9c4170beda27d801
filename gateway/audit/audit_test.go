package audit_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/gateway/audit"
)

// said returns the texts of the lines in a file.
func said(t *testing.T, name string) map[string]int {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := map[string]int{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var line struct {
			Msg, What string
			Time      time.Time
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Time.IsZero() {
			t.Fatalf("%q is no line of the log: %v", lines.Text(), err)
		}
		found[line.Msg+line.What]++
	}
	return found
}

func TestLinesAreAppendedWhole(t *testing.T) {
	name := filepath.Join(t.TempDir(), "audit.log")
	for life := range 2 {
		f, err := audit.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		log := slog.New(f.Handler())
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() { log.Info("done", "what", fmt.Sprint("line ", life, " ", i)) })
		}
		all.Wait()
		log.Debug("nobody asked for this")
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	found := said(t, name)
	for life := range 2 {
		for i := range 50 {
			if text := fmt.Sprint("doneline ", life, " ", i); found[text] != 1 {
				t.Errorf("%q is there %d times", text, found[text])
			}
		}
	}
	if len(found) != 100 {
		t.Errorf("there are %d different lines, want 100", len(found))
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the log: %v, %v", info.Mode(), err)
	}
}

func TestALogThatWasMovedAwayIsMadeAgainAndLosesNothing(t *testing.T) {
	name := filepath.Join(t.TempDir(), "audit.log")
	f, err := audit.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log := slog.New(f.Handler())
	log.Info("before")
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	written := 0
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		log.Info("after")
		written++
		if _, err := os.Stat(name); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the log is not made again")
		}
	}
	old, now := said(t, name+".1"), said(t, name)
	if old["before"] != 1 || old["after"]+now["after"] != written || now["after"] == 0 {
		t.Errorf("of one line before and %d after the move, the old file has %v and the new %v", written, old, now)
	}
}

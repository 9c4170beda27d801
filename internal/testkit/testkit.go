// Package testkit holds what the tests of several packages share: a logger
// that writes to the test, a buffer for what is printed, golden files, a wait for
// a condition, and a check that a package leaves no goroutine behind.
package testkit

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Log returns a logger whose lines appear with the output of t.
func Log(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Eventually waits until ok returns true, and fails the test if it never does.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// patience is how long a test waits for what has to come, on a machine that is
// busy with other things.
const patience = 2 * time.Minute

// Main runs a package's tests and then fails if goroutines are left over. Use
// it as the package's TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := leftOver(5 * time.Second); left != "" {
			fmt.Fprintf(os.Stderr, "goroutines are left over:\n%s\n", left)
			code = 1
		}
	}
	os.Exit(code)
}

// leftOver returns the stacks of goroutines that do not belong to the test
// runner, once they have had that long to end.
func leftOver(wait time.Duration) string {
	deadline := time.Now().Add(wait)
	for {
		buf := make([]byte, 4<<20)
		buf = buf[:runtime.Stack(buf, true)]
		var left []string
		for g := range strings.SplitSeq(string(buf), "\n\n") {
			if !expected(g) {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return ""
		}
		if time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func expected(stack string) bool {
	for _, s := range []string{
		"testing.Main(", "testing.(*M).", "runtime.goexit0", "created by runtime.gc", "os/signal.signal_recv", "os/signal.loop",
		"go-events.(*Broadcaster).run", // the registry's library starts one and has no way to stop it
		"nats-server/v2/server/ats.",   // a clock that NATS servers share; now and then a store of one that ends forgets to let go of it,
		"server.(*fileStore).",         // or is itself left behind
		"resetPendingAcksOnReconnect",  // of an upload to NATS that ended before this one began to run
		"testkit.leftOver(", "runtime.ensureSigM", "(*persistConn)", "created by testing.RunTests", "created by testing/synctest",
	} {
		if strings.Contains(stack, s) {
			return true
		}
	}
	return false
}

// update is registered under the name every golden test uses.
func update() bool {
	f := flag.Lookup("update")
	return f != nil && f.Value.String() == "true"
}

func init() {
	flag.Bool("update", false, "rewrite golden files")
}

// Golden compares got with the file called name, or writes the file when the
// tests run with -update.
func Golden(t testing.TB, name string, got []byte) {
	t.Helper()
	if update() {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v (run the test with -update to write it)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs; run the test with -update if that is right (-want +got)\n%s", name, diff)
	}
}

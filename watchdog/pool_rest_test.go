package watchdog_test

import (
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// eventually waits for a condition that nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came that %s", what)
		}
	}
}

const counting = `
import os
def load(context): return [os.getpid()]
def handle(model, event, context): return f"{model[0]} {os.getpid()}"
`

func TestAPoolThatRestsKeepsWhatItHasLoaded(t *testing.T) {
	line, platform, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer platform.Close()
	o := pool(t, counting)
	o.Workers.Style = "model"
	if o.LifelineFD, err = syscall.Dup(int(line.Fd())); err != nil { // the watchdog owns what it gets
		t.Fatal(err)
	}
	line.Close()
	r := start(t, o).up()
	loaded, first, _ := strings.Cut(r.do("GET", "/", "").body, " ")

	rest := func() {
		if _, err := platform.Write([]byte("r")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the pool rests", func() bool { return r.do("GET", "/_/ready", "").header.Get("X-Resting") != "" })
		if got := r.do("GET", "/_/ready", ""); got.status != http.StatusOK || got.header.Get("X-Max-Inflight") != "2" {
			t.Errorf("a pool that rests says %d %v", got.status, got.header)
		}
	}
	rest()
	again, second, _ := strings.Cut(r.do("GET", "/", "").body, " ")
	if again != loaded || second == first {
		t.Errorf("process %s loaded and %s answered, then %s and %s; want the first to stay and the second to change", loaded, first, again, second)
	}
	if r.do("GET", "/_/ready", "").header.Get("X-Resting") != "" {
		t.Error("it rests although it was called")
	}

	rest()
	if _, err := platform.Write([]byte("?w")); err != nil { // of which one is no command
		t.Fatal(err)
	}
	eventually(t, "a worker is there before the call", func() bool { return r.do("GET", "/_/ready", "").header.Get("X-Resting") == "" })
}

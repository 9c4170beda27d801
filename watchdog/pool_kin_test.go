package watchdog_test

import (
	"errors"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bomb multiplies, but stops by itself at 150 processes. Each of them adds its
// id to a file of its own.
const bomb = `
import os, sys, time
dir = os.environ["BOMB_DIR"]
def multiply(how):
    try:
        while len(os.listdir(dir)) < 150:
            if os.fork() == 0:
                if how != "group": os.setsid()
                if how == "orphans" and os.fork() != 0: os._exit(0)
                open(f"{dir}/{os.getpid()}", "w").close()
    except OSError: pass
    time.sleep(1000)
def threads():
    import threading
    for _ in range(100): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    time.sleep(1000)
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0: os._exit(0)
        open(f"{dir}/{os.getpid()}", "w").close()
        time.sleep(1000)
        os._exit(0)
    os.wait()
    while not os.listdir(dir): pass
def handle(event, context):
    what = event.path[1:]
    if what == "threads": threads()
    if what == "daemon": daemon()
    if what == "child":
        if os.fork() == 0:
            os.setsid()
            open(f"{dir}/{os.getpid()}", "w").close()
            time.sleep(1000)
        while not os.listdir(dir): pass
    if what == "late":
        if os.fork() == 0: multiply("group")
    if what in ("group", "sessions", "orphans"): multiply(what)
    return str(os.getpid())
`

// gone waits until none of the processes that the bomb has noted runs any more.
func gone(t *testing.T, dir string) {
	t.Helper()
	remain(t, dir, 0)
}

// remain waits until at most so many of them run.
func remain(t *testing.T, dir string, most int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) == 0 {
		t.Error("the function has started no processes")
	}
	runs := func(e os.DirEntry) bool {
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		_, rest, _ := strings.Cut(string(b), ") ")
		return err == nil && !strings.HasPrefix(rest, "Z")
	}
	for {
		if entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !runs(e) }); len(entries) <= most {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func needProc(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("SKIPPED: processes are not followed where there is no /proc")
	}
}

func TestAWorkerThatMultipliesIsKilledWithAllItsProcesses(t *testing.T) {
	needProc(t)
	for _, how := range []string{"group", "sessions", "late"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			o := pool(t, bomb, "BOMB_DIR="+dir)
			o.Workers.MaxProcesses, o.Workers.Max = 40, 1
			r := start(t, o).up()
			explode := func() {
				got := r.do("GET", "/"+how, "", "X-Timeout", "1h")
				if how == "late" {
					for !strings.Contains(r.do("GET", "/_/metrics", "").body, `pool_worker_kills_total{reason="processes"} 1`) {
						time.Sleep(time.Millisecond)
					}
				} else if got.status != http.StatusInternalServerError || !strings.Contains(got.body, "more than max_processes, 40") {
					t.Errorf("got %d %q", got.status, got.body)
				}
				gone(t, dir)
			}
			explode()
			// Beside so many the moment that a worker has to say where may be too short.
			for how != "late" && !strings.Contains(r.out.String(), "in multiply") && !t.Failed() {
				if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
					t.Fatal(err)
				}
				explode()
			}
			if got := r.do("GET", "/", ""); got.status != http.StatusOK {
				t.Errorf("the next call got %d %q", got.status, got.body)
			}
		})
	}
}

func TestThreadsCountAsProcesses(t *testing.T) {
	needProc(t)
	o := pool(t, bomb, "BOMB_DIR="+t.TempDir())
	o.Workers.MaxProcesses = 40
	r := start(t, o).up()
	if got := r.do("GET", "/threads", ""); !strings.Contains(got.body, "more than max_processes, 40") {
		t.Errorf("got %d %q", got.status, got.body)
	}
}

func TestWhatAWorkerHasStartedEndsWithIt(t *testing.T) {
	needProc(t)
	dir := t.TempDir()
	o := pool(t, bomb, "BOMB_DIR="+dir)
	o.Workers.MaxProcesses, o.Workers.Max = 40, 1
	r := start(t, o).up()
	pid, err := strconv.Atoi(r.do("GET", "/child", "").body)
	if err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(r.do("GET", "/_/metrics", "").body, "pool_processes 1\n") { // until it has been seen
		time.Sleep(time.Millisecond)
	}
	worker, _ := os.FindProcess(pid)
	if err := worker.Kill(); err != nil {
		t.Fatal(err)
	}
	gone(t, dir)
}

// The watchdog of a container or of a platform's replica is a process of its
// own, and follows even those that have lost their parents.
func TestOrphansAreFollowedAndReaped(t *testing.T) {
	needProc(t)
	serve := func(t *testing.T, dir string) *running {
		return program(t, pool(t, bomb), "max_processes=40", "BOMB_DIR="+dir, "workers=1")
	}
	t.Run("bomb", func(t *testing.T) {
		dir := t.TempDir()
		r := serve(t, dir)
		// Whose they are cannot be told, so the call that began it may go on.
		if got, _ := r.try("GET", "/orphans", "", "X-Timeout", "2s"); got.status < 500 {
			t.Errorf("got %d %q", got.status, got.body)
		}
		// Those that were just being started may escape, as long as they are few.
		remain(t, dir, 40)
		if got := r.do("GET", "/", ""); got.status != http.StatusOK {
			t.Errorf("the next call got %d %q", got.status, got.body)
		}
		r.stop()
		<-r.ended
		gone(t, dir)
	})
	t.Run("daemon", func(t *testing.T) {
		dir := t.TempDir()
		r := serve(t, dir)
		if got := r.do("GET", "/daemon", ""); got.status != http.StatusOK {
			t.Errorf("got %d %q", got.status, got.body)
		}
		entries, _ := os.ReadDir(dir)
		pid, _ := strconv.Atoi(entries[0].Name())
		daemon, _ := os.FindProcess(pid)
		for !strings.Contains(r.do("GET", "/_/metrics", "").body, "pool_processes 1\n") {
			time.Sleep(time.Millisecond)
		}
		if err := daemon.Kill(); err != nil {
			t.Fatal(err)
		}
		for { // until it has been reaped, and not only died
			if _, err := os.Stat("/proc/" + entries[0].Name()); err != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if got := r.do("GET", "/daemon", ""); got.status != http.StatusOK {
			t.Errorf("got %d %q", got.status, got.body)
		}
		r.stop()
		<-r.ended
		gone(t, dir)
	})
}

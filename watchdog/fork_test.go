package watchdog_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/watchdog"
)

// forking runs a shell script for each call.
func forking(mode watchdog.Mode, script string) watchdog.Options {
	return watchdog.Options{
		Mode: mode, Process: []string{"sh", "-c", script}, Environ: os.Environ(),
		ContentType: "text/x-test", Classic: watchdog.ClassicOptions{CGIHeaders: true, CombineOutput: true},
	}
}

var forkModes = []watchdog.Mode{watchdog.Streaming, watchdog.Serializing, watchdog.Classic}

// inEachForkMode runs a test in the modes that start a process for each call.
func inEachForkMode(t *testing.T, test func(t *testing.T, mode watchdog.Mode)) {
	for _, mode := range forkModes {
		t.Run(string(mode), func(t *testing.T) { test(t, mode) })
	}
}

func TestABodyGoesInAndOutputComesBack(t *testing.T) {
	inEachForkMode(t, func(t *testing.T, mode watchdog.Mode) {
		r := start(t, forking(mode, `cat; echo aside >&2`))
		if mode == watchdog.Classic {
			r = start(t, forking(mode, `cat`))
		}
		r.up()
		for _, body := range []string{"", "hello", strings.Repeat("0123456789abcdef", 1<<17)} {
			got := r.do("POST", "/", body)
			if got.status != http.StatusOK || got.body != body {
				t.Errorf("%d bytes: %d, %d bytes", len(body), got.status, len(got.body))
			}
			if got.header.Get("Content-Type") != "text/x-test" || !strings.Contains(got.header.Get("Server-Timing"), "handler;dur=") {
				t.Errorf("headers: %v", got.header)
			}
		}
		if got := r.do("HEAD", "/", ""); mode != watchdog.Classic && got.status != http.StatusOK {
			t.Errorf("HEAD: %d", got.status)
		}
		if mode != watchdog.Classic {
			r.awaitOutput("aside\n")
		}
	})
}

func TestABodyOfUnknownLengthGoesIn(t *testing.T) {
	inEachForkMode(t, func(t *testing.T, mode watchdog.Mode) {
		r := start(t, forking(mode, `cat`)).up()
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://function/", io.MultiReader(strings.NewReader("one "), strings.NewReader("two")))
		if err != nil {
			t.Fatal(err)
		}
		res, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); string(body) != "one two" {
			t.Errorf("got %q, %v", body, err)
		}
	})
}

func TestAProcessIsToldOfItsRequest(t *testing.T) {
	inEachForkMode(t, func(t *testing.T, mode watchdog.Mode) {
		r := start(t, forking(mode, `env`)).up()
		got := r.do("PUT", "/a%20b/%00?testing=1", "xyz", "X-Some-Thing", "one", "X-Some-Thing", "two", "X_Forged", "1", "Proxy", "http://evil", "Path", "/etc")
		vars := map[string]string{}
		for line := range strings.Lines(got.body) {
			if k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "="); strings.HasPrefix(k, "Http_") {
				vars[k] = v
			}
		}
		want := map[string]string{
			"Http_Method": "PUT", "Http_Path": "/a b/%00", "Http_Query": "testing=1", "Http_Host": "function",
			"Http_ContentLength": "3", "Http_Content_Length": "3",
			"Http_X_Some_Thing": "one, two", "Http_User_Agent": "Go-http-client/1.1", "Http_Accept_Encoding": "gzip",
		}
		if diff := cmp.Diff(want, vars); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestHeadersTooLargeForAProcessAreTheCallersFault(t *testing.T) {
	r := start(t, forking(watchdog.Streaming, `true`)).up()
	if got := r.do("GET", "/", "", "X-Large", strings.Repeat("x", 500<<10)); got.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d %q", got.status, got.body)
	}
}

func TestAProcessThatFailsIsACallThatFails(t *testing.T) {
	inEachForkMode(t, func(t *testing.T, mode watchdog.Mode) {
		for script, want := range map[string]string{
			`cat >/dev/null; exit 3`: "exit status 3",
			`exit 3`:                 "exit status 3",
			`kill -SEGV $$`:          "signal: segmentation fault",
			`echo why >&2; exit 1`:   "exit status 1",
		} {
			r := start(t, forking(mode, script)).up()
			for _, body := range []string{"", "body", strings.Repeat("x", 1<<20)} {
				got := r.do("POST", "/", body)
				if got.status != http.StatusInternalServerError || !strings.Contains(got.body, want) || got.header.Get("X-OpenFaaS-Internal") != "" {
					t.Errorf("%s: %d %q %v", script, got.status, got.body, got.header)
				}
			}
		}
	})
}

func TestAnAnswerThatFailsHalfwayIsNotWhole(t *testing.T) {
	r := start(t, forking(watchdog.Streaming, `echo half; exit 1`)).up()
	got, err := r.try("GET", "/", "")
	if err == nil && got.status == http.StatusOK {
		t.Errorf("the answer looks whole: %d %q", got.status, got.body)
	}
	if got.body != "half\n" {
		t.Errorf("what was printed did not come: %q", got.body)
	}
}

func TestStreamingSendsOutputAsItComes(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, forking(watchdog.Streaming, `echo first; cat <`+gate)).up()
	res, err := r.client.Get("http://function/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, 6)
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "first\n" {
		t.Fatalf("%q, %v", first, err)
	}
	if err := os.WriteFile(gate, []byte("second"), 0); err != nil { // the process waits for this
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "second" {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestStreamingTalksWhileItListens(t *testing.T) {
	r := start(t, forking(watchdog.Streaming, `while read -r line; do echo "<$line>"; done`)).up()
	in, out := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://function/", in)
	if err != nil {
		t.Fatal(err)
	}
	var res *http.Response
	for i := range 3 {
		if i == 0 {
			go fmt.Fprintln(out, i)
			if res, err = r.client.Do(req); err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
		} else {
			fmt.Fprintln(out, i)
		}
		line := make([]byte, 4)
		if _, err := io.ReadFull(res.Body, line); err != nil || string(line) != fmt.Sprintf("<%d>\n", i) {
			t.Fatalf("line %d came back as %q, %v", i, line, err)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

func TestAProcessNeedNotReadItsInput(t *testing.T) {
	inEachForkMode(t, func(t *testing.T, mode watchdog.Mode) {
		r := start(t, forking(mode, `echo done`)).up()
		for range 3 {
			if got := r.do("POST", "/", strings.Repeat("x", 3<<20)); got.status != http.StatusOK || got.body != "done\n" {
				t.Errorf("got %d %q", got.status, got.body)
			}
		}
	})
}

// The rest of a request whose answer is complete must not be taken for the
// next one, nor waited for.
func TestAnUnfinishedRequestEndsWithItsAnswer(t *testing.T) {
	r := start(t, forking(watchdog.Streaming, `echo done`)).up()
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 1000000\r\n\r\n%s", strings.Repeat("x", 70<<10))
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"200 OK\r\n", "Connection: close\r\n", "done\n"} {
		if !strings.Contains(string(answer), want) {
			t.Errorf("no %q in\n%s", want, answer)
		}
	}
}

func TestARequestThatBreaksOffEndsItsProcess(t *testing.T) {
	dir := t.TempDir()
	r := start(t, forking(watchdog.Streaming, `echo $$ >`+dir+`/pid.new; mv `+dir+`/pid.new `+dir+`/pid; cat >/dev/null; echo whole >`+dir+`/whole`)).up()
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	pid := awaitPID(t, dir+"/pid")
	conn.Close()
	awaitDeath(t, pid)
	if _, err := os.Stat(dir + "/whole"); err == nil {
		t.Error("the process took half a request for a whole one")
	}
}

func awaitPID(t *testing.T, file string) int {
	t.Helper()
	for {
		b, err := os.ReadFile(file)
		if err == nil {
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
		if t.Context().Err() != nil {
			t.Fatalf("%s never came", file)
		}
		time.Sleep(time.Millisecond)
	}
}

// awaitDeath returns when a process is gone, or dead and not yet buried.
func awaitDeath(t *testing.T, pid int) {
	t.Helper()
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return
		}
		if _, state, _ := strings.Cut(string(b), ") "); strings.HasPrefix(state, "Z") {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestNothingOfACallOutlivesIt(t *testing.T) {
	inEachForkMode(t, func(t *testing.T, mode watchdog.Mode) {
		dir := t.TempDir()
		hang := `sleep 1000 & echo $! >` + dir + `/pid.new; mv ` + dir + `/pid.new ` + dir + `/pid; wait`
		t.Run("when its time is up", func(t *testing.T) {
			o := forking(mode, hang)
			o.ExecTimeout = time.Second
			r := start(t, o).up()
			got := r.do("POST", "/", "body")
			if got.status != http.StatusGatewayTimeout || got.header.Get("X-OpenFaaS-Internal") != "watchdog" {
				t.Errorf("got %d %q", got.status, got.body)
			}
			awaitDeath(t, awaitPID(t, dir+"/pid"))
		})
		os.Remove(dir + "/pid")
		t.Run("when its caller leaves", func(t *testing.T) {
			r := start(t, forking(mode, hang)).up()
			conn, err := net.Dial("unix", r.socket)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 4\r\n\r\nbody")
			pid := awaitPID(t, dir+"/pid")
			conn.Close()
			awaitDeath(t, pid)
		})
		os.Remove(dir + "/pid")
		t.Run("when the drain's time is up", func(t *testing.T) {
			o := forking(mode, hang)
			o.ExecTimeout = 200 * time.Millisecond
			r := start(t, o).up()
			go r.try("GET", "/", "")
			pid := awaitPID(t, dir+"/pid")
			r.stop()
			<-r.ended
			awaitDeath(t, pid)
		})
		t.Run("when it ends well", func(t *testing.T) {
			r := start(t, forking(mode, `sleep 1000 & echo $!`)).up()
			got := r.do("GET", "/", "")
			pid, err := strconv.Atoi(strings.TrimSpace(got.body))
			if err != nil {
				t.Fatalf("got %d %q", got.status, got.body)
			}
			awaitDeath(t, pid)
		})
	})
}

func TestARunningProcessFinishesAfterTheStop(t *testing.T) {
	inEachForkMode(t, func(t *testing.T, mode watchdog.Mode) {
		dir := t.TempDir()
		if err := syscall.Mkfifo(dir+"/gate", 0o600); err != nil {
			t.Fatal(err)
		}
		o := forking(mode, `echo $$ >`+dir+`/pid.new; mv `+dir+`/pid.new `+dir+`/pid; cat `+dir+`/gate`)
		o.ExecTimeout = time.Minute
		r := start(t, o).up()
		answer := make(chan reply, 1)
		go func() { got, _ := r.try("GET", "/", ""); answer <- got }()
		awaitPID(t, dir+"/pid")
		r.stop()
		if err := os.WriteFile(dir+"/gate", []byte("late"), 0); err != nil {
			t.Fatal(err)
		}
		if got := <-answer; got.status != http.StatusOK || got.body != "late" {
			t.Errorf("got %d %q", got.status, got.body)
		}
		<-r.ended
		if r.err != nil {
			t.Errorf("Run() = %v", r.err)
		}
	})
}

func TestADescendantThatGotAwayHoldsNobodyUp(t *testing.T) {
	if _, err := os.Stat("/usr/bin/setsid"); err != nil {
		t.Skip("SKIPPED: there is no setsid to get away with")
	}
	r := start(t, forking(watchdog.Streaming, `setsid sleep 30 & echo $!`)).up()
	got := r.do("GET", "/", "")
	if got.status != http.StatusOK {
		t.Errorf("got %d %q", got.status, got.body)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(got.body)); err == nil {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

func TestWhatMustBeHeldIsBounded(t *testing.T) {
	for _, mode := range []watchdog.Mode{watchdog.Serializing, watchdog.Classic} {
		o := forking(mode, `if [ "$(cat)" = flood ]; then cat /dev/zero; fi; echo fine`)
		o.MaxBuffer = 10
		r := start(t, o).up()
		for body, want := range map[string]int{
			"0123456789":  http.StatusOK,
			"0123456789a": http.StatusRequestEntityTooLarge,
			"flood":       http.StatusInternalServerError,
		} {
			if got := r.do("POST", "/", body); got.status != want {
				t.Errorf("%s, %q: %d %q, want %d", mode, body, got.status, got.body, want)
			}
		}
	}
}

func TestAProgramThatIsNotThereIsFoundOutAtOnce(t *testing.T) {
	r := start(t, watchdog.Options{Mode: watchdog.Streaming, Process: []string{"no-such-program"}})
	<-r.ended
	if r.err == nil || !strings.Contains(r.err.Error(), "no-such-program") {
		t.Errorf("Run() = %v", r.err)
	}
}

func TestForkModesCountTheirProcesses(t *testing.T) {
	r := start(t, forking(watchdog.Serializing, `exit $(cat)`)).up()
	r.do("POST", "/", "0")
	r.do("POST", "/", "1")
	text := r.do("GET", "/_/metrics", "").body
	for _, want := range []string{"fork_processes 0\n", "fork_processes_started_total 2\n", "fork_processes_failed_total 1\n", `http_requests_total{code="500",method="POST"} 1` + "\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func TestTheClassicHabits(t *testing.T) {
	r := start(t, forking(watchdog.Classic, `in=$(cat); echo "$in"; echo "$in" >&2; test "$in" != bad`)).up()
	got := r.do("POST", "/", "ok")
	if got.status != http.StatusOK || got.body != "ok\nok\n" {
		t.Errorf("got %d %q", got.status, got.body)
	}
	r.awaitOutput(" Forking fprocess.\n")
	r.awaitOutput(" Wrote 6 Bytes - Duration: ")
	if got := r.do("POST", "/", "bad"); got.status != http.StatusInternalServerError || got.body != "exit status 1\nbad\nbad\n" {
		t.Errorf("got %d %q", got.status, got.body)
	}
	if got := r.do("OPTIONS", "/", ""); got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != "GET, POST, PUT, PATCH, DELETE" {
		t.Errorf("OPTIONS: %d %v", got.status, got.header)
	}
}

func TestTheClassicAnswerHasTheTypeOfTheRequest(t *testing.T) {
	o := forking(watchdog.Classic, `cat`)
	o.ContentType = ""
	r := start(t, o).up()
	if got := r.do("POST", "/", "{}", "Content-Type", "application/json"); got.header.Get("Content-Type") != "application/json" {
		t.Errorf("headers: %v", got.header)
	}
}

func TestTheClassicSwitches(t *testing.T) {
	o := forking(watchdog.Classic, `env | grep Http_; echo aside >&2; cat`)
	o.Classic = watchdog.ClassicOptions{MarshalRequest: true, WriteDebug: true, DebugHeaders: true}
	r := start(t, o).up()
	got := r.do("POST", "/", "body", "X-Seen", "1", "Authorization", "Bearer secret")
	for _, want := range []string{`"X-Seen":["1"]`, `"body":{"raw":"` + base64.StdEncoding.EncodeToString([]byte("body")) + `"}`} {
		if !strings.Contains(got.body, want) {
			t.Errorf("no %s in %s", want, got.body)
		}
	}
	if strings.Contains(got.body, "aside") || strings.Contains(got.body, "Http_") {
		t.Errorf("got what was switched off: %s", got.body)
	}
	r.awaitOutput("Out: {")
	r.awaitOutput("aside\n")
	r.awaitOutput("X-Seen: 1\n")
	if printed, _, _ := strings.Cut(r.out.String(), "Out: "); strings.Contains(printed, "secret") {
		t.Errorf("a secret is in the log:\n%s", printed)
	}
}

func BenchmarkStreaming(b *testing.B) {
	benchmark(b, watchdog.Options{Mode: watchdog.Streaming, Process: []string{"/bin/true"}, Environ: os.Environ()})
}

package watchdog_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestAServerMayTakeOverTheConnection(t *testing.T) {
	o := child(t)
	o.ExecTimeout = time.Minute
	r := start(t, o).up()
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /upgrade HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%v, %v", res, err)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := br.ReadString('\n'); line != "hello\n" {
		t.Errorf("echoed %q, %v", line, err)
	}
}

func TestEventsComeAtOnceAndTheServerLearnsWhenTheirListenerLeaves(t *testing.T) {
	r := start(t, child(t)).up()
	res, err := r.client.Get("http://function/events")
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, len("data: 1\n\n"))
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "data: 1\n\n" {
		t.Errorf("%q, %v", first, err)
	}
	res.Body.Close()
	r.awaitOutput("the listener has left")
}

func TestABodyCanBeGivenALength(t *testing.T) {
	for buffered, want := range map[bool]string{false: " -1 ", true: " 7 "} {
		o := child(t)
		o.BufferBody, o.MaxBuffer = buffered, 10
		r := start(t, o).up()
		post := func(body string) *http.Response {
			req, err := http.NewRequestWithContext(t.Context(), "POST", "http://function/echo", io.MultiReader(strings.NewReader(body)))
			if err != nil {
				t.Fatal(err)
			}
			res, err := r.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			return res
		}
		if got := post("one two").Header.Get("X-Seen"); !strings.Contains(got, want) {
			t.Errorf("buffered %v: the server saw %q", buffered, got)
		}
		if got := post("one two three").StatusCode; buffered && got != http.StatusRequestEntityTooLarge {
			t.Errorf("over the bound: %d", got)
		}
	}
}

func TestAFullFunctionSaysSoAndIsNotAskedWhetherItIsReady(t *testing.T) {
	entered, leave := make(chan struct{}, 2), make(chan struct{})
	o := inProcess(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/warm" {
			io.WriteString(w, "asked")
			return
		}
		entered <- struct{}{}
		<-leave
	})
	o.MaxInflight, o.ReadyPath = 1, "/warm"
	r := start(t, o).up()
	done := make(chan struct{})
	go func() { defer close(done); r.try("GET", "/", "") }()
	<-entered
	if status, body := r.tryReady(); status != http.StatusOK || body != "ready: full, with 1 calls running\n" {
		t.Errorf("full: %d %q", status, body)
	}
	close(leave)
	<-done
	for { // the call has been answered, and is about to leave
		if _, body := r.tryReady(); body == "asked" {
			break
		}
	}
}

func TestTheHealthcheckCommandAsksTheWatchdog(t *testing.T) {
	r := start(t, inProcess(func(http.ResponseWriter, *http.Request) {})).up()
	for listen, want := range map[string]int{r.socket: 0, r.socket + "x": 1} {
		cmd := self(t, "healthcheck", "listen=unix:"+listen)
		_ = cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("exit status %d, want %d", got, want)
		}
	}
}

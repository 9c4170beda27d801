package watchdog

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// writes counts how often it is written to.
type writes struct {
	mu   sync.Mutex
	text bytes.Buffer
	n    int
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
	return w.text.Write(p)
}

func (w *writes) seen() (n int, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n, w.text.String()
}

func TestABurstOfLogLinesIsOneWriteAndALoneLineDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w writes
		l := accessLog{w: &w}
		l.line(time.Now(), []byte("alone"))
		if n, text := w.seen(); n != 1 {
			t.Fatalf("a line of its own waits: %q", text)
		}
		for range 100 {
			l.line(time.Now(), []byte("burst"))
		}
		if n, _ := w.seen(); n != 1 {
			t.Errorf("a burst made %d writes", n-1)
		}
		time.Sleep(logPause)
		synctest.Wait()
		if n, text := w.seen(); n != 2 || strings.Count(text, " burst\n") != 100 {
			t.Errorf("%d writes: %q", n-1, text)
		}
		time.Sleep(time.Second)
		l.line(time.Now(), []byte("later"))
		if _, text := w.seen(); !strings.HasSuffix(text, time.Now().Format(logTime)+" later\n") {
			t.Errorf("the last line is not dated now: %q", text)
		}
	})
}

func TestDecimals(t *testing.T) {
	for want, n := range map[string]int64{"0.000": 0, "0.001": 1, "0.012": 12, "1.000": 1000, "12345.678": 12345678} {
		if got := string(appendDecimal(nil, n, 3)); got != want {
			t.Errorf("%d is written as %s, want %s", n, got, want)
		}
	}
}

func TestCallsRunOutInTheirOrderAndOthersAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deadlines{budget: time.Second}
		begin := func() *answer {
			a := newAnswer(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), time.Now())
			a.context.deadline = time.Now().Add(d.budget)
			d.add(a)
			return a
		}
		first := begin()
		time.Sleep(400 * time.Millisecond)
		second, third := begin(), begin()
		time.Sleep(500 * time.Millisecond)
		d.remove(second)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if statusOf(first) != http.StatusGatewayTimeout || statusOf(third) != 0 {
			t.Errorf("after 1.1 s the first was answered %d and the third %d", statusOf(first), statusOf(third))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if statusOf(second) != 0 || statusOf(third) != http.StatusGatewayTimeout {
			t.Errorf("after 2.1 s the second, which had ended, was answered %d and the third %d", statusOf(second), statusOf(third))
		}
		if err := context.Cause(&third.context); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a context first looked at after its end has the cause %v", err)
		}
		d.remove(first)
		d.remove(third)
		synctest.Wait()
		fourth := begin() // the timer starts again
		time.Sleep(d.budget)
		synctest.Wait()
		if statusOf(fourth) != http.StatusGatewayTimeout {
			t.Errorf("a call after a pause was answered %d", statusOf(fourth))
		}
	})
}

func statusOf(a *answer) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status
}

func TestTheContextOfACallEndsWithItsRequest(t *testing.T) {
	request, leave := context.WithCancelCause(t.Context())
	c := callContext{request: request, deadline: time.Now().Add(time.Hour)}
	child, cancel := context.WithCancel(&c)
	defer cancel()
	left := errors.New("the client left")
	leave(left)
	<-child.Done()
	if err := context.Cause(child); !errors.Is(err, left) {
		t.Errorf("a child ended because of %v", err)
	}
}

package web_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/internal/web"
)

// Both ways of reaching a handler must look the same to whoever calls it.
func transports(t *testing.T, h http.Handler) map[string]http.RoundTripper {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	network := srv.Client().Transport
	return map[string]http.RoundTripper{
		"in process": web.InProcess(h),
		"network": roundTripper(func(r *http.Request) (*http.Response, error) {
			r = r.Clone(r.Context())
			r.URL.Host = strings.TrimPrefix(srv.URL, "http://")
			return network.RoundTrip(r)
		}),
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func request(t *testing.T, method, uri string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://peer"+uri, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestACallInTheProcessAnswersAsOneOverTheNetwork(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			w.Header().Set("X-Seen", r.Method+" "+r.RequestURI+" "+r.Host+" "+r.Header.Get("X-Sent"))
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusTeapot)
			io.Copy(w, r.Body)
		case "/empty":
			w.WriteHeader(http.StatusNoContent)
		case "/nothing":
		case "/length":
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "12345")
		}
		w.Header().Set("X-Late", "not sent")
	})
	type answer struct {
		status int
		seen   string
		body   string
		length int64
	}
	for name, rt := range transports(t, h) {
		for _, tt := range []struct {
			method, uri, body string
			want              answer
		}{
			{"POST", "/echo?a=1&b=%2F", "hello", answer{418, "POST /echo?a=1&b=%2F peer yes", "hello", 5}},
			{"HEAD", "/length", "", answer{200, "", "", 5}},
			{"GET", "/length", "", answer{200, "", "12345", 5}},
			{"GET", "/empty", "", answer{204, "", "", 0}},
			{"GET", "/nothing", "", answer{200, "", "", 0}},
		} {
			r := request(t, tt.method, tt.uri, strings.NewReader(tt.body))
			r.Host = "peer"
			r.Header.Set("X-Sent", "yes")
			resp, err := rt.RoundTrip(r)
			if err != nil {
				t.Fatalf("%s: %s %s: %v", name, tt.method, tt.uri, err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Errorf("%s: %s %s: body: %v", name, tt.method, tt.uri, err)
			}
			got := answer{resp.StatusCode, resp.Header.Get("X-Seen"), string(body), resp.ContentLength}
			if got.length == -1 {
				got.length = int64(len(body)) // neither has to know the length before the end
			}
			if got != tt.want {
				t.Errorf("%s: %s %s:\n got %+v\nwant %+v", name, tt.method, tt.uri, got, tt.want)
			}
			if resp.Header.Get("X-Late") != "" && resp.Header.Get("X-Seen") != "" {
				t.Errorf("%s: %s %s: a header set after the answer began was sent", name, tt.method, tt.uri)
			}
		}
	}
}

func TestAnAnswerInTheProcessStreams(t *testing.T) {
	for _, name := range []string{"in process", "network"} {
		next := make(chan string)
		rt := transports(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for s := range next {
				io.WriteString(w, s)
				http.NewResponseController(w).Flush()
			}
		}))[name]
		go func() { next <- "one" }()
		resp, err := rt.RoundTrip(request(t, "GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 3)
		for _, want := range []string{"one", "two"} {
			if want == "two" {
				next <- "two"
			}
			if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != want {
				t.Errorf("%s: read %q, %v; want %q", name, buf, err, want)
			}
		}
		resp.Body.Close()
		close(next)
	}
}

func TestClosingTheBodyOrCancellingReachesTheHandler(t *testing.T) {
	ended := make(chan error, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/answers" {
			http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		ended <- r.Context().Err()
	})
	for name, rt := range transports(t, h) {
		resp, err := rt.RoundTrip(request(t, "GET", "/answers", nil))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: closed: handler's context ended with %v", name, err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error)
		go func() {
			_, err := rt.RoundTrip(request(t, "GET", "/silent", nil).WithContext(ctx))
			failed <- err
		}()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: cancelled before the answer: %v", name, err)
		}
		if name == "in process" {
			<-ended
		}
	}
}

func TestAHandlerThatWritesToACancelledCallerIsNotStuck(t *testing.T) {
	written := make(chan error, 1)
	begin := make(chan struct{})
	rt := web.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-begin
		for {
			if _, err := io.WriteString(w, "anybody there?"); err != nil {
				written <- err
				return
			}
		}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := rt.RoundTrip(request(t, "GET", "/", nil).WithContext(ctx))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("RoundTrip: %v, want context.Canceled", err)
	}
	close(begin)
	if err := <-written; !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v, want context.Canceled", err)
	}
}

func TestAPanicInTheProcessIsAnErrorOfTheCall(t *testing.T) {
	rt := web.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			io.WriteString(w, "half")
		}
		panic("boom")
	}))
	if _, err := rt.RoundTrip(request(t, "GET", "/early", nil)); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("before the answer: %v", err)
	}
	resp, err := rt.RoundTrip(request(t, "GET", "/late", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "half" || err == nil {
		t.Errorf("after it began: %q, %v; want the half and an error", body, err)
	}
}

func TestTheRequestsBodyIsClosed(t *testing.T) {
	body := &closable{Reader: strings.NewReader("unread"), closed: make(chan struct{})}
	resp, err := web.InProcess(http.NotFoundHandler()).RoundTrip(request(t, "POST", "/", body))
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	<-body.closed
}

type closable struct {
	io.Reader
	closed chan struct{}
}

func (c *closable) Close() error { close(c.closed); return nil }

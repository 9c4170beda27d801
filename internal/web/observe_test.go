package web_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/graphene-faas/graphene/internal/web"
)

func get(t *testing.T, h http.Handler, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/path?secret=query", nil)
	maps.Copy(r.Header, header)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestEveryRequestHasACallID(t *testing.T) {
	var inside, forwarded string
	h := web.IdentifyCalls(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		inside, forwarded = web.CallID(r.Context()), r.Header.Get(web.HeaderCallID)
	}))
	for sent, kept := range map[string]bool{
		"": false, "abc-123": true, strings.Repeat("x", 128): true, strings.Repeat("x", 129): false,
		"two words": false, "line\nbreak": false, "über": false, "tab\t": false,
	} {
		w := get(t, h, http.Header{web.HeaderCallID: {sent}})
		got := w.Header().Get(web.HeaderCallID)
		if got == "" || got != inside || got != forwarded {
			t.Errorf("sent %q: answer %q, context %q, request %q; want one id", sent, got, inside, forwarded)
		}
		if (got == sent) != kept {
			t.Errorf("sent %q: got %q", sent, got)
		}
	}
}

func TestCallIDsAreRandomUUIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := web.NewCallID()
		parsed, err := uuid.Parse(id)
		if err != nil || parsed.Version() != 4 || parsed.Variant() != uuid.RFC4122 || parsed.String() != id {
			t.Fatalf("NewCallID() = %q, which is not a random UUID: %v", id, err)
		}
		if seen[id] {
			t.Fatalf("NewCallID() = %q twice", id)
		}
		seen[id] = true
	}
}

func TestObserveSeesStatusAndBytesHoweverTheyAreWritten(t *testing.T) {
	for name, tt := range map[string]struct {
		h    http.HandlerFunc
		want web.Observation
	}{
		"nothing":        {func(http.ResponseWriter, *http.Request) {}, web.Observation{Status: 200}},
		"write":          {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "12345") }, web.Observation{Status: 200, Bytes: 5}},
		"read from":      {func(w http.ResponseWriter, _ *http.Request) { w.(io.ReaderFrom).ReadFrom(strings.NewReader("123")) }, web.Observation{Status: 200, Bytes: 3}},
		"status":         {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 404) }, web.Observation{Status: 404, Bytes: 3}},
		"two statuses":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404); w.WriteHeader(500) }, web.Observation{Status: 404}},
		"informational":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(201) }, web.Observation{Status: 201}},
		"flush by name":  {func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() }, web.Observation{Status: 200}},
		"panics halfway": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202); panic(http.ErrAbortHandler) }, web.Observation{Status: 202}},
	} {
		var got web.Observation
		h := web.Observe(tt.h, func(_ *http.Request, o web.Observation) {
			if o.Duration < 0 {
				t.Errorf("%s: duration %v", name, o.Duration)
			}
			o.Duration = 0
			got = o
		})
		func() {
			defer func() { _ = recover() }()
			get(t, h, nil)
		}()
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func TestObservedHandlersKeepWhatTheServerCanDo(t *testing.T) {
	failed := make(chan error, 1)
	h := web.Observe(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if err := control.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			failed <- err
			return
		}
		conn, _, err := control.Hijack()
		if err == nil {
			io.WriteString(conn, "HTTP/1.1 299 By hand\r\n\r\n")
			err = conn.Close()
		}
		failed <- err
	}), func(*http.Request, web.Observation) {})
	srv := httptest.NewServer(h)
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := <-failed; err != nil || resp.StatusCode != 299 {
		t.Errorf("status %d, %v", resp.StatusCode, err)
	}
}

func TestTheAccessLogHoldsWhatWasChosenAndNothingACallerCouldHide(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "duration" {
			return slog.Attr{}
		}
		return a
	}}))
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		web.Annotate(r.Context(), slog.String("caller", "admin"))
		http.Error(w, "gone", http.StatusGone)
	})
	get(t, web.IdentifyCalls(web.AccessLog(log, web.Changes, inner)), http.Header{
		web.HeaderCallID: {"id-1"}, "Authorization": {"Basic c2VjcmV0"},
	})
	const want = "level=INFO msg=\"request answered\" method=GET path=/path status=410 bytes=5 call_id=id-1 caller=admin\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	out.Reset()
	get(t, web.AccessLog(log, web.Always(slog.LevelDebug), inner), nil)
	if out.Len() > 0 {
		t.Errorf("a quiet route logged %q", out.String())
	}
	get(t, web.AccessLog(log, web.Changes, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})), nil)
	if out.Len() > 0 {
		t.Errorf("a look that was answered logged %q", out.String())
	}
	web.Annotate(t.Context(), slog.String("nobody", "listens"))
}

func TestAPanicIsOneErrorForTheCallerAndAStackForTheLog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	w := get(t, web.Recover(log, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret detail") })), nil)
	if w.Code != 500 || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("answer %d %q", w.Code, w.Body)
	}
	if !strings.Contains(out.String(), "secret detail") || !strings.Contains(out.String(), "observe_test.go") {
		t.Errorf("log %q does not hold the panic and its stack", out.String())
	}
}

func TestAnAnswerThatCannotBeFinishedIsBrokenOff(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"on purpose":   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"half written": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "half"); panic("boom") },
	} {
		func() {
			defer func() {
				if err, ok := recover().(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
					t.Errorf("%s: panic %v, want http.ErrAbortHandler", name, err)
				}
			}()
			get(t, web.Recover(slog.New(slog.DiscardHandler), h), nil)
		}()
	}
}

func TestABoundRequestMustArriveInTimeAndAnUnboundOneNeedNot(t *testing.T) {
	read := make(chan error, 1)
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/unbound" {
			web.Unbound(w)
		}
		_, err := io.ReadAll(r.Body)
		read <- err
	})
	srv := httptest.NewServer(web.Bound(time.Nanosecond, time.Minute, slow))
	defer srv.Close()
	for _, path := range []string{"/bound", "/unbound"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(srv.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
		if path == "/unbound" {
			io.WriteString(conn, "cd")
		}
		err = <-read
		if timeout, ok := errors.AsType[net.Error](err); path == "/bound" && (!ok || !timeout.Timeout()) {
			t.Errorf("%s: %v, want a timeout", path, err)
		}
		if path == "/unbound" {
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 200 {
				t.Errorf("%s: %v, %v", path, resp, err)
			}
		}
		conn.Close()
	}
}

// deadlines remembers which deadlines were set.
type deadlines struct {
	http.ResponseWriter
	read, write int
}

func (d *deadlines) SetReadDeadline(time.Time) error  { d.read++; return nil }
func (d *deadlines) SetWriteDeadline(time.Time) error { d.write++; return nil }

func TestARequestWithoutABodyHasArrivedAndIsNotBound(t *testing.T) {
	h := web.Bound(time.Minute, time.Minute, http.NotFoundHandler())
	for body, want := range map[string]int{"": 0, "text": 1} {
		w := &deadlines{ResponseWriter: httptest.NewRecorder()}
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
		if w.read != want || w.write != 1 {
			t.Errorf("body %q: %d read deadlines, %d write deadlines; want %d and 1", body, w.read, w.write, want)
		}
	}
}

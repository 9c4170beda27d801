package web_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/web"
)

func TestEveryKindSurvivesTheWire(t *testing.T) {
	for _, kind := range []fault.Kind{
		fault.Internal, fault.NotFound, fault.Invalid, fault.Exists, fault.Unauthenticated, fault.Denied, fault.Busy,
		fault.Unavailable, fault.Timeout, fault.TooLarge, fault.Unprocessable, fault.Unsupported, fault.Storage,
		fault.Gone,
	} {
		status := web.Status(fmt.Errorf("wrapped: %w", kind.Errorf("text")))
		if got := web.Kind(status); got != kind {
			t.Errorf("%q becomes %d becomes %q", kind, status, got)
		}
	}
	if got := web.Status(errors.New("no kind")); got != http.StatusInternalServerError {
		t.Errorf("an error without a kind becomes %d", got)
	}
	for status, want := range map[int]fault.Kind{
		418: fault.Invalid, 408: fault.Timeout, 502: fault.Unavailable, 599: fault.Internal,
	} {
		if got := web.Kind(status); got != want {
			t.Errorf("%d becomes %q, want %q", status, got, want)
		}
	}
}

func fail(err error) (*httptest.ResponseRecorder, string) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	w := httptest.NewRecorder()
	h := web.Handler(log, func(http.ResponseWriter, *http.Request) error { return err })
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	return w, out.String()
}

func TestACallerReadsWhatIsMeantForThemAndTheLogTheRest(t *testing.T) {
	w, log := fail(fmt.Errorf("deploy echo: %w", fault.Invalid.Errorf("image is missing")))
	if w.Code != 400 || w.Body.String() != "deploy echo: image is missing\n" || log != "" {
		t.Errorf("a caller's mistake: %d %q, log %q", w.Code, w.Body, log)
	}
	w, log = fail(errors.New("open /secret/path: no such file"))
	if w.Code != 500 || strings.Contains(w.Body.String(), "secret") || !strings.Contains(log, "/secret/path") {
		t.Errorf("our mistake: %d %q, log %q", w.Code, w.Body, log)
	}
}

func TestAnErrorSaysWhenToTryAgain(t *testing.T) {
	for after, want := range map[time.Duration]string{0: "1", 100 * time.Millisecond: "1", 2600 * time.Millisecond: "3"} {
		w, _ := fail(&web.Retry{After: after, Err: fault.Busy.Errorf("full")})
		if got := w.Header().Get("Retry-After"); w.Code != 429 || got != want || w.Body.String() != "full\n" {
			t.Errorf("after %v: %d, Retry-After %q, %q; want %q", after, w.Code, got, w.Body, want)
		}
	}
}

func TestACallerWhoLeftIsNoErrorOfOurs(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
	web.WriteError(w, r, slog.New(slog.NewTextHandler(&out, nil)), fmt.Errorf("ask: %w", context.Canceled))
	if w.Code != web.StatusClientClosedRequest || out.Len() > 0 {
		t.Errorf("status %d, log %q", w.Code, out.String())
	}
}

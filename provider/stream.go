package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/openfaas/faas-provider/logs"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// streamEndpoints tells a gateway where functions live: what there is, or,
// to a reader that names the last event it saw, what has changed since, and
// then changes as they happen.
func (s *Server) streamEndpoints(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	var revision int64
	if text := query.Get("revision"); text != "" {
		var err error
		if revision, err = strconv.ParseInt(text, 10, 64); err != nil || revision < 0 {
			return fault.Invalid.Errorf("revision is %q, want a whole number, 0 or more", text)
		}
	}
	out, err := newLines(w)
	if err != nil {
		return err
	}
	// A reader comes back, and finds a provider that is not about to end.
	ctx, cancel := web.UntilDrain(r.Context())
	defer cancel()
	err = s.hub.stream(ctx, query.Get("epoch"), revision, func(events []function.Event) error {
		for _, e := range events {
			if err := out.encode(e); err != nil {
				return err
			}
		}
		return out.flush()
	})
	if err != nil && ctx.Err() == nil {
		s.Log.Debug("endpoints stream ended", "err", err)
	}
	return nil
}

func (s *Server) streamLogs(w http.ResponseWriter, r *http.Request) error {
	if s.Logs == nil {
		return unsupported()
	}
	request, err := parseLogRequest(r.URL.Query())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	if request.Follow {
		ctx, cancel = web.UntilDrain(r.Context())
	}
	defer cancel() // lets the query end when this reader stops early
	messages, err := s.Logs.Query(ctx, request)
	if errors.Is(err, fault.NotFound) {
		return err
	}
	if err != nil {
		return fmt.Errorf("function log request failed: %w", err)
	}
	out, err := newLines(w)
	if err != nil {
		return err
	}
	for m := range messages {
		if out.encode(m) != nil || out.flush() != nil {
			return nil // the caller went away
		}
	}
	return nil
}

// parseLogRequest reads a query for logs. Of repeated parameters the last one
// counts. Errors are fault.Unprocessable.
func parseLogRequest(query url.Values) (logs.Request, error) {
	last := func(name string) string {
		if values := query[name]; len(values) > 0 {
			return values[len(values)-1]
		}
		return ""
	}
	bad := func(parameter, want string) (logs.Request, error) {
		return logs.Request{}, fault.Unprocessable.Errorf("could not parse the log request: %s is %q, want %s", parameter, last(parameter), want)
	}
	namespace := last("namespace")
	if namespace == "" {
		namespace = function.DefaultNamespace
	}
	ref, err := function.ParseRef(last("name"), namespace)
	if err != nil {
		return logs.Request{}, fault.Unprocessable.Errorf("could not parse the log request: %w", err)
	}
	request := logs.Request{Name: ref.Name, Namespace: ref.Namespace, Instance: last("instance")}
	if text := last("tail"); text != "" {
		if request.Tail, err = strconv.Atoi(text); err != nil {
			return bad("tail", "a whole number")
		}
	}
	if text := last("since"); text != "" {
		since, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return bad("since", "a time as in RFC 3339")
		}
		request.Since = &since
	}
	request.Follow, _ = strconv.ParseBool(last("follow")) // anything unreadable means no, as in OpenFaaS
	return request, nil
}

// lines writes an answer of one JSON value per line for as long as it takes.
type lines struct {
	*json.Encoder
	control *http.ResponseController
}

// newLines sends the headers at once, so that the caller knows that the
// stream stands.
func newLines(w http.ResponseWriter) (lines, error) {
	l := lines{json.NewEncoder(w), http.NewResponseController(w)}
	// A stream outlives the bound on ordinary answers. Writers that know no
	// deadline have none to lift.
	if err := l.control.SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return l, fmt.Errorf("lift the write deadline: %w", err)
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	return l, l.flush()
}

func (l lines) encode(v any) error { return l.Encode(v) }
func (l lines) flush() error       { return l.control.Flush() }

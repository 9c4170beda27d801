package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/web"
)

// pass hands the request to the provider and its answer to the caller.
func (a *API) pass(w http.ResponseWriter, r *http.Request, s subject) error {
	ctx, cancel := a.bound(r)
	defer cancel()
	resp, err := a.ask(ctx, r.Method, r.Header, s)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	relay(w, resp)
	return nil
}

// bound returns r's context with the time the provider has for an answer.
func (a *API) bound(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), a.o.Timeout)
}

// ask sends the provider a request about s. The caller closes the answer's
// body. Of header only what describes the bodies goes along: credentials for
// the gateway are none of the provider's business.
func (a *API) ask(ctx context.Context, method string, header http.Header, s subject) (*http.Response, error) {
	u := a.o.ProviderURL.JoinPath(s.path)
	u.RawQuery = s.query.Encode()
	out, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(s.body))
	if err != nil {
		return nil, fmt.Errorf("ask the provider: %w", err)
	}
	for _, k := range []string{"Accept", "Content-Type", "User-Agent"} {
		if v := header.Values(k); len(v) > 0 {
			out.Header[k] = v
		}
	}
	if id := web.CallID(ctx); id != "" {
		out.Header.Set(web.HeaderCallID, id)
	}
	resp, err := a.o.Provider.RoundTrip(out)
	switch {
	case err == nil:
		return resp, nil
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fault.Timeout.Errorf("the provider took longer than %v to answer", a.o.Timeout)
	case errors.Is(err, context.Canceled):
		return nil, err // the caller went away
	}
	return nil, fault.Unavailable.Errorf("the provider does not answer: %w", err)
}

// relay writes resp to w, each piece as it comes.
func relay(w http.ResponseWriter, resp *http.Response) {
	h := w.Header()
	for k, v := range resp.Header {
		switch k {
		case "Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade": // of the connection, not of the answer
		case web.HeaderCallID: // already there
		default:
			h[k] = v
		}
	}
	w.WriteHeader(resp.StatusCode)
	control := http.NewResponseController(w)
	_ = control.Flush() // a writer that cannot flush buffers nothing
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return // nobody is there to read the rest
			}
			_ = control.Flush()
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, context.Canceled):
			return
		default:
			// The answer is cut short, and its reader must be able to tell.
			panic(http.ErrAbortHandler)
		}
	}
}

package gateway

import (
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/gateway/quota"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/web"
)

// usagePath is where it is asked who used what.
const usagePath = "/system/usage"

// throttled lets requests to next through as fast as the limits allow. Who
// sends them is not known yet, so it is those for addresses.
func (g *Gateway) throttled(next http.Handler) http.Handler {
	if g.o.Limits == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leave, err := g.o.Limits.Enter(quota.Request{Address: web.ClientIP(r)})
		if err != nil {
			web.WriteError(w, r, g.o.Log, err)
			return
		}
		defer leave()
		next.ServeHTTP(w, r)
	})
}

// metered lets the calls to next through that are within the limits, and keeps
// account of them. The path of a call is prefix, the function's name, and what
// the function will see; later says that they are to run later.
func (g *Gateway) metered(prefix string, later bool, next http.Handler) http.Handler {
	if g.o.Limits == nil && g.o.Account == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := &measured{begun: time.Now(), queued: later && r.Method == http.MethodPost}
		r, s := g.identify(r)
		m.request = quota.Request{
			Address: web.ClientIP(r), Caller: s.caller.String(), Roles: s.caller.Roles(),
			Call: m.queued || !later, Function: g.called(r, prefix), Queued: m.queued, Bytes: r.ContentLength,
		}
		if g.fromQueue(r) {
			// It was within the limits when it was accepted.
			m.request.Caller, _ = url.QueryUnescape(r.Header.Get(invoke.HeaderSubmitter)) // as our worker wrote it
		} else {
			leave, err := g.o.Limits.Enter(m.request)
			if err != nil {
				w.Header().Set(web.HeaderInternal, "gateway")
				web.WriteError(w, r, g.o.Log, err)
				g.count(m.request, quota.Counts{Refused: 1})
				return
			}
			defer leave()
		}
		if !m.request.Call {
			next.ServeHTTP(w, r) // somebody looks what became of a call
			return
		}
		m.body = r.Body
		r.Body = m
		web.Observe(next, func(_ *http.Request, o web.Observation) { g.account(m, s, o) }).ServeHTTP(w, r)
	})
}

// measured is a call whose body is counted as it is read.
type measured struct {
	request quota.Request
	begun   time.Time
	queued  bool
	body    io.ReadCloser
	read    int64
}

func (m *measured) Read(p []byte) (int, error) {
	n, err := m.body.Read(p)
	m.read += int64(n)
	return n, err
}

func (m *measured) Close() error { return m.body.Close() }

// account counts what a call took.
func (g *Gateway) account(m *measured, s *sender, o web.Observation) {
	if m.request.Bytes < 0 {
		g.o.Limits.Spent(m.request, m.read)
	}
	switch {
	case s.refused:
		g.count(m.request, quota.Counts{Refused: 1})
	case m.queued:
		if o.Status < 300 {
			g.count(m.request, quota.Counts{Queued: 1, QueuedBytes: m.read})
		}
	default:
		c := quota.Counts{Calls: 1, BytesIn: m.read, BytesOut: o.Bytes, BusyMillis: o.Duration.Milliseconds()}
		if o.Status >= 500 {
			c.Errors = 1
		}
		g.count(m.request, c)
	}
}

func (g *Gateway) count(r quota.Request, c quota.Counts) {
	if g.o.Account == nil {
		return
	}
	k := quota.Key{Period: time.Now().UTC().Format(time.DateOnly), Caller: r.Caller}
	if r.Function.Name != "" {
		k.Function = r.Function.String()
	}
	g.o.Account.Add(k, c)
}

// called returns the function that r calls; the zero Resource if there is none
// of that name, so that made-up names fill no account.
func (g *Gateway) called(r *http.Request, prefix string) iam.Resource {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, prefix), "/")
	e, err := g.table.Find(r.Context(), name)
	if err != nil {
		return iam.Resource{}
	}
	return iam.Resource{Namespace: e.Namespace, Name: e.Name}
}

// usage answers what was used.
func (g *Gateway) usage(w http.ResponseWriter, r *http.Request) error {
	if err := g.may(r.Context(), string(iam.SystemUsage), "", ""); err != nil {
		return err
	}
	if g.o.Account == nil {
		return fault.Unsupported.Errorf("usage is kept where callers are known: this platform has no auth_config and no limits_config")
	}
	query := r.URL.Query()
	today := time.Now().UTC().Truncate(24 * time.Hour)
	from, err := day(query.Get("from"), time.Date(today.Year(), today.Month(), 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		return err
	}
	to, err := day(query.Get("to"), today)
	if err != nil {
		return err
	}
	by := []string{"caller", "function"}
	if query.Has("by") {
		by = slices.DeleteFunc(strings.Split(query.Get("by"), ","), func(s string) bool { return s == "" })
	}
	lines, err := g.o.Account.Report(r.Context(), from, to, by)
	if err != nil {
		return err
	}
	web.WriteJSON(w, http.StatusOK, lines)
	return nil
}

// day reads a date; none is otherwise.
func day(text string, otherwise time.Time) (time.Time, error) {
	if text == "" {
		return otherwise, nil
	}
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return time.Time{}, fault.Invalid.Errorf("%q is no day, want one such as 2026-11-23", text)
	}
	return t, nil
}

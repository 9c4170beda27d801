package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// listed is a function as the provider lists it, with what it adds to
// OpenFaaS's fields for those who ask.
type listed struct {
	types.FunctionStatus
	Tier string `json:"tier,omitempty"`
}

// listFunctions adds to the provider's listing how often each function was
// called.
func (a *API) listFunctions(w http.ResponseWriter, r *http.Request, s subject) error {
	ctx, cancel := a.bound(r)
	defer cancel()
	resp, err := a.ask(ctx, r.Method, r.Header, s)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		relay(w, resp)
		return nil
	}
	var all []listed
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		return fmt.Errorf("read the provider's list of functions: %w", err)
	}
	for i := range all {
		ref := function.Ref{Name: all[i].Name, Namespace: all[i].Namespace}
		if ref.Namespace == "" {
			ref.Namespace = s.namespace
		}
		all[i].InvocationCount = a.o.Invocations(ref)
	}
	if all == nil {
		all = []listed{} // clients range over it, null is not a list
	}
	web.WriteJSON(w, http.StatusOK, all)
	return nil
}

// scale sets a function's number of replicas. The name in the path wins over
// the one in the body.
func (a *API) scale(w http.ResponseWriter, r *http.Request, s subject) error {
	var want struct {
		Replicas *uint64 `json:"replicas"`
	}
	if err := web.Unmarshal(s.body, &want); err != nil {
		return err
	}
	if want.Replicas == nil {
		return fault.Invalid.Errorf("replicas is missing: it says how many there should be")
	}
	body, err := json.Marshal(types.ScaleServiceRequest{ServiceName: s.name, Namespace: s.namespace, Replicas: *want.Replicas})
	if err != nil {
		return fmt.Errorf("scale %s: %w", s.name, err)
	}
	s.body = body
	return a.pass(w, r, s)
}

// Scale sets a function's number of replicas for the gateway itself, which
// wakes functions that are called. Errors have the kind the provider meant.
func (a *API) Scale(ctx context.Context, ref function.Ref, replicas int) error {
	body, err := json.Marshal(types.ScaleServiceRequest{ServiceName: ref.Name, Namespace: ref.Namespace, Replicas: uint64(replicas)})
	if err != nil {
		return fmt.Errorf("scale %s to %d: %w", ref, replicas, err)
	}
	ctx, cancel := context.WithTimeout(ctx, a.o.Timeout)
	defer cancel()
	query := url.Values{"namespace": {ref.Namespace}}
	resp, err := a.ask(ctx, http.MethodPost, nil, subject{path: "/system/scale-function/" + ref.Name, query: query, body: body})
	if err != nil {
		return fmt.Errorf("scale %s to %d: %w", ref, replicas, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000)) // what could be read says more than that the rest could not
		return fmt.Errorf("scale %s to %d: %w", ref, replicas, web.Kind(resp.StatusCode).Errorf("%s", bytes.TrimSpace(text)))
	}
	return nil
}

// CPU returns what the replicas of a function use of processors together, in
// thousandths of a core, where the provider can measure it.
func (a *API) CPU(ctx context.Context, ref function.Ref) (milliCPU float64, known bool) {
	resp, err := a.ask(ctx, http.MethodGet, nil, subject{
		path:  "/system/function/" + ref.Name,
		query: url.Values{"namespace": {ref.Namespace}, "usage": {"1"}},
	})
	if err != nil {
		return 0, false
	}
	defer resp.Body.Close()
	var f types.FunctionStatus
	if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&f) != nil || f.Usage == nil {
		return 0, false
	}
	// A provider that measures nothing says 0, as for one that does nothing; but
	// then there is no memory either.
	return f.Usage.CPU, f.Usage.TotalMemoryBytes > 0
}

// logs passes on the provider's stream of log lines. A stream that follows
// lasts until the caller hangs up or the gateway stops.
func (a *API) logs(w http.ResponseWriter, r *http.Request, s subject) error {
	if follow, _ := strconv.ParseBool(s.query.Get("follow")); follow {
		web.Unbound(w)
	}
	ctx, cancel := web.UntilDrain(r.Context())
	defer cancel()
	resp, err := a.ask(ctx, r.Method, r.Header, s)
	if err != nil {
		if r.Context().Err() != nil {
			return err
		}
		a.o.Log.Error("log request failed", "function", s.name, "namespace", s.namespace, "call_id", web.CallID(ctx), "err", err)
		http.Error(w, "log request failed", http.StatusInternalServerError)
		return nil
	}
	defer resp.Body.Close()
	switch status := resp.StatusCode; {
	case status == http.StatusOK:
		relay(w, resp)
	case status == http.StatusNotImplemented, status == http.StatusNotFound && noSuchRoute(resp):
		w.WriteHeader(http.StatusNotImplemented) // this provider has no logs
	case 400 <= status && status < 500:
		relay(w, resp) // the caller's mistake, in the provider's words
	default:
		http.Error(w, fmt.Sprintf("unknown log request error (%d)", status), http.StatusInternalServerError)
	}
	return nil
}

// noSuchRoute tells a provider that does not know the path from one that does
// not know the function, and leaves resp readable.
func noSuchRoute(resp *http.Response) bool {
	const text = "404 page not found"
	start, _ := io.ReadAll(io.LimitReader(resp.Body, int64(len(text))))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(strings.NewReader(string(start)), resp.Body), resp.Body}
	return string(start) == text
}

// info describes the gateway and what stands behind it. Clients rely on every
// string being there, so a provider that does not answer is "unknown" rather
// than missing.
func (a *API) info(w http.ResponseWriter, r *http.Request, s subject) error {
	answer := gatewayInfo{
		Provider: types.ProviderInfo{
			Name:          "unknown",
			Orchestration: "unknown",
			Version:       &types.VersionInfo{SHA: "unknown", Release: "unknown"},
		},
		Version: a.o.Version,
		Arch:    machine(runtime.GOARCH),
	}
	if err := a.providerInfo(r, s, &answer.Provider); err != nil {
		a.o.Log.Warn("provider is not known", "call_id", web.CallID(r.Context()), "err", err)
	}
	if a.o.Target != nil {
		if t, err := a.o.Target(r.Context()); err != nil {
			a.o.Log.Warn("build target is not known", "call_id", web.CallID(r.Context()), "err", err)
		} else {
			answer.Target = &t
		}
	}
	if a.o.Builds != (function.Builds{}) {
		answer.Builds = &a.o.Builds
	}
	web.WriteJSON(w, http.StatusOK, answer)
	return nil
}

// gatewayInfo is OpenFaaS's answer, and what functions must be built for, and
// how.
type gatewayInfo struct {
	Provider types.ProviderInfo `json:"provider"`
	Version  types.VersionInfo  `json:"version"`
	Arch     string             `json:"arch"`
	Target   *function.Target   `json:"target,omitempty"`
	Builds   *function.Builds   `json:"builds,omitempty"`
}

// providerInfo asks the provider about itself. It leaves *p alone on error.
func (a *API) providerInfo(r *http.Request, s subject, p *types.ProviderInfo) error {
	ctx, cancel := a.bound(r)
	defer cancel()
	resp, err := a.ask(ctx, r.Method, r.Header, s)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the provider about itself: status %d", resp.StatusCode)
	}
	var said types.ProviderInfo
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
		return fmt.Errorf("ask the provider about itself: %w", err)
	}
	if said.Version == nil {
		said.Version = p.Version
	}
	*p = said
	return nil
}

// machine spells an architecture as uname does, which is what OpenFaaS clients
// compare with.
func machine(goarch string) string {
	switch goarch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	case "arm":
		return "armv7l"
	}
	return goarch
}

package watchdog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// classic does what [fork.serialize] does with the habits of OpenFaaS's first
// watchdog, which old functions were written for: errors are part of the
// answer, the answer's type is the request's, and the log has a line at the
// begin and at the end of each process. A call that takes too long is answered
// as in every other mode.
func (f *fork) classic(a *answer, r *http.Request) {
	allowed := []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	if !slices.Contains(allowed, r.Method) {
		a.Header().Set("Allow", strings.Join(allowed, ", "))
		http.Error(a, "method "+r.Method+" is not for functions", http.StatusMethodNotAllowed)
		return
	}
	input, err := readWhole(r, f.o.MaxBuffer)
	if err != nil {
		a.bodyError(err)
		return
	}
	o := f.o.Classic
	if o.MarshalRequest {
		if input, err = marshalRequest(r, input); err != nil {
			a.refuse(http.StatusInternalServerError, "the request cannot be written as JSON")
			return
		}
	}
	out := &bounded{limit: f.o.MaxBuffer}
	x := execution{in: bytes.NewReader(input), out: out, combine: o.CombineOutput}
	if o.CGIHeaders {
		x.env = cgiEnvironment(r)
	}
	f.print("Forking fprocess.")
	if o.DebugHeaders {
		f.printHeaders(r.Header)
	}
	err = f.exec(r.Context(), &x)
	x.finish()
	if o.WriteDebug {
		f.print("Out: " + out.held.String())
	}
	if err != nil {
		f.explain(a, r, err, exitText(err)+"\n"+out.held.String())
		return
	}
	kind := f.o.ContentType
	if kind == "" {
		kind = r.Header.Get("Content-Type")
	}
	if kind != "" {
		a.Header().Set("Content-Type", kind)
	}
	a.sendWhole(out.held.Bytes())
}

// marshalRequest is the document that a process reads with marshal_request.
func marshalRequest(r *http.Request, body []byte) ([]byte, error) {
	var document struct {
		Header http.Header `json:"header"`
		Body   struct {
			Raw []byte `json:"raw"`
		} `json:"body"`
	}
	document.Header, document.Body.Raw = r.Header, body
	return json.Marshal(document)
}

// print writes a line to the log as the classic watchdog did.
func (f *fork) print(text string) {
	_, _ = fmt.Fprintf(f.o.Stderr, "%s %s\n", time.Now().Format(logTime), text) // as for the access log
}

// printHeaders leaves out the values of those that prove who the caller is.
func (f *fork) printHeaders(h http.Header) {
	for name, values := range h {
		text := strings.Join(values, ", ")
		switch name {
		case "Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key":
			text = "(not shown)"
		}
		f.print(name + ": " + text)
	}
}

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// Info describes a gateway and what stands behind it.
type Info struct {
	Provider types.ProviderInfo `json:"provider"`
	Version  types.VersionInfo  `json:"version"`
	Arch     string             `json:"arch"`             // as uname spells it
	Target   *function.Target   `json:"target,omitempty"` // what functions must be built for; nil if the gateway does not say
	Builds   *function.Builds   `json:"builds,omitempty"` // how their images are made; nil if the gateway does not say
}

// Info asks the gateway about itself.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var info Info
	err := c.do(ctx, request{method: "GET", path: []string{"system", "info"}}, &info)
	return info, err
}

// Healthy returns nil if the gateway and its provider are ready. It needs no
// credentials.
func (c *Client) Healthy(ctx context.Context) error {
	return c.do(ctx, request{method: "GET", path: []string{"healthz"}}, nil)
}

// A CanI is the answer to whether a caller may do something.
type CanI struct {
	Caller   string `json:"caller"`
	Action   string `json:"action"`
	Resource string `json:"resource"`
	Allowed  bool   `json:"allowed"`
	Reason   string `json:"reason"` // the rule that allows it, or the right that is missing
}

// CanI asks whether this client may do action to resource, which are written
// as in policies.
func (c *Client) CanI(ctx context.Context, action, resource string) (CanI, error) {
	var answer CanI
	query := url.Values{"action": {action}, "resource": {resource}}
	err := c.do(ctx, request{method: "GET", path: []string{"system", "can-i"}, query: query}, &answer)
	return answer, err
}

// Functions lists the functions of a namespace; "" is the gateway's default.
func (c *Client) Functions(ctx context.Context, namespace string) ([]types.FunctionStatus, error) {
	var all []types.FunctionStatus
	err := c.do(ctx, request{method: "GET", path: []string{"system", "functions"}, query: inNamespace(namespace)}, &all)
	return all, err
}

// Function describes one function. With usage set, what its replicas use is
// measured too.
func (c *Client) Function(ctx context.Context, ref function.Ref, usage bool) (types.FunctionStatus, error) {
	query := inNamespace(ref.Namespace)
	if usage {
		query.Set("usage", "1")
	}
	var status types.FunctionStatus
	err := c.do(ctx, request{method: "GET", path: []string{"system", "function", ref.Name}, query: query}, &status)
	return status, err
}

// Create deploys a function that does not exist, else fault.Exists.
func (c *Client) Create(ctx context.Context, d types.FunctionDeployment) error {
	return c.do(ctx, request{method: "POST", path: []string{"system", "functions"}, body: d}, nil)
}

// Update replaces a function that exists, else fault.NotFound.
func (c *Client) Update(ctx context.Context, d types.FunctionDeployment) error {
	return c.do(ctx, request{method: "PUT", path: []string{"system", "functions"}, body: d}, nil)
}

// Deploy makes or replaces a function.
func (c *Client) Deploy(ctx context.Context, d types.FunctionDeployment) error {
	err := c.Update(ctx, d)
	if errors.Is(err, fault.NotFound) {
		err = c.Create(ctx, d)
		if errors.Is(err, fault.Exists) { // somebody else has made it in between
			err = c.Update(ctx, d)
		}
	}
	return err
}

// Remove deletes a function.
func (c *Client) Remove(ctx context.Context, ref function.Ref) error {
	body := types.DeleteFunctionRequest{FunctionName: ref.Name, Namespace: ref.Namespace}
	return c.do(ctx, request{method: "DELETE", path: []string{"system", "functions"}, body: body}, nil)
}

// Scale sets how many replicas a function should have; 0 puts it to sleep.
func (c *Client) Scale(ctx context.Context, ref function.Ref, replicas int) error {
	if replicas < 0 {
		return fault.Invalid.Errorf("replicas is %d, want 0 or more", replicas)
	}
	body := types.ScaleServiceRequest{ServiceName: ref.Name, Namespace: ref.Namespace, Replicas: uint64(replicas)}
	return c.do(ctx, request{method: "POST", path: []string{"system", "scale-function", ref.Name}, body: body}, nil)
}

// Secrets lists the secrets of a namespace, without their values.
func (c *Client) Secrets(ctx context.Context, namespace string) ([]types.Secret, error) {
	var all []types.Secret
	err := c.do(ctx, request{method: "GET", path: []string{"system", "secrets"}, query: inNamespace(namespace)}, &all)
	return all, err
}

// CreateSecret keeps a new secret, else fault.Exists.
func (c *Client) CreateSecret(ctx context.Context, s types.Secret) error {
	return c.do(ctx, request{method: "POST", path: []string{"system", "secrets"}, body: s}, nil)
}

// UpdateSecret replaces a secret's value, else fault.NotFound.
func (c *Client) UpdateSecret(ctx context.Context, s types.Secret) error {
	return c.do(ctx, request{method: "PUT", path: []string{"system", "secrets"}, body: s}, nil)
}

// RemoveSecret deletes a secret.
func (c *Client) RemoveSecret(ctx context.Context, namespace, name string) error {
	body := types.Secret{Name: name, Namespace: namespace}
	return c.do(ctx, request{method: "DELETE", path: []string{"system", "secrets"}, body: body}, nil)
}

// Namespaces lists the names of all namespaces.
func (c *Client) Namespaces(ctx context.Context) ([]string, error) {
	var all []string
	err := c.do(ctx, request{method: "GET", path: []string{"system", "namespaces"}}, &all)
	return all, err
}

// Namespace describes one namespace.
func (c *Client) Namespace(ctx context.Context, name string) (types.FunctionNamespace, error) {
	var n types.FunctionNamespace
	err := c.do(ctx, request{method: "GET", path: []string{"system", "namespace", name}}, &n)
	return n, err
}

// CreateNamespace makes a namespace, else fault.Exists.
func (c *Client) CreateNamespace(ctx context.Context, n types.FunctionNamespace) error {
	// The name is in the body only; the path ends in a slash.
	return c.do(ctx, request{method: "POST", path: []string{"system", "namespace", ""}, body: n}, nil)
}

// UpdateNamespace replaces a namespace's labels and annotations.
func (c *Client) UpdateNamespace(ctx context.Context, n types.FunctionNamespace) error {
	return c.do(ctx, request{method: "PUT", path: []string{"system", "namespace", n.Name}, body: n}, nil)
}

// RemoveNamespace deletes a namespace.
func (c *Client) RemoveNamespace(ctx context.Context, name string) error {
	body := types.FunctionNamespace{Name: name}
	return c.do(ctx, request{method: "DELETE", path: []string{"system", "namespace", name}, body: body}, nil)
}

// Logs returns what a function has printed, in order, and with r.Follow what
// it prints from then on. The sequence ends at the end of the stream, or with
// one error as its last element.
func (c *Client) Logs(ctx context.Context, r logs.Request) iter.Seq2[logs.Message, error] {
	return func(yield func(logs.Message, error) bool) {
		resp, err := c.send(ctx, request{method: "GET", path: []string{"system", "logs"}, query: logQuery(r)})
		if err != nil {
			yield(logs.Message{}, err)
			return
		}
		defer resp.Body.Close()
		lines := json.NewDecoder(resp.Body)
		for {
			var m logs.Message
			switch err := lines.Decode(&m); {
			case errors.Is(err, io.EOF):
				return
			case err != nil:
				yield(logs.Message{}, fmt.Errorf("read logs of %s: %w", r.Name, err))
				return
			}
			if !yield(m, nil) {
				return
			}
		}
	}
}

func logQuery(r logs.Request) url.Values {
	query := inNamespace(r.Namespace)
	query.Set("name", r.Name)
	query.Set("follow", strconv.FormatBool(r.Follow))
	if r.Instance != "" {
		query.Set("instance", r.Instance)
	}
	if r.Tail > 0 {
		query.Set("tail", strconv.Itoa(r.Tail))
	}
	if r.Since != nil {
		query.Set("since", r.Since.Format(time.RFC3339))
	}
	return query
}

func inNamespace(namespace string) url.Values {
	query := url.Values{}
	if namespace != "" {
		query.Set("namespace", namespace)
	}
	return query
}

// A Call is one call of a function.
type Call struct {
	Function function.Ref // without a namespace it is the gateway's default
	Method   string       // "" is POST
	Path     string       // behind the function's name, as it stands in a URL; "" is none
	Query    string       // as it stands in a URL, without the question mark
	Header   http.Header
	Body     io.Reader // nil is none
}

// Invoke calls a function and returns its answer, whatever its status; the
// caller closes the body. The client's credentials are for the platform: they
// go along only where the gateway admits no call without, and the function
// gets those in call.Header, if any.
func (c *Client) Invoke(ctx context.Context, call Call) (*http.Response, error) {
	name := call.Function.Name
	if call.Function.Namespace != "" {
		name = call.Function.String()
	}
	method := call.Method
	if method == "" {
		method = http.MethodPost
	}
	target := c.base.String() + "/function/" + url.PathEscape(name) + call.Path
	if call.Query != "" {
		target += "?" + call.Query
	}
	req, err := http.NewRequestWithContext(ctx, method, target, call.Body)
	if err != nil {
		return nil, fault.Invalid.Errorf("call %s: %w", name, err)
	}
	if call.Header != nil {
		req.Header = call.Header.Clone()
	}
	return c.call(req)
}

// Usage is what a caller used of a function in a day, or such lines added up.
type Usage struct {
	Day         string `json:"day,omitempty"` // such as 2026-11-23, in UTC
	Caller      string `json:"caller,omitempty"`
	Function    string `json:"function,omitempty"`
	Calls       int64  `json:"calls"`       // answered by functions
	Errors      int64  `json:"errors"`      // of these, with a status from 500
	Refused     int64  `json:"refused"`     // refused by the gateway
	Queued      int64  `json:"queued"`      // asynchronous calls accepted
	QueuedBytes int64  `json:"queuedBytes"` // their bodies
	BytesIn     int64  `json:"bytesIn"`     // bodies of calls
	BytesOut    int64  `json:"bytesOut"`    // bodies of answers
	BusyMillis  int64  `json:"busyMillis"`  // from the arrival of calls to the end of their answers
}

// Usage reports what was used, added up by some of day, caller and function.
// Days are of UTC, written as 2026-11-23; "" is the first of this month, and
// today.
func (c *Client) Usage(ctx context.Context, from, to string, by []string) ([]Usage, error) {
	query := url.Values{"by": {strings.Join(by, ",")}}
	if from != "" {
		query.Set("from", from)
	}
	if to != "" {
		query.Set("to", to)
	}
	var lines []Usage
	err := c.do(ctx, request{method: "GET", path: []string{"system", "usage"}, query: query}, &lines)
	return lines, err
}

// Package client speaks the gateway's API: what the command line, other
// programs and tests use instead of writing requests by hand.
//
// The errors of every method carry the kind that the server meant
// (errors.Is(err, fault.NotFound) and so on) and the server's own text. A
// gateway that cannot be reached is fault.Unavailable, with an error that says
// how to start one.
//
// Start with [New].
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/web"
)

// maxErrorText is how much of an error's answer is read, in bytes.
const maxErrorText = 64 << 10

// Options say how to reach a gateway.
type Options struct {
	// URL is where the gateway answers, such as http://127.0.0.1:8080.
	URL string
	// User and Password are for basic authentication, Token is a bearer
	// token. Without either, requests carry no credentials.
	User, Password string
	Token          string
	// Renew returns the bearer token of each request, for a login that has to be
	// kept going; nil is Token. It is called from several goroutines.
	Renew func(context.Context) (string, error)
	// Insecure accepts any TLS certificate.
	Insecure bool
	// CAFile holds certificates, in PEM, to trust besides the system's.
	CAFile string
	// Transport carries the requests; nil makes one from the two fields above.
	Transport http.RoundTripper
	// UserAgent names the program that asks; "" is Go's.
	UserAgent string
}

// Client is a connection to one gateway. It is safe for concurrent use. Every
// method ends when its context does, and has no timeout of its own.
type Client struct {
	base *url.URL
	o    Options
	http *http.Client
}

// New returns a client. It sends nothing yet. Errors are fault.Invalid.
func New(o Options) (*Client, error) {
	base, err := url.Parse(strings.TrimRight(o.URL, "/"))
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fault.Invalid.Errorf("gateway is %q, want a URL such as http://127.0.0.1:8080", o.URL)
	}
	if base.User != nil {
		return nil, fault.Invalid.Errorf("the gateway's URL must not hold a user or a password")
	}
	transport := o.Transport
	if transport == nil {
		if transport, err = newTransport(o); err != nil {
			return nil, err
		}
	}
	return &Client{base: base, o: o, http: &http.Client{
		Transport: transport,
		// What a function redirects to is for whoever called the function.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func newTransport(o Options) (*http.Transport, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if !o.Insecure && o.CAFile == "" {
		return transport, nil
	}
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: o.Insecure}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fault.Invalid.Errorf("read certificates to trust: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fault.Invalid.Errorf("read certificates to trust: %s holds none", o.CAFile)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return transport, nil
}

// URL returns where the gateway answers, without a slash at the end.
func (c *Client) URL() string { return c.base.String() }

// A request is one request to the management API.
type request struct {
	method string
	path   []string // elements
	query  url.Values
	body   any // sent as JSON; nil is none
}

// do sends r, whose answer is read into out as JSON unless out is nil.
func (c *Client) do(ctx context.Context, r request, out any) error {
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, resp.Body) // lets the connection be used again
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fault.Internal.Errorf("read the answer of %s: is a gateway there? %w", c.base.Host, err)
	}
	return nil
}

// send returns the answer to r if its status is a success. The caller closes
// its body.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	var body io.Reader
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("write the request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	elements := []string{c.base.String()}
	for _, element := range r.path {
		elements = append(elements, url.PathEscape(element))
	}
	target := strings.Join(elements, "/")
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("write the request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := c.authorize(req); err != nil {
		return nil, err
	}
	resp, err := c.roundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		return nil, c.refused(resp)
	}
	return resp, nil
}

func (c *Client) authorize(req *http.Request) error {
	switch {
	case c.o.Renew != nil:
		token, err := c.o.Renew(req.Context())
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	case c.o.Token != "":
		req.Header.Set("Authorization", "Bearer "+c.o.Token)
	case c.o.User != "" || c.o.Password != "":
		req.SetBasicAuth(c.o.User, c.o.Password)
	}
	return nil
}

// anonymous reports whether the client has no credentials.
func (c *Client) anonymous() bool { return c.o.Token == "" && c.o.User == "" && c.o.Renew == nil }

// wantToken is how a gateway asks for a caller's token at a function's door.
// OpenFaaS's clients look for the same text.
const wantToken = "Bearer realm=IAM function invoke"

// call sends a call of a function. The client's credentials are for the
// platform, and a function could use what it is shown: so they go along only
// if the gateway asks for them, in a second request. The caller's own
// Authorization is for the function and stays.
func (c *Client) call(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Authorization") != "" || c.anonymous() {
		return c.roundTrip(req)
	}
	body := &untouched{Reader: req.Body}
	if req.Body != nil && req.GetBody == nil {
		// What cannot be read twice must not be read before it is welcome.
		req.Header.Set("Expect", "100-continue")
		req.Body = body
	}
	resp, err := c.roundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || body.read.Load() ||
		resp.Header.Get(web.HeaderInternal) != "gateway" || resp.Header.Get("WWW-Authenticate") != wantToken {
		return resp, err
	}
	resp.Body.Close()
	if req.GetBody != nil {
		if req.Body, err = req.GetBody(); err != nil {
			return nil, fmt.Errorf("write the request: %w", err)
		}
	}
	if err := c.authorize(req); err != nil {
		return nil, err
	}
	return c.roundTrip(req)
}

// untouched knows whether a body was read. Closing it does nothing: it may be
// sent again.
type untouched struct {
	io.Reader
	read atomic.Bool
}

func (u *untouched) Read(p []byte) (int, error) {
	u.read.Store(true)
	return u.Reader.Read(p)
}

func (u *untouched) Close() error { return nil }

// roundTrip sends req and explains why that failed, if it did.
func (c *Client) roundTrip(req *http.Request) (*http.Response, error) {
	if c.o.UserAgent != "" && req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", c.o.UserAgent)
	}
	resp, err := c.http.Do(req)
	if err == nil {
		return resp, nil
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // its text repeats the URL, query included
	}
	switch {
	case req.Context().Err() != nil && errors.Is(err, context.DeadlineExceeded):
		return nil, fault.Timeout.Errorf("gateway %s did not answer in time: %w", c.base, err)
	case req.Context().Err() != nil:
		return nil, fmt.Errorf("ask gateway %s: %w", c.base, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fault.Unavailable.Errorf("no gateway answers at %s: start one with \"graphene serve\", or name another with --gateway: %w", c.base, err)
	}
	return nil, fault.Unavailable.Errorf("gateway %s cannot be reached: %w", c.base, err)
}

// refused turns an answer that is no success into an error.
func (c *Client) refused(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorText)) // what could be read says more than that the rest could not
	said := strings.TrimSpace(string(text))
	if resp.StatusCode == http.StatusUnauthorized && c.anonymous() {
		said = "not logged in to " + c.base.String() + ": use \"graphene login\""
	}
	return &Error{Status: resp.StatusCode, Text: said, CallID: resp.Header.Get(web.HeaderCallID)}
}

// Error is an answer of the gateway that is no success. It has the kind that
// its status stands for.
type Error struct {
	Status int
	Text   string // what the gateway said, without white space around it; may be empty
	CallID string // for the platform's log; may be empty
}

func (e *Error) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("gateway answered %d %s", e.Status, http.StatusText(e.Status))
	}
	return e.Text
}

// Unwrap returns the kind, so that errors.Is finds it.
func (e *Error) Unwrap() error { return web.Kind(e.Status) }

package async

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/fault"
)

// HeaderSignature carries the HMAC of a callback's body under the secret that
// the operator has set: "sha256=" and 64 hexadecimal digits.
const HeaderSignature = "X-Openfaas-Signature-256"

// CallbackOptions say how answers are delivered to those who want them.
type CallbackOptions struct {
	// Gateways are the hosts, with port, under which the gateway is known.
	// Callbacks to them go to the gateway itself, so that calls can be chained.
	Gateways []string
	// Permit lists networks that callbacks may go to although they are private.
	Permit []netip.Prefix
	// Secret signs bodies; empty signs none.
	Secret []byte
	// Transport carries the callbacks; nil is a transport that refuses private
	// addresses other than those of Permit.
	Transport http.RoundTripper
	// Policy says how often and when a callback is tried again; its Codes do
	// not count. Zero is [DefaultPolicy].
	Policy Policy
}

const (
	callbackTimeout = 30 * time.Second // of one try
	callbacksAtOnce = 16
	recordWait      = 20 * time.Millisecond // between two looks for the record of a call that ends
)

// callbacks delivers the messages of the callbacks stream.
type callbacks struct {
	w      *Worker
	o      CallbackOptions
	client *http.Client
}

func newCallbacks(w *Worker) *callbacks {
	o := w.o.Callback
	if o.Policy.Attempts == 0 {
		o.Policy = DefaultPolicy()
	}
	if o.Transport == nil {
		o.Transport = guardedTransport(o.Permit)
	}
	return &callbacks{w: w, o: o, client: &http.Client{
		Timeout: callbackTimeout,
		// The answer to a redirected POST would be somebody else's.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// guardedTransport connects to public addresses, and to private ones that are
// permitted. The address is checked after its name was resolved, so that no
// name server can lead it astray.
func guardedTransport(permit []netip.Prefix) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil // a proxy would resolve names behind the guard's back
	t.DialContext = (&net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		where, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if addr := where.Addr().Unmap(); !public(addr) && !slices.ContainsFunc(permit, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return fault.Denied.Errorf("callbacks to the private address %s are not permitted by the operator", addr)
		}
		return nil
	}}).DialContext
	return t
}

// sharedSpace is for carriers' own networks (RFC 6598).
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

func public(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !sharedSpace.Contains(a)
}

// run delivers until ctx ends, several at a time.
func (c *callbacks) run(ctx context.Context) {
	var sending sync.WaitGroup
	defer sending.Wait()
	if t, ok := c.o.Transport.(*http.Transport); ok {
		defer t.CloseIdleConnections()
	}
	slots := make(chan struct{}, callbacksAtOnce)
	c.w.consume(ctx, "callbacks", c.w.q.callbacks, jetstream.ConsumerConfig{
		Name: "deliver", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 2 * callbackTimeout,
		MaxAckPending: 500, MemoryStorage: true, InactiveThreshold: time.Minute,
	}, func(msg jetstream.Msg) {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		sending.Go(func() {
			defer func() { <-slots }()
			c.deliver(ctx, msg)
		})
	})
}

func (c *callbacks) deliver(ctx context.Context, msg jetstream.Msg) {
	var cb callback
	if err := json.Unmarshal([]byte(msg.Headers().Get(headerCallback)), &cb); err != nil {
		c.w.log.Error("a message among the callbacks is none", "err", err)
		_ = msg.Term() // else it comes again
		return
	}
	// A callback on its way is finished also while the worker stops.
	send, cancel := context.WithTimeout(context.WithoutCancel(ctx), callbackTimeout)
	defer cancel()
	span := c.begin(send, cb)
	o, again, err := c.send(send, cb, msg.Data(), span)
	endCallback(span, o, err)
	if err == nil {
		_ = msg.Ack() // lost, it is delivered again
		return
	}
	cb.Tries++
	if !again || cb.Tries >= c.o.Policy.Attempts {
		c.w.log.Warn("a callback is given up", "call", cb.Call, "tries", cb.Tries, "err", err)
		c.giveUp(send, cb, err)
		_ = msg.Ack()
		return
	}
	if err := c.putOff(send, cb, o, msg); err != nil {
		c.w.log.Warn("a callback cannot be put off", "call", cb.Call, "err", err)
		return // the broker delivers it again when the lease ends
	}
	_ = msg.Ack()
}

// putOff stores cb for its next try.
func (c *callbacks) putOff(ctx context.Context, cb callback, o outcome, msg jetstream.Msg) error {
	m, err := cb.encode(laterSubject+msg.Subject()[len("graphene."):], msg.Data())
	if err != nil {
		return err
	}
	due := time.Now().Add(c.o.Policy.wait(cb.Tries, o, chance()))
	m.Header.Set(headerDue, strconv.FormatInt(due.UnixMilli(), 10))
	_, err = c.w.q.store(ctx, withName(m, "callback/"+cb.Call+"/later/"+strconv.Itoa(cb.Tries)))
	return err
}

// giveUp notes in the call's record that nobody was told. A callback is stored
// before the record of its call's end, so that one may have to be waited for.
func (c *callbacks) giveUp(ctx context.Context, cb callback, reason error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		record, body, err := c.w.q.record(ctx, cb.Call)
		switch {
		case err == nil && record.State.Ended():
			record.CallbackFail = reason.Error()
			err = c.w.q.putRecord(ctx, record, body, record.seq)
			if err == nil {
				return
			}
		case cb.Batch != "" && isNotFound(err):
			return // an item of a batch has none
		}
		select {
		case <-time.After(recordWait):
		case <-ctx.Done():
			c.w.log.Debug("no record tells of a callback", "call", cb.Call, "err", err)
			return
		}
	}
}

// send tries cb once. again reports whether it is worth another try.
func (c *callbacks) send(ctx context.Context, cb callback, body []byte, span *trace.Span) (o outcome, again bool, err error) {
	target, err := url.Parse(cb.URL)
	if err != nil {
		return o, false, err
	}
	open := func() (io.ReadCloser, int64, error) {
		return io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	}
	if cb.Object != "" {
		open = func() (io.ReadCloser, int64, error) {
			object, err := c.w.q.responses.Get(ctx, cb.Object)
			if err != nil {
				return nil, 0, err
			}
			info, err := object.Info()
			if err != nil {
				return nil, 0, err
			}
			return object, int64(info.Size), nil
		}
	}
	content, size, err := open()
	if err != nil {
		return o, true, fmt.Errorf("read the answer to call back with: %w", err)
	}
	defer content.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, cb.URL, content)
	if err != nil {
		return o, false, err
	}
	req.Header, req.ContentLength = cb.Header.Clone(), size
	req.Header.Set("User-Agent", "graphene-queue-worker")
	// The gateway has allowed calls that carry this mark. A callback, whose
	// headers are the function's, is allowed nothing.
	req.Header.Del(c.w.o.Queued)
	span.Inject(req.Header)
	if len(c.o.Secret) > 0 {
		signed, _, err := open()
		if err != nil {
			return o, true, fmt.Errorf("read the answer to sign it: %w", err)
		}
		signature, err := sign(hmac.New(sha256.New, c.o.Secret), signed)
		if err != nil {
			return o, true, fmt.Errorf("read the answer to sign it: %w", err)
		}
		req.Header.Set(HeaderSignature, signature)
	}
	client := *c.client
	if client.Transport = c.o.Transport; c.isGateway(target) {
		client.Transport = c.w.o.Gateway
		req.URL.Scheme, req.URL.Host = c.w.o.URL.Scheme, c.w.o.URL.Host
	}
	resp, err := client.Do(req)
	if err != nil {
		return o, !errors.Is(err, fault.Denied), err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // lets the connection be used again
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return o, false, nil
	}
	o = outcome{status: resp.StatusCode, retryAfter: readRetryAfter(resp.Header.Get("Retry-After"), time.Now())}
	again = resp.StatusCode >= 500 || resp.StatusCode == http.StatusRequestTimeout || resp.StatusCode == http.StatusTooManyRequests
	return o, again, fmt.Errorf("%s answered %s", target.Host, resp.Status)
}

// isGateway reports whether u is an address of the gateway itself, where a
// port that is not said is the scheme's.
func (c *callbacks) isGateway(u *url.URL) bool {
	port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	return slices.Contains(c.o.Gateways, net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)))
}

func sign(mac hash.Hash, body io.ReadCloser) (string, error) {
	defer body.Close()
	if _, err := io.Copy(mac, body); err != nil {
		return "", err
	}
	return "sha256=" + hex.EncodeToString(mac.Sum(nil)), nil
}

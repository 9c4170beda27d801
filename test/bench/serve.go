package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// A report is what a role prints, on one line of standard output, when it
// listens and again for every line it reads from standard input.
type report struct {
	Address string
	CPU     time.Duration // processor time used since the start, user and system
}

// serve plays one role, "upstream", "bare", "pooled", "gateway" or
// "gateway-to-pool", with the upstream at a socket, or "handler" or "function",
// which have none.
// It ends with its standard input.
func serve(args []string) error {
	if len(args) != 2 {
		return errors.New("serve wants a role and a socket")
	}
	role, socket := args[0], args[1]
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	network, address := "tcp", "127.0.0.1:0"
	var handler http.Handler
	var background func(context.Context) error
	answer := func(ctx context.Context, ln net.Listener) error {
		return web.Serve(ctx, ln, handler, web.ServeOptions{})
	}
	switch role {
	case "upstream":
		network, address, handler = "unix", socket, http.HandlerFunc(echo)
	case "bare":
		handler = bare(socket)
	case "pooled":
		proxy := bare(socket)
		proxy.BufferPool = new(buffers)
		handler = proxy
	case "gateway", "gateway-to-pool":
		replica, settings := function.Replica{}, function.Settings{MaxInflight: 100}
		if role == "gateway-to-pool" {
			replica.Slots, settings = poolWorkers, function.Settings{Workers: poolWorkers}
		}
		var err error
		if handler, background, err = front(socket, replica, settings); err != nil {
			return err
		}
	case "handler":
		answer = func(ctx context.Context, ln net.Listener) error {
			return serveHandler(ctx, ln, http.HandlerFunc(echo))
		}
	case "function":
		accessLog, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer accessLog.Close()
		answer = func(ctx context.Context, ln net.Listener) error {
			return serveFunction(ctx, ln, http.HandlerFunc(echo), accessLog)
		}
	default:
		return fmt.Errorf("unknown role %q", role)
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()
	if background != nil {
		parts.Go(func() { _ = background(ctx) })
	}
	parts.Go(func() { _ = answer(ctx, ln) })

	in := json.NewDecoder(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for {
		used, err := processorTime()
		if err != nil {
			return err
		}
		if err := out.Encode(report{Address: ln.Addr().String(), CPU: used}); err != nil {
			return fmt.Errorf("report: %w", err)
		}
		var ask any
		if err := in.Decode(&ask); err != nil {
			return nil
		}
	}
}

func processorTime() (time.Duration, error) {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()), nil
}

// echo answers with the request's body, or with a few words.
func echo(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 {
		_, _ = io.WriteString(w, "hello from the other side\n")
		return
	}
	// All of it first: a proxy without full duplex cannot carry both at once.
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(body)
}

// bare is the peer: what one writes who needs a reverse proxy and no more.
func bare(socket string) *httputil.ReverseProxy {
	dialer := net.Dialer{}
	return &httputil.ReverseProxy{
		ErrorLog: log.New(io.Discard, "", 0), // the load generator breaks off its last requests
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: "upstream"})
			pr.SetXForwarded()
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", socket)
			},
			MaxIdleConnsPerHost: 1024,
		},
	}
}

// buffers is an httputil.BufferPool.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return *buf
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buf []byte) { b.pool.Put(&buf) }

// front is the whole request path as it is served: a [gateway.Gateway] that
// learns of the upstream from a provider, behind a check of a token from a
// cache, which is what a verified bearer token will cost.
func front(socket string, replica function.Replica, settings function.Settings) (http.Handler, func(context.Context) error, error) {
	unused, err := net.Listen("tcp", "127.0.0.1:0") // the role's own server is the one under load
	if err != nil {
		return nil, nil, err
	}
	replica.ID, replica.Address, replica.Ready = "echo-1", "unix:"+socket, true
	settings.ExecTimeout = function.Duration(time.Minute)
	g := gateway.New(gateway.Options{
		Listener: unused,
		Provider: web.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			out := json.NewEncoder(w)
			for _, event := range []function.Event{
				{Epoch: "bench", Revision: 1, Endpoints: &function.Endpoints{
					Ref:      function.Ref{Name: "echo", Namespace: function.DefaultNamespace},
					Desired:  1,
					Min:      1,
					Replicas: []function.Replica{replica},
					Settings: settings,
				}},
				{Epoch: "bench", Revision: 2, Synced: true, Reset: true},
			} {
				if out.Encode(event) != nil {
					return
				}
			}
			<-r.Context().Done()
		})),
		Version: types.VersionInfo{Release: "bench"},
	})
	var known tokens
	known.add(token)
	return known.check(g.Handler()), g.Run, nil
}

// tokens stands in for the cache of verified bearer tokens.
type tokens struct{ byHash sync.Map }

func (t *tokens) add(token string) { t.byHash.Store(sha256.Sum256([]byte(token)), true) }

func (t *tokens) check(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		if _, ok := t.byHash.Load(sha256.Sum256([]byte(token))); !ok {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

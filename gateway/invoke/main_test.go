package invoke

import (
	"bytes"
	"context"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// echo is the function that most tests call.
var echo = function.Ref{Name: "echo", Namespace: function.DefaultNamespace}

// An instance is a replica on a Unix socket.
type instance struct {
	function.Replica
	stop   func()       // ends the server and its connections
	ready  atomic.Bool  // what /_/ready says
	opened atomic.Int64 // connections
}

// startInstance serves h, and /_/ready, until the test ends.
func startInstance(t testing.TB, h http.Handler) *instance {
	t.Helper()
	dir, err := os.MkdirTemp("", "invoke") // shorter than the test's own: sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	in := &instance{Replica: function.Replica{ID: filepath.Base(dir), Address: "unix:" + filepath.Join(dir, "s"), Ready: true}}
	in.ready.Store(true)
	in.listen(t, h)
	return in
}

// listen serves h at the instance's address, which must be free.
func (in *instance) listen(t testing.TB, h http.Handler) {
	t.Helper()
	ln, err := net.Listen("unix", in.Address[len("unix:"):])
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	mux := http.NewServeMux()
	mux.HandleFunc("/_/ready", func(w http.ResponseWriter, _ *http.Request) {
		if !in.ready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{
		Protocols: &protocols,
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				in.opened.Add(1)
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/_/ready" {
				mux.ServeHTTP(w, r)
				return
			}
			h.ServeHTTP(w, r)
		}),
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(ln)
	}()
	in.stop = func() {
		ln.Close()
		<-served
		server.Close()
	}
	t.Cleanup(in.stop)
}

// kill ends the instance as SIGKILL would.
func (in *instance) kill() { in.stop() }

// endpoints describes the function echo with these replicas.
func endpoints(instances ...*instance) function.Endpoints {
	e := function.Endpoints{Ref: echo, Revision: 1, Desired: len(instances), Min: 1}
	e.Settings.LoadTimeout = function.Duration(time.Minute)
	e.Settings.ExecTimeout = function.Duration(time.Minute)
	for _, in := range instances {
		e.Replicas = append(e.Replicas, in.Replica)
	}
	return e
}

// startTable runs a table until the test ends.
func startTable(t testing.TB, o TableOptions) *Table {
	t.Helper()
	o.Log = testkit.Log(t)
	table := NewTable(o)
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = table.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		run.Wait()
	})
	return table
}

// startProxy serves the functions of table over HTTP/1 and HTTP/2 without TLS,
// and returns the address.
func startProxy(t testing.TB, table *Table) string {
	t.Helper()
	return startServer(t, NewProxy(table, ProxyOptions{Version: "test", Log: testkit.Log(t)}))
}

func startServer(t testing.TB, h http.Handler) string {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server.Config.Protocols = &protocols
	server.Config.ErrorLog = log.New(complaints{t}, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

// complaints fails the test when our server has caught a panic.
type complaints struct{ t testing.TB }

func (c complaints) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("panic")) {
		c.t.Errorf("%s", p)
	}
	return len(p), nil
}

// startEcho is a proxy to the function echo with one replica that runs h.
func startEcho(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	table := startTable(t, TableOptions{})
	table.Set(endpoints(startInstance(t, h)))
	table.Synced()
	return startProxy(t, table)
}

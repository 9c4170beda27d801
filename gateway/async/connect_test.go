package async

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/testkit/natstest"
)

// freePort returns a port on 127.0.0.1 that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// listening makes a server listen on a port of this machine.
func listening(port int) func(*server.Options) {
	return func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "127.0.0.1", port }
}

// connect is Connect with what a test needs.
func connect(t testing.TB, o ConnectOptions) *nats.Conn {
	t.Helper()
	nc, err := Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// run runs f until the test ends.
func run(t testing.TB, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ends with %v", err)
		}
	})
}

// A log that can be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestAQueueWhoseBrokerIsAwayAnswers503AndAcceptsOnceItIsThere(t *testing.T) {
	port := freePort(t)
	var logged syncBuffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	nc := connect(t, ConnectOptions{URL: "nats://user:hidden@127.0.0.1:" + strconv.Itoa(port), Name: "test", Log: log})
	q, err := New(nc, Options{Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	r := rigWith(t, q, echo)
	run(t, q.Run)
	stop := r.work()
	eventually(t, "the log says that NATS is away", func() bool { return strings.Contains(logged.String(), "NATS cannot be reached") })
	if strings.Contains(logged.String(), "hidden") {
		t.Errorf("the log tells the password:\n%s", &logged)
	}
	for _, request := range [][2]string{
		{"POST", CallsPath + "fn"}, {"POST", BatchesPath + "fn"}, {"GET", CallsPath + "any"}, {"GET", BatchesPath + "any"},
		{"DELETE", CallsPath + "any"}, {"GET", "/system/calls"}, {"GET", "/system/queues"},
	} {
		if a := r.do(request[0], request[1], ""); a.status != http.StatusServiceUnavailable {
			t.Errorf("%s %s without NATS = %d %s, want 503", request[0], request[1], a.status, a.body)
		}
	}
	if a := r.do("OPTIONS", CallsPath+"fn", ""); a.status != http.StatusNoContent {
		t.Errorf("OPTIONS without NATS = %d", a.status)
	}

	natstest.Server(t, listening(port))
	var a answer_
	eventually(t, "a call is accepted", func() bool { a = r.do("POST", CallsPath+"fn", "x"); return a.status == http.StatusAccepted })
	if c := r.await(a.header.Get("X-Call-Id")); c.State != Done {
		t.Errorf("the call is %s", c.State)
	}
	stop() // before its broker
}

func TestABrokerThatComesBackWithoutItsFilesGetsItsStreamsAgain(t *testing.T) {
	port := freePort(t)
	s := natstest.Server(t, listening(port))
	reconnected := make(chan struct{}, 10)
	nc := connect(t, ConnectOptions{URL: "127.0.0.1:" + strconv.Itoa(port), Reconnected: func() { reconnected <- struct{}{} }, Log: testkit.Log(t)})
	q, err := New(nc, Options{Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	r := rigWith(t, q, echo)
	run(t, q.Run)
	<-q.Opened()
	r.work()
	r.await(r.submit("fn", "before"))

	s.Shutdown()
	s.WaitForShutdown()
	natstest.Server(t, listening(port)) // in another directory
	<-reconnected
	var a answer_
	eventually(t, "a call is accepted", func() bool { a = r.do("POST", CallsPath+"fn", "x"); return a.status == http.StatusAccepted })
	eventually(t, "it runs", func() bool {
		c, err := r.Lookup(t.Context(), a.header.Get("X-Call-Id"))
		return err == nil && c.State == Done
	})
}

func TestAProgramProvesToNATSWhoItIs(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	byPassword := natstest.Server(t, listening(-1), func(o *server.Options) { o.Username, o.Password = "queue", "right" })
	byToken := natstest.Server(t, listening(-1), func(o *server.Options) { o.Authorization = "token" })
	for name, c := range map[string]struct {
		server *server.Server
		login  Login
		want   bool
	}{
		"password":       {byPassword, Login{NatsUser: "queue", NatsPassword: file("right", "right\n")}, true},
		"wrong password": {byPassword, Login{NatsUser: "queue", NatsPassword: file("wrong", "wrong")}, false},
		"no password":    {byPassword, Login{}, false},
		"token":          {byToken, Login{NatsToken: file("token", "token\n")}, true},
		"wrong token":    {byToken, Login{NatsToken: file("other", "other")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var logged syncBuffer
			nc := connect(t, ConnectOptions{URL: c.server.ClientURL(), Login: c.login, Log: slog.New(slog.NewTextHandler(&logged, nil))})
			said := "connected to NATS"
			if !c.want {
				said = "Authorization Violation"
			}
			eventually(t, "the log says "+said, func() bool { return strings.Contains(logged.String(), said) })
			if nc.IsConnected() != c.want {
				t.Errorf("connected: %v, want %v", nc.IsConnected(), c.want)
			}
		})
	}
}

func TestAPasswordThatIsPutRightLetsAProgramIn(t *testing.T) {
	s := natstest.Server(t, listening(-1), func(o *server.Options) { o.Username, o.Password = "queue", "right" })
	path := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong")
	nc := connect(t, ConnectOptions{URL: s.ClientURL(), Login: Login{NatsUser: "queue", NatsPassword: path}, Log: testkit.Log(t)})
	if nc.IsConnected() {
		t.Error("connected with the wrong password")
	}
	write("right")
	eventually(t, "it is connected", nc.IsConnected)
}

func TestLoginsThatCannotBeRight(t *testing.T) {
	for _, l := range []Login{
		{NatsUser: "me"},
		{NatsPassword: "file"},
		{NatsUser: "me", NatsPassword: "connect_test.go", NatsToken: "connect_test.go"},
		{NatsToken: "/nonexistent"},
		{NatsCreds: "/nonexistent"},
		{NatsCA: "/nonexistent"},
	} {
		if _, err := Connect(ConnectOptions{URL: "nats://127.0.0.1:1", Login: l}); !errors.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v, want fault.Invalid", l, err)
		}
	}
}

func TestASubmissionBeforeTheQueueIsOpenIsUnavailable(t *testing.T) {
	q, err := New(connect(t, ConnectOptions{URL: "nats://127.0.0.1:1"}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Submit(t.Context(), Submission{Function: function.Ref{Name: "fn", Namespace: "lab"}}); !errors.Is(err, fault.Unavailable) {
		t.Errorf("%v, want fault.Unavailable", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := q.Run(ctx); err != nil {
		t.Errorf("Run ends with %v", err)
	}
}

// Package natstest starts a real NATS server inside a test. It is apart from
// testkit because the server is large, and only tests of the queue need it.
package natstest

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Start runs a server with JetStream in a directory of the test until the test
// ends, and returns a connection to it that takes no port.
func Start(t testing.TB, adjust ...func(*server.Options)) *nats.Conn {
	t.Helper()
	s := Server(t, adjust...)
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Server is Start without the connection.
func Server(t testing.TB, adjust ...func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{
		ServerName: "test", DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		MaxPayload: 8 << 20,
	}
	for _, f := range adjust {
		f(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not get ready")
	}
	return s
}

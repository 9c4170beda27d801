// Package natstest starts a real NATS server inside a test. It is apart from
// testkit because the server is large, and only tests of the queue need it.
package natstest

import (
	"fmt"
	"net"
	"net/url"
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

// room is what streams may reserve. It is only reserved, so the disk need not
// have it; the server's default is a part of what the disk has left.
const room = 1 << 50

// Server is Start without the connection.
func Server(t testing.TB, adjust ...func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{
		ServerName: "test", DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		MaxPayload: 8 << 20, JetStreamMaxStore: room,
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

// Cluster runs n servers that form one cluster, on ports of this machine, and
// returns them once they have chosen who leads.
func Cluster(t testing.TB, n int) []*server.Server {
	t.Helper()
	var servers []*server.Server
	for try := 1; servers == nil; try++ {
		if servers = listening(t, n); servers == nil && try == 5 {
			t.Fatal("the NATS servers cannot listen: others are faster to take free ports")
		}
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		for _, s := range servers {
			if s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == n {
				return servers
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the NATS servers do not form a cluster")
		}
	}
}

// listening starts n servers that know of each other. It returns nil if somebody
// else took one of their ports, which have to be chosen beforehand.
func listening(t testing.TB, n int) []*server.Server {
	t.Helper()
	// All ports are taken before any is given back, so that they differ.
	var held []net.Listener
	port := func(i int) int { return held[i].Addr().(*net.TCPAddr).Port }
	for range 2 * n { // one for the other servers, and one for clients
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, ln)
	}
	var routes []*url.URL
	for i, ln := range held {
		ln.Close()
		if i < n {
			routes = append(routes, &url.URL{Scheme: "nats", Host: ln.Addr().String()})
		}
	}
	servers := make([]*server.Server, n)
	for i := range servers {
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: port(n + i), JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			MaxPayload: 8 << 20, JetStreamMaxStore: room, Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port(i)}, Routes: routes,
		})
		if err != nil {
			t.Fatal(err)
		}
		servers[i] = s
		s.Start()
		t.Cleanup(func() {
			s.Shutdown()
			s.WaitForShutdown()
		})
	}
	for _, s := range servers {
		if !s.ReadyForConnections(10 * time.Second) {
			for _, s := range servers {
				s.Shutdown()
			}
			return nil
		}
	}
	return servers
}

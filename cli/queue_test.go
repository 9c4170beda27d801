package cli_test

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/internal/web"
)

// A queue is a real one, with a broker inside the test.
type queue struct {
	*async.Queue
	server *server.Server
	conn   *nats.Conn
	dir    string
}

func openQueue(parent string) (*queue, error) {
	dir, err := os.MkdirTemp(parent, "queue")
	if err != nil {
		return nil, err
	}
	s, err := server.NewServer(&server.Options{ServerName: "test", DontListen: true, JetStream: true, StoreDir: dir, JetStreamMaxStore: 1 << 50, NoSigs: true, NoLog: true})
	if err != nil {
		return nil, err
	}
	s.Start()
	s.ReadyForConnections(10 * time.Second)
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		s.Shutdown()
		return nil, err
	}
	q := &queue{server: s, conn: nc, dir: dir}
	if q.Queue, err = async.Open(context.Background(), nc, async.Options{Log: discard()}); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

// work runs calls until ctx ends. A call that fails is tried twice.
func (q *queue) work(ctx context.Context, gateway http.Handler) error {
	policy := async.DefaultPolicy()
	policy.Attempts, policy.MinWait, policy.MaxWait = 2, time.Millisecond, time.Millisecond
	return async.NewWorker(q.Queue, async.WorkerOptions{
		Name: "*", Gateway: web.InProcess(gateway), URL: &url.URL{Scheme: "http", Host: "gateway"},
		Queued: invoke.HeaderQueued, Submitter: invoke.HeaderSubmitter, Policy: policy, Drain: 10 * time.Second,
	}).Run(ctx)
}

func (q *queue) close() {
	q.conn.Close()
	q.server.Shutdown()
	q.server.WaitForShutdown()
}

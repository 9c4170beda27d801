package invoke

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/web"
)

// A talker is a function that repeats what it hears over a WebSocket, and
// keeps how the last one ended.
type talker struct {
	*instance
	ended chan websocket.StatusCode
}

func startTalker(t *testing.T) talker {
	t.Helper()
	ended := make(chan websocket.StatusCode, 1)
	return talker{startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.CloseNow() }()
		conn.SetReadLimit(-1)
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil {
				ended <- websocket.CloseStatus(err)
				return
			}
			if err := conn.Write(r.Context(), kind, message); err != nil {
				ended <- -1
				return
			}
		}
	})), ended}
}

func dialSocket(t *testing.T, url string) *websocket.Conn {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(url, "http", "ws", 1)+"/function/echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(-1)
	return conn
}

func say(t *testing.T, conn *websocket.Conn, message []byte) {
	t.Helper()
	if err := conn.Write(t.Context(), websocket.MessageBinary, message); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.Read(t.Context()); err != nil || !bytes.Equal(got, message) {
		t.Fatalf("%d bytes came back as %d, %v", len(message), len(got), err)
	}
}

// mustGoAway waits until both sides have learnt that the WebSocket is over.
func mustGoAway(t *testing.T, conn *websocket.Conn, function talker) {
	t.Helper()
	_, _, err := conn.Read(t.Context())
	if status := websocket.CloseStatus(err); status != websocket.StatusGoingAway {
		t.Errorf("the caller is told %d, %v; want %d", status, err, websocket.StatusGoingAway)
	}
	if status := <-function.ended; status != websocket.StatusGoingAway {
		t.Errorf("the function is told %d", status)
	}
}

func TestAWebSocketEndsProperlyWhenItsReplicaGoes(t *testing.T) {
	function := startTalker(t)
	table := startTable(t, TableOptions{})
	table.Set(endpoints(function.instance))
	url := startProxy(t, table)
	conn := dialSocket(t, url)
	for _, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
		say(t, conn, bytes.Repeat([]byte("x"), size))
	}
	table.Set(endpoints())
	mustGoAway(t, conn, function)

	table.Set(endpoints(function.instance))
	again := dialSocket(t, url)
	say(t, again, []byte("still there"))
	if err := again.Close(4000, "enough"); err != nil {
		t.Error(err)
	}
	if status := <-function.ended; status != 4000 {
		t.Errorf("the caller's close arrived as %d", status)
	}
	tr := routeOf(t, table).replicas[0].transport
	open := func() int {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return len(tr.sockets)
	}
	for open() > 0 {
		if t.Context().Err() != nil {
			t.Fatal("a WebSocket that is over is remembered")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAWebSocketEndsProperlyWhenTheGatewayStops(t *testing.T) {
	function := startTalker(t)
	table := startTable(t, TableOptions{})
	table.Set(endpoints(function.instance))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := web.Serve(ctx, ln, NewProxy(table, ProxyOptions{Log: testkit.Log(t)}), web.ServeOptions{Drain: time.Minute}); err != nil {
			t.Error(err)
		}
	})
	conn := dialSocket(t, "http://"+ln.Addr().String())
	say(t, conn, []byte("hello"))
	stop()
	mustGoAway(t, conn, function)
	serving.Wait()
}

func TestACallerWhoDoesNotAnswerTheCloseIsLeft(t *testing.T) {
	function := startTalker(t)
	table := startTable(t, TableOptions{})
	table.Set(endpoints(function.instance))
	url := startProxy(t, table)
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET /function/echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	buf := make([]byte, 1000)
	for !bytes.Contains(got.Bytes(), []byte("\r\n\r\n")) {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got.Write(buf[:n])
	}
	table.Set(endpoints())
	got.Reset()
	for err = nil; err == nil; {
		var n int
		n, err = c.Read(buf)
		got.Write(buf[:n])
	}
	if !bytes.Equal(got.Bytes(), closeGoingAway[:]) {
		t.Errorf("the end is % x, want a close frame", got.Bytes())
	}
}

func FuzzFramesAreFollowedHoweverTheyCome(f *testing.F) {
	f.Add([]byte{0x82, 3, 'a', 'b', 'c', 0x88, 2, 3, 0xe8}, 1)
	f.Add([]byte{0x81, 0xfe, 0, 2, 1, 2, 3, 4, 'x', 'y', 0x89, 0}, 3)
	f.Add([]byte{0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 2)
	f.Fuzz(func(t *testing.T, stream []byte, piece int) {
		piece = max(1, piece%64)
		var whole, parts frames
		whole.pass(stream)
		for rest := stream; len(rest) > 0; {
			n := min(piece, len(rest))
			parts.pass(rest[:n])
			rest = rest[n:]
			if parts.missing() < 1 {
				t.Fatalf("%d bytes are missing", parts.missing())
			}
		}
		if whole.left != parts.left || whole.have != parts.have || whole.closing != parts.closing {
			t.Errorf("% x in pieces of %d is %+v, and %+v at once", stream, piece, parts, whole)
		}
	})
}

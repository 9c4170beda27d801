package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// TestEveryWayOfTalkingReachesAFunction calls one Go function in all the ways
// that HTTP knows, through the whole platform.
func TestEveryWayOfTalkingReachesAFunction(t *testing.T) {
	p := start(t)
	p.deployWire()
	for _, sub := range []struct {
		name string
		test func(*platform)
	}{
		{"server-sent events arrive one by one", testServerSentEvents},
		{"lines are answered while the request goes on", testDuplex},
		{"a large upload of known length", func(p *platform) { testUpload(p, true) }},
		{"a large upload of unknown length", func(p *platform) { testUpload(p, false) }},
		{"a large download", testDownload},
		{"a broken answer is seen to be broken", testTruncation},
		{"WebSocket", testWebSocket},
		{"gRPC", testGRPC},
		{"HTTP/2 without TLS", testH2C},
		{"answers without a body", testNoBody},
		{"redirects are the caller's to follow", testRedirect},
		{"early hints", testEarlyHints},
		{"trailers both ways", testTrailers},
		{"paths and queries arrive as they were written", testPaths},
		{"verbs, headers and bodies arrive", testVerbs},
		{"100-continue comes from whoever reads the body", testExpectContinue},
		{"a handler may refuse a body it has not read", testEarlyRefusal},
		{"a handler that ignores the body harms no later call", testIgnoredBody},
		{"a caller who leaves is noticed by the handler", testCancellation},
		{"the platform does not touch encodings", testEncoding},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.test(p.in(t)) })
	}
}

func testServerSentEvents(p *platform) {
	resp := p.open("GET", "/function/wire/sse", nil, "Accept", "text/event-stream")
	defer resp.Body.Close()
	events := bufio.NewReader(resp.Body)
	for _, event := range []string{"one", "two", "three"} {
		// The next event is only written once this one was read.
		p.call(200, "GET", "/function/wire/next?say="+event, "")
		if line, err := events.ReadString('\n'); line != "data: "+event+"\n" {
			p.t.Fatalf("read %q, %v, want event %q", line, err, event)
		}
		if line, err := events.ReadString('\n'); line != "\n" {
			p.t.Fatalf("read %q, %v, want the end of the event", line, err)
		}
	}
	p.call(200, "GET", "/function/wire/next?say=end", "")
	if rest, err := io.ReadAll(events); len(rest) > 0 || err != nil {
		p.t.Errorf("after the last event: %q, %v", rest, err)
	}
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		p.t.Errorf("Content-Type is %q", got)
	}
}

func testDuplex(p *platform) {
	body, lines := io.Pipe()
	go func() { _, _ = io.WriteString(lines, "0\n") }() // fails only when the call has
	resp := p.open("POST", "/function/wire/duplex", body, "Content-Type", "application/x-ndjson")
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	for i := range 20 {
		if line, err := answers.ReadString('\n'); line != fmt.Sprintf("{\"got\":%d}\n", i) {
			p.t.Fatalf("answer %d is %q, %v", i, line, err)
		}
		if _, err := fmt.Fprintf(lines, "%d\n", i+1); err != nil {
			p.t.Fatal(err)
		}
	}
	lines.Close()
	if rest, err := io.ReadAll(answers); string(rest) != "{\"got\":20}\n" || err != nil {
		p.t.Errorf("the end is %q, %v", rest, err)
	}
}

const large = 100 << 20

func testUpload(p *platform, known bool) {
	before := p.peakMemory()
	body := io.LimitReader(zeroes{}, large)
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(zeroes{}, large)); err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), "POST", p.url+"/function/wire/upload", body)
	if err != nil {
		p.t.Fatal(err)
	}
	want := fmt.Sprintf("-1 %d %x [chunked] ok", large, sum.Sum(nil))
	if known {
		req.ContentLength = large
		want = fmt.Sprintf("%d %d %x [] ok", large, large, sum.Sum(nil))
	}
	if got := p.send(req); got.body != want {
		p.t.Errorf("the function saw %q, want %q", got.body, want)
	}
	p.wantMemory(before)
}

func testDownload(p *platform) {
	before := p.peakMemory()
	for _, query := range []string{"", "&length"} {
		resp := p.open("GET", fmt.Sprintf("/function/wire/download?n=%d%s", large, query), nil)
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if n != large || err != nil {
			p.t.Errorf("download%s: %d bytes, %v", query, n, err)
		}
		if want := map[string]int64{"": -1, "&length": large}[query]; resp.ContentLength != want {
			p.t.Errorf("download%s: Content-Length %d, want %d", query, resp.ContentLength, want)
		}
	}
	p.wantMemory(before)
}

func testTruncation(p *platform) {
	resp := p.open("GET", "/function/wire/truncate", nil)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil || string(body) != "ten bytes." {
		p.t.Errorf("a handler that died in its answer gave %q, %v: a caller must see that it is not whole", body, err)
	}
}

func testWebSocket(p *platform) {
	dial := func() *websocket.Conn {
		conn, resp, err := websocket.Dial(p.t.Context(), strings.Replace(p.url, "http", "ws", 1)+"/function/wire/websocket", &websocket.DialOptions{Subprotocols: []string{"parrot"}})
		if err != nil {
			p.t.Fatalf("%v (%v)", err, resp)
		}
		if resp.Header.Get("X-Call-Id") == "" {
			p.t.Errorf("the switch of protocols has no call id: %v", resp.Header)
		}
		conn.SetReadLimit(4 << 20)
		return conn
	}
	conn := dial()
	defer func() { _ = conn.CloseNow() }()
	if conn.Subprotocol() != "parrot" {
		p.t.Errorf("subprotocol %q", conn.Subprotocol())
	}
	for _, message := range [][]byte{[]byte("hello"), {}, bytes.Repeat([]byte("long"), 1<<18)} {
		if err := conn.Write(p.t.Context(), websocket.MessageBinary, message); err != nil {
			p.t.Fatal(err)
		}
		kind, got, err := conn.Read(p.t.Context())
		if err != nil || kind != websocket.MessageBinary || !bytes.Equal(got, message) {
			p.t.Fatalf("%d bytes came back as %d of kind %v, %v", len(message), len(got), kind, err)
		}
	}
	if err := conn.Write(p.t.Context(), websocket.MessageText, []byte("bye")); err != nil {
		p.t.Fatal(err)
	}
	_, _, err := conn.Read(p.t.Context())
	if closed, ok := errors.AsType[websocket.CloseError](err); !ok || closed.Code != 4001 || closed.Reason != "as you wish" {
		p.t.Errorf("the handler's close arrived as %v", err)
	}

	conn = dial()
	if err := conn.Close(4002, "enough"); err != nil {
		p.t.Errorf("close: %v", err)
	}
	if a := p.call(200, "GET", "/function/wire/closed", ""); a.body != "4002" {
		p.t.Errorf("the caller's close reached the handler as %s", a.body)
	}
}

func testGRPC(p *platform) {
	conn, err := grpc.NewClient(strings.TrimPrefix(p.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	const service = "/function/wire/grpc.health.v1.Health/"

	ctx := metadata.AppendToOutgoingContext(p.t.Context(), "x-sent", "mine")
	var answer healthpb.HealthCheckResponse
	var trailer metadata.MD
	if err := conn.Invoke(ctx, service+"Check", &healthpb.HealthCheckRequest{}, &answer, grpc.Trailer(&trailer)); err != nil {
		p.t.Fatalf("unary call: %v", err)
	}
	if answer.Status != healthpb.HealthCheckResponse_SERVING || strings.Join(trailer.Get("x-seen"), ",") != "mine" {
		p.t.Errorf("unary call: %v with trailer %v", answer.Status, trailer)
	}

	// Errors come as an answer of trailers alone. Often, because a proxy that
	// gets the framing wrong does so now and then.
	for range 200 {
		err := conn.Invoke(ctx, service+"Check", &healthpb.HealthCheckRequest{Service: "refused"}, &answer)
		if status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != "not today" {
			p.t.Fatalf("refused call: %v", err)
		}
	}
	if err := conn.Invoke(ctx, service+"Nothing", &healthpb.HealthCheckRequest{}, &answer); status.Code(err) != codes.Unimplemented {
		p.t.Errorf("unknown method: %v", err)
	}
	if err := conn.Invoke(ctx, "/function/nobody/grpc.health.v1.Health/Check", &healthpb.HealthCheckRequest{}, &answer); status.Code(err) != codes.Unimplemented {
		p.t.Errorf("unknown function: %v, want the code that gRPC gives to 404", err)
	}

	streaming, leave := context.WithCancel(ctx)
	defer leave()
	stream, err := conn.NewStream(streaming, &grpc.StreamDesc{ServerStreams: true}, service+"Watch")
	if err != nil {
		p.t.Fatal(err)
	}
	if err := stream.SendMsg(&healthpb.HealthCheckRequest{}); err != nil {
		p.t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		p.t.Fatal(err)
	}
	if err := stream.RecvMsg(&answer); err != nil || answer.Status != healthpb.HealthCheckResponse_SERVING {
		p.t.Errorf("first message of a stream that stays open: %v, %v", answer.Status, err)
	}
	leave()
	if err := stream.RecvMsg(&answer); status.Code(err) != codes.Canceled {
		p.t.Errorf("after cancel: %v", err)
	}
}

func testH2C(p *platform) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Post(p.url+"/function/wire/x", "text/plain", strings.NewReader("hi"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct{ Method, Body string }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		p.t.Fatal(err)
	}
	if resp.ProtoMajor != 2 || got.Method != "POST" || got.Body != "hi" {
		p.t.Errorf("%s: the function saw %+v", resp.Proto, got)
	}
}

func testNoBody(p *platform) {
	if a := p.call(200, "HEAD", "/function/wire/download?n=7&length", ""); a.body != "" || a.header.Get("Content-Length") != "7" {
		p.t.Errorf("HEAD: %q with %v", a.body, a.header)
	}
	for _, code := range []int{204, 304} {
		if a := p.call(code, "GET", "/function/wire/status?code="+strconv.Itoa(code), ""); a.body != "" {
			p.t.Errorf("%d with body %q", code, a.body)
		}
	}
	a := p.call(503, "GET", "/function/wire/status?code=503", "")
	if got := a.header.Get("X-Openfaas-Internal"); got != "" {
		p.t.Errorf("a handler passes for the platform: X-OpenFaaS-Internal: %s", got)
	}
	p.call(418, "GET", "/function/wire/status?code=418", "") // and the next call on the connection is whole
}

func testRedirect(p *platform) {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, code := range []int{301, 302, 307, 308} {
		resp, err := client.Post(p.url+"/function/wire/status?to=/elsewhere&code="+strconv.Itoa(code), "", strings.NewReader("x"))
		if err != nil {
			p.t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != code || resp.Header.Get("Location") != "/elsewhere" {
			p.t.Errorf("%d arrived as %d to %q", code, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
}

func testEarlyHints(p *platform) {
	var hints []string
	ctx := httptrace.WithClientTrace(p.t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, " ", header.Get("Link")))
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, "GET", p.url+"/function/wire/early", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if a := p.send(req); a.body != "late" {
		p.t.Errorf("answer %q", a.body)
	}
	if diff := cmp.Diff([]string{"103 </style.css>; rel=preload"}, hints); diff != "" {
		p.t.Errorf("hints (-want +got):\n%s", diff)
	}
}

func testTrailers(p *platform) {
	req, err := http.NewRequestWithContext(p.t.Context(), "POST", p.url+"/function/wire/trailers", io.MultiReader(strings.NewReader("abc")))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Client-Sum": {"12"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != `request trailer "12"` {
		p.t.Errorf("%q, %v", body, err)
	}
	if diff := cmp.Diff(http.Header{"X-Sum": {"3"}, "X-Unannounced": {"yes"}}, resp.Trailer); diff != "" {
		p.t.Errorf("trailers of the answer (-want +got):\n%s", diff)
	}
}

func testPaths(p *platform) {
	for path, want := range map[string]string{
		"":                   "/",
		"/":                  "/",
		"/a//b///c":          "/a//b///c",
		"/a%2Fb":             "/a%2Fb",
		"/%20%C3%A9":         "/%20%C3%A9",
		"/a/./b/../c":        "/a/./b/../c",
		"/x?a=1&b=%26&a=2":   "/x?a=1&b=%26&a=2",
		"/x?":                "/x?",
		"?q=1;2":             "/?q=1;2",
		"/x?url=http://y/?z": "/x?url=http://y/?z",
		"/_/nothing":         "/_/nothing",
		"/a:b@c;d=e,f":       "/a:b@c;d=e,f",
	} {
		for _, name := range []string{"wire", "wire.openfaas-fn"} {
			// A raw connection, because clients clean paths.
			status, body := p.raw("GET /function/" + name + path + " HTTP/1.1\r\nHost: made.up\r\nConnection: close\r\n\r\n")
			var got struct{ URI, Host string }
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				p.t.Errorf("%q: %d %q", path, status, body)
				continue
			}
			if got.URI != want {
				p.t.Errorf("%q reached the function as %q, want %q", name+path, got.URI, want)
			}
		}
	}
}

func testVerbs(p *platform) {
	for _, verb := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		a := p.call(200, verb, "/function/wire/x", "body of "+verb, "X-Mine", "yes", "Te", "trailers", "Connection", "X-Hop", "X-Hop", "1")
		var got struct {
			Method, Body string
			Header       http.Header
		}
		if err := json.Unmarshal([]byte(a.body), &got); err != nil {
			p.t.Fatalf("%s: %v in %q", verb, err, a.body)
		}
		if got.Method != verb || got.Body != "body of "+verb || got.Header.Get("X-Mine") != "yes" {
			p.t.Errorf("%s reached the function as %+v", verb, got)
		}
		if got.Header.Get("X-Hop") != "" {
			p.t.Errorf("%s: a header of this hop reached the function", verb)
		}
		if diff := cmp.Diff([]string{"one", "two"}, a.header.Values("X-Twice")); diff != "" {
			p.t.Errorf("%s: repeated header (-want +got):\n%s", verb, diff)
		}
	}
}

func testExpectContinue(p *platform) {
	conn, answers := p.dial()
	fmt.Fprintf(conn, "POST /function/wire/upload HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	if line, err := answers.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		p.t.Fatalf("a handler that reads is announced by %q, %v", line, err)
	}
	if _, err := answers.ReadString('\n'); err != nil {
		p.t.Fatal(err)
	}
	fmt.Fprintf(conn, "abc")
	resp, err := http.ReadResponse(answers, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasPrefix(string(body), "3 3 ") {
		p.t.Errorf("%d %q, %v", resp.StatusCode, body, err)
	}

	conn, answers = p.dial()
	fmt.Fprintf(conn, "POST /function/wire/refuse HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 300000000\r\n\r\n")
	if line, err := answers.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 413 ") {
		p.t.Errorf("a handler that does not read is announced by %q, %v", line, err)
	}
}

func testEarlyRefusal(p *platform) {
	for range 10 { // often, for it is a race of the answer with the body
		req, err := http.NewRequestWithContext(p.t.Context(), "POST", p.url+"/function/wire/refuse", io.LimitReader(zeroes{}, large))
		if err != nil {
			p.t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			p.t.Fatalf("the refusal did not arrive: %v", err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 413 || string(body) != "too large for me\n" {
			p.t.Errorf("%d %q", resp.StatusCode, body)
		}
	}
}

func testIgnoredBody(p *platform) {
	for _, body := range []string{"Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"} {
		var conn net.Conn
		var answers *bufio.Reader
		for range 100 {
			if conn == nil {
				conn, answers = p.dial()
			}
			fmt.Fprintf(conn, "POST /function/wire/status?code=200 HTTP/1.1\r\nHost: x\r\n%s", body)
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				p.t.Fatal(err)
			}
			if text, err := io.ReadAll(resp.Body); resp.StatusCode != 200 || err != nil {
				p.t.Fatalf("%d %q, %v", resp.StatusCode, text, err)
			}
			if resp.Close {
				conn = nil // as the platform wishes
			}
		}
	}
}

func testCancellation(p *platform) {
	before := p.call(200, "GET", "/function/wire/cancelled", "").body
	ctx, leave := context.WithCancel(p.t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", p.url+"/function/wire/hang", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	leave()
	resp.Body.Close()
	testkit.Eventually(p.t, "the handler sees that its caller has left", func() bool {
		return p.call(200, "GET", "/function/wire/cancelled", "").body != before
	})
}

func testEncoding(p *platform) {
	status, body := p.raw("GET /function/wire/gzip HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if status != 200 || body != "" {
		p.t.Errorf("a caller who accepts no encoding: the function saw Accept-Encoding %q", body)
	}
	status, body = p.raw("GET /function/wire/gzip HTTP/1.1\r\nHost: x\r\nAccept-Encoding: br;q=0.5\r\nConnection: close\r\n\r\n")
	if status != 200 || body != "br;q=0.5" {
		p.t.Errorf("the function saw Accept-Encoding %q", body)
	}
}

// open sends a request and returns its answer with the body still to be read.
func (p *platform) open(method, path string, body io.Reader, header ...string) *http.Response {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if strings.HasPrefix(path, "/system") {
		req.SetBasicAuth("admin", p.password())
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp
}

// send sends a request that must be answered 200.
func (p *platform) send(req *http.Request) answer {
	p.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		p.t.Fatalf("%s %s = %d %q, %v", req.Method, req.URL, resp.StatusCode, body, err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// dial opens a connection to the gateway that ends with the test.
func (p *platform) dial() (net.Conn, *bufio.Reader) {
	p.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		p.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// raw sends bytes as they are and returns the status and body of the answer.
func (p *platform) raw(request string) (status int, body string) {
	p.t.Helper()
	conn, answers := p.dial()
	if _, err := io.WriteString(conn, request); err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.ReadResponse(answers, nil)
	if err != nil {
		p.t.Fatalf("%q: %v", request, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatalf("%q: %v", request, err)
	}
	return resp.StatusCode, string(text)
}

// peakMemory is the most memory the platform's process ever had, in bytes.
//
// On a cluster it is 0: there the kubelet bounds it, and would end a gateway
// that exceeds its limit.
func (p *platform) peakMemory() int64 {
	p.t.Helper()
	if onCluster() {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.run.Cmd.Process.Pid))
	if err != nil {
		p.t.Skipf("no memory figures on this system: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		var kilobytes int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kilobytes); err == nil {
			return kilobytes << 10
		}
	}
	p.t.Fatalf("no VmHWM in\n%s", text)
	return 0
}

// wantMemory fails when the platform's peak has grown by as much as a body.
func (p *platform) wantMemory(before int64) {
	p.t.Helper()
	if grown := p.peakMemory() - before; grown > large/3 {
		p.t.Errorf("carrying %d MiB took the platform %d MiB of memory", large>>20, grown>>20)
	}
}

// zeroes reads as an endless row of zero bytes.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

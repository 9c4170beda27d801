package invoke

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// TestOurTransportDoesWhatHTTPTransportDoes runs each case through a
// ReverseProxy over http.Transport and through ours.
func TestOurTransportDoesWhatHTTPTransportDoes(t *testing.T) {
	for _, tt := range conformance {
		t.Run(tt.name, func(t *testing.T) {
			for name, start := range map[string]func(*testing.T, http.HandlerFunc) string{
				"http.Transport": startReference,
				"ours":           func(t *testing.T, h http.HandlerFunc) string { return startEcho(t, h) },
			} {
				t.Run(name, func(t *testing.T) { tt.run(t, start) })
			}
		})
	}
}

// startReference is a proxy as one writes it with the standard library alone.
func startReference(t *testing.T, h http.HandlerFunc) string {
	in := startInstance(t, h)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", in.Address[len("unix:"):])
		},
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxHead,
		DisableCompression:     true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	reverse := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = "http", "replica"
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery
			pr.Out.Trailer = pr.In.Trailer
		},
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      NewProxy(NewTable(TableOptions{}), ProxyOptions{Log: testkit.Log(t)}).errors,
	}
	return startServer(t, http.StripPrefix("/function/echo", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).EnableFullDuplex()
		}
		reverse.ServeHTTP(w, r)
	})))
}

var conformance = []struct {
	name string
	run  func(t *testing.T, start func(*testing.T, http.HandlerFunc) string)
}{
	{"status, headers and body come back", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["X-Many"] = []string{"a", "b"}
			w.Header().Set("Content-Type", "text/csv")
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprintf(w, "%s %s", r.Method, r.URL.RequestURI())
		})
		for range 3 { // the second and third on a used connection
			res, body := do(t, "GET", url+"/function/echo/a//b%2Fc?d=e;f", nil)
			if res.StatusCode != http.StatusTeapot || body != "GET /a//b%2Fc?d=e;f" || res.ContentLength != int64(len(body)) {
				t.Errorf("got %d %q of length %d", res.StatusCode, body, res.ContentLength)
			}
			if diff := cmp.Diff([]string{"a", "b"}, res.Header["X-Many"]); diff != "" {
				t.Error(diff)
			}
		}
	}},
	{"bodies of every kind are echoed with their framing", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.Header().Set("X-Length", fmt.Sprint(r.ContentLength, r.TransferEncoding))
			_, _ = io.Copy(w, r.Body)
		})
		big := strings.Repeat("0123456789abcdef", 100_000)
		for _, tt := range []struct {
			body io.Reader
			want string
		}{
			{nil, "0 []"},
			{strings.NewReader("small"), "5 []"},
			{strings.NewReader(big), "1600000 []"},
			{io.MultiReader(strings.NewReader("small")), "-1 [chunked]"},
			{io.MultiReader(strings.NewReader(big)), "-1 [chunked]"},
		} {
			want := ""
			if tt.body != nil {
				var copied bytes.Buffer
				tt.body = rewind(tt.body, &copied)
				want = copied.String()
			}
			res, got := do(t, "POST", url+"/function/echo", tt.body)
			if got != want || res.Header.Get("X-Length") != tt.want {
				t.Errorf("echo of %d bytes has %d, and was sent as %q, want %q", len(want), len(got), res.Header.Get("X-Length"), tt.want)
			}
		}
	}},
	{"answers without a body keep their length", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/204":
				w.WriteHeader(http.StatusNoContent)
			case "/304":
				w.Header().Set("Etag", `"x"`)
				w.WriteHeader(http.StatusNotModified)
			default:
				w.Header().Set("Content-Length", "42")
			}
		})
		for range 2 {
			if res, body := do(t, "HEAD", url+"/function/echo", nil); res.ContentLength != 42 || body != "" {
				t.Errorf("HEAD answers %d bytes, length %d", len(body), res.ContentLength)
			}
			if res, body := do(t, "GET", url+"/function/echo/204", nil); res.StatusCode != 204 || body != "" {
				t.Errorf("204 is %d %q", res.StatusCode, body)
			}
			if res, body := do(t, "GET", url+"/function/echo/304", nil); res.StatusCode != 304 || res.Header.Get("Etag") != `"x"` || body != "" {
				t.Errorf("304 is %d %q", res.StatusCode, body)
			}
		}
	}},
	{"trailers of answers come through, announced or not", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-Sum", "4")
			w.Header().Set(http.TrailerPrefix+"X-Surprise", "yes")
		})
		res, _ := do(t, "GET", url+"/function/echo", nil)
		if diff := cmp.Diff(http.Header{"X-Sum": {"4"}, "X-Surprise": {"yes"}}, res.Trailer); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}},
	{"trailers of requests come through", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, r.Trailer.Get("X-Sum"))
		})
		req := newRequest(t, "POST", url+"/function/echo", io.MultiReader(strings.NewReader("body")))
		req.Trailer = http.Header{"X-Sum": {"4"}}
		if _, body := send(t, req); body != "4" {
			t.Errorf("the function saw the trailer %q", body)
		}
	}},
	{"early hints are passed on", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			_, _ = io.WriteString(w, "done")
		})
		var hints []string
		req := newRequest(t, "GET", url+"/function/echo", nil)
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, " ", h.Get("Link")))
				return nil
			},
		}))
		res, body := send(t, req)
		if diff := cmp.Diff([]string{"103 </a.css>; rel=preload"}, hints); diff != "" || body != "done" || res.Header.Get("Link") != "" {
			t.Errorf("body %q, link %q, hints (-want +got)\n%s", body, res.Header.Get("Link"), diff)
		}
	}},
	{"a body is asked for once the function wants it", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
		conn, br := dial(t, url)
		fmt.Fprintf(conn, "POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
		if res := readHead(t, br, "POST"); res.StatusCode != http.StatusContinue {
			t.Fatalf("got %d, want 100", res.StatusCode)
		}
		fmt.Fprint(conn, "hello")
		res := readHead(t, br, "POST")
		for res.StatusCode == http.StatusContinue { // http.Transport makes our server say it twice at times
			res = readHead(t, br, "POST")
		}
		if body := readAll(t, res.Body); res.StatusCode != 200 || body != "hello" {
			t.Errorf("got %d %q", res.StatusCode, body)
		}
	}},
	{"a body that the function does not want is not asked for", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusExpectationFailed) })
		conn, br := dial(t, url)
		fmt.Fprintf(conn, "POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\nExpect: 100-continue\r\n\r\n")
		if res := readHead(t, br, "POST"); res.StatusCode != http.StatusExpectationFailed {
			t.Errorf("got %d, want 417 at once", res.StatusCode)
		}
	}},
	{"an answer may come before the body's end", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			http.Error(w, "too much", http.StatusRequestEntityTooLarge)
		})
		conn, br := dial(t, url)
		fmt.Fprintf(conn, "POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\nonly the beginning")
		if res := readHead(t, br, "POST"); res.StatusCode != http.StatusRequestEntityTooLarge || readAll(t, res.Body) != "too much\n" {
			t.Errorf("got %d, want 413", res.StatusCode)
		}
	}},
	{"both directions flow at once", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			_ = rc.EnableFullDuplex()
			_ = rc.Flush()
			for lines := bufio.NewScanner(r.Body); lines.Scan(); {
				fmt.Fprintf(w, "%s!\n", lines.Text())
				_ = rc.Flush()
			}
		})
		body, w := io.Pipe()
		res, err := client(t).Do(newRequest(t, "POST", url+"/function/echo", body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		answers := bufio.NewReader(res.Body)
		for i := range 5 {
			fmt.Fprintf(w, "line %d\n", i)
			if got, err := answers.ReadString('\n'); got != fmt.Sprintf("line %d!\n", i) || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		w.Close()
		if rest := readAll(t, res.Body); rest != "" {
			t.Errorf("got %q after the end", rest)
		}
	}},
	{"a switch of protocols opens a tunnel", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "shout" {
				http.Error(w, "want an upgrade", http.StatusBadRequest)
				return
			}
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "shout")
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, brw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			for {
				line, err := brw.ReadString('\n')
				if err != nil {
					fmt.Fprint(conn, "BYE\n")
					return
				}
				fmt.Fprint(conn, strings.ToUpper(line))
			}
		})
		conn, br := dial(t, url)
		fmt.Fprint(conn, "GET /function/echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
		if res := readHead(t, br, "GET"); res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "shout" {
			t.Fatalf("got %d, upgrade %q", res.StatusCode, res.Header.Get("Upgrade"))
		}
		fmt.Fprint(conn, "hello\n")
		if line, err := br.ReadString('\n'); line != "HELLO\n" || err != nil {
			t.Fatalf("got %q, %v", line, err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if line, err := br.ReadString('\n'); line != "BYE\n" || err != nil {
			t.Errorf("after the end of our half: %q, %v", line, err)
		}
	}},
	{"a caller that goes away is gone for the function too", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		began, gone := make(chan struct{}), make(chan struct{})
		url := start(t, func(w http.ResponseWriter, r *http.Request) {
			close(began)
			<-r.Context().Done()
			close(gone)
		})
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		req := newRequest(t, "GET", url+"/function/echo", nil).WithContext(ctx)
		c := client(t)
		go func() {
			_, err := c.Do(req)
			failed <- err
		}()
		<-began
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v", err)
		}
		<-gone
	}},
	{"an answer that breaks off is seen to break off", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		for _, head := range []string{"Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"} {
			url := start(t, func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n"+head)
				conn.Close()
			})
			res, err := client(t).Do(newRequest(t, "GET", url+"/function/echo", nil))
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("read %q without an error", body)
			}
			res.Body.Close()
		}
	}},
	{"a connection that breaks before the answer is a bad gateway", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
		if res, _ := do(t, "POST", url+"/function/echo", strings.NewReader("x")); res.StatusCode != http.StatusBadGateway {
			t.Errorf("got %d, want 502", res.StatusCode)
		}
	}},
	{"what is not HTTP is a bad gateway", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		for _, answer := range []string{"I am not a server\r\n\r\n", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Long: "+strings.Repeat("x", 1000)+"\r\n", 2000)} {
			url := start(t, func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				fmt.Fprint(conn, answer)
				conn.Close()
			})
			if res, _ := do(t, "POST", url+"/function/echo", nil); res.StatusCode != http.StatusBadGateway {
				t.Errorf("got %d, want 502", res.StatusCode)
			}
		}
	}},
	{"answers flow as they come", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		for _, header := range []http.Header{
			{"Content-Type": {"text/event-stream"}},
			{"Content-Type": {"application/x-ndjson"}},
			{"Content-Type": {"application/octet-stream"}, "Content-Length": {"12"}},
		} {
			next := make(chan struct{})
			url := start(t, func(w http.ResponseWriter, r *http.Request) {
				maps.Copy(w.Header(), header)
				rc := http.NewResponseController(w)
				_ = rc.Flush()
				for range 3 {
					<-next
					fmt.Fprint(w, "tick")
					_ = rc.Flush()
				}
			})
			res, err := client(t).Do(newRequest(t, "GET", url+"/function/echo", nil))
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				next <- struct{}{}
				tick := make([]byte, 4)
				if _, err := io.ReadFull(res.Body, tick); err != nil || string(tick) != "tick" {
					t.Fatalf("%v: got %q, %v", header, tick, err)
				}
			}
			if rest := readAll(t, res.Body); rest != "" {
				t.Errorf("%v: got %q after the end", header, rest)
			}
			res.Body.Close()
		}
	}},
	{"an answer that ends with its connection is whole", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "HTTP/1.0 200 OK\r\n\r\nold but good")
			conn.Close()
		})
		for range 2 {
			if res, body := do(t, "GET", url+"/function/echo", nil); res.StatusCode != 200 || body != "old but good" {
				t.Errorf("got %d %q", res.StatusCode, body)
			}
		}
	}},
	{"a redirect is the caller's business", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
		if res, _ := do(t, "GET", url+"/function/echo", nil); res.StatusCode != http.StatusFound || res.Header.Get("Location") != "/elsewhere" {
			t.Errorf("got %d to %q", res.StatusCode, res.Header.Get("Location"))
		}
	}},
	{"headers that are about one connection stay there", func(t *testing.T, start func(*testing.T, http.HandlerFunc) string) {
		url := start(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "X-Hop")
			w.Header().Set("X-Hop", "mine")
			w.Header().Set("Keep-Alive", "timeout=1")
			fmt.Fprint(w, r.Header["X-Hop"], r.Header["Keep-Alive"], r.Header["Proxy-Authorization"], r.Header["Te"], r.Header["User-Agent"])
		})
		req := newRequest(t, "GET", url+"/function/echo", nil)
		req.Header = http.Header{"Connection": {"X-Hop"}, "X-Hop": {"yours"}, "Keep-Alive": {"1"}, "Proxy-Authorization": {"secret"}, "Te": {"gzip"}, "User-Agent": {""}}
		res, body := send(t, req)
		if body != "[] [] [] [] []" || res.Header["X-Hop"] != nil || res.Header["Keep-Alive"] != nil {
			t.Errorf("the function saw %s, the caller %v", body, res.Header)
		}
	}},
}

func TestAnIdleConnectionThatTheReplicaClosedIsNotUsed(t *testing.T) {
	in := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	table := startTable(t, TableOptions{})
	table.Set(endpoints(in))
	table.Synced()
	url := startProxy(t, table)

	for range 10 {
		if res, _ := do(t, "POST", url+"/function/echo", strings.NewReader("x")); res.StatusCode != 200 {
			t.Fatalf("got %d", res.StatusCode)
		}
	}
	if n := in.opened.Load(); n != 1 {
		t.Errorf("ten requests one after the other took %d connections", n)
	}
	in.kill()
	in.listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	if res, _ := do(t, "POST", url+"/function/echo", strings.NewReader("x")); res.StatusCode != 200 {
		t.Errorf("after the replica closed its connections: %d", res.StatusCode)
	}
}

func TestAFullBacklogIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		tr := &transport{dial: func(context.Context) (net.Conn, error) {
			if tries++; tries < 5 {
				return nil, &net.OpError{Op: "dial", Err: syscall.EAGAIN}
			}
			ours, theirs := net.Pipe()
			theirs.Close()
			return ours, nil
		}}
		c, err := tr.connect(t.Context())
		if err != nil || tries != 5 {
			t.Fatalf("connect after %d tries: %v", tries, err)
		}
		c.Close()

		tr.dial = func(context.Context) (net.Conn, error) { return nil, syscall.EAGAIN }
		if _, err := tr.connect(t.Context()); !errors.Is(err, syscall.EAGAIN) || gone(err) {
			t.Errorf("a backlog that stays full: %v, gone: %t", err, gone(err))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := tr.connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("when time is up: %v", err)
		}
	})
}

func TestUnusedConnectionsAreClosedAfterAWhile(t *testing.T) {
	in := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	rep := newReplica(in.Replica, (&net.Dialer{}).DialContext)
	if !rep.answers(t.Context()).ready {
		t.Fatal("the replica does not answer")
	}
	tr := rep.transport
	tr.mu.Lock()
	tr.idle[0].since = time.Now().Add(-2 * idleTimeout)
	old := tr.idle[0]
	tr.pruning.Stop()
	tr.mu.Unlock()
	tr.prune()
	if _, err := old.Write([]byte("x")); !errors.Is(err, net.ErrClosed) || len(tr.idle) != 0 || tr.pruning != nil {
		t.Errorf("write to the unused connection: %v; %d are kept", err, len(tr.idle))
	}
}

// rewind returns a reader of what r holds, which it copies to w.
func rewind(r io.Reader, w *bytes.Buffer) io.Reader {
	_, _ = io.Copy(w, r)
	if _, ok := r.(*strings.Reader); ok {
		return strings.NewReader(w.String())
	}
	return io.MultiReader(strings.NewReader(w.String())) // hides its length
}

func client(t testing.TB) *http.Client {
	transport := &http.Transport{ExpectContinueTimeout: time.Minute, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func newRequest(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func send(t testing.TB, req *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return res, readAll(t, res.Body)
}

func do(t testing.TB, method, url string, body io.Reader) (*http.Response, string) {
	t.Helper()
	return send(t, newRequest(t, method, url, body))
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	all, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}

func dial(t testing.TB, url string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, bufio.NewReader(conn)
}

func readHead(t testing.TB, br *bufio.Reader, method string) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// Package function answers in every way that HTTP knows, so that a test can
// see whether the platform carries it.
package function

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var (
	next      = make(chan string)    // what /sse says next
	cancelled atomic.Int64           // calls of /hang that saw their caller leave
	closed    = make(chan string, 1) // how the last WebSocket ended
	service   = health.NewServer()
	rpc       = newRPC()
)

func newRPC() http.Handler {
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		sent, _ := metadata.FromIncomingContext(ctx)
		if err := grpc.SetTrailer(ctx, metadata.Pairs("x-seen", strings.Join(sent.Get("x-sent"), ","))); err != nil {
			return nil, err
		}
		if request.(*healthpb.HealthCheckRequest).Service == "refused" {
			return nil, status.Error(codes.FailedPrecondition, "not today")
		}
		return handler(ctx, request)
	}))
	healthpb.RegisterHealthServer(server, service)
	return server
}

// Handle answers by the first element of the path.
func Handle(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		rpc.ServeHTTP(w, r)
		return
	}
	control := http.NewResponseController(w)
	switch what, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); what {
	case "sse":
		w.Header().Set("Content-Type", "text/event-stream")
		_ = control.Flush() // the head, before there is an event
		for {
			select {
			case event := <-next:
				if event == "end" {
					return
				}
				fmt.Fprintf(w, "data: %s\n\n", event)
				_ = control.Flush()
			case <-r.Context().Done():
				return
			}
		}
	case "next":
		select {
		case next <- r.URL.Query().Get("say"):
		case <-r.Context().Done():
		}
	case "duplex":
		w.Header().Set("Content-Type", "application/x-ndjson")
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintf(w, `{"got":%s}`+"\n", lines.Text())
			_ = control.Flush()
		}
	case "upload":
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%d %d %x %v %s", r.ContentLength, n, sum.Sum(nil), r.TransferEncoding, errorText(err))
	case "download":
		n, _ := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
		if r.URL.Query().Has("length") {
			w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		}
		_, _ = io.CopyN(w, zeroes{}, n)
	case "truncate":
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "ten bytes.")
		_ = control.Flush()
		panic(http.ErrAbortHandler)
	case "websocket":
		serveWebSocket(w, r)
	case "closed":
		fmt.Fprint(w, <-closed)
	case "status":
		code, _ := strconv.Atoi(r.URL.Query().Get("code"))
		if to := r.URL.Query().Get("to"); to != "" {
			w.Header().Set("Location", to)
		}
		w.Header().Set("X-Openfaas-Internal", "forged")
		w.WriteHeader(code)
	case "early":
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprint(w, "late")
	case "trailers":
		w.Header().Set("Trailer", "X-Sum")
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "request trailer %q", r.Trailer.Get("X-Client-Sum"))
		w.Header().Set("X-Sum", strconv.Itoa(len(body)))
		w.Header().Set(http.TrailerPrefix+"X-Unannounced", "yes")
	case "refuse":
		w.Header().Set("Connection", "close")
		http.Error(w, "too large for me", http.StatusRequestEntityTooLarge)
	case "hang":
		fmt.Fprint(w, "hanging")
		_ = control.Flush()
		<-r.Context().Done()
		cancelled.Add(1)
	case "cancelled":
		fmt.Fprint(w, cancelled.Load())
	case "sleep":
		pause, _ := time.ParseDuration(r.URL.Query().Get("for"))
		select {
		case <-time.After(pause):
		case <-r.Context().Done():
		}
		fmt.Fprint(w, "slept")
	case "gzip":
		fmt.Fprint(w, r.Header.Get("Accept-Encoding"))
	default:
		describe(w, r)
	}
}

// describe answers with the request as it came in.
func describe(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Add("X-Twice", "one")
	w.Header().Add("X-Twice", "two")
	_ = json.NewEncoder(w).Encode(struct {
		Method, URI, Path, Host, Proto, Body string
		Query                                url.Values
		Header                               http.Header
		ContentLength                        int64
	}{r.Method, r.RequestURI, r.URL.Path, r.Host, r.Proto, string(body), r.URL.Query(), r.Header, r.ContentLength})
}

// serveWebSocket echoes messages; "bye" makes it close with a status of its own.
func serveWebSocket(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"parrot"}})
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(4 << 20)
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			select {
			case closed <- fmt.Sprint(int(websocket.CloseStatus(err))):
			default:
			}
			return
		}
		if string(message) == "bye" {
			_ = conn.Close(4001, "as you wish")
			return
		}
		if err := conn.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }

func errorText(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}

package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// ServeOptions tune [Serve]. The zero value serves without limits.
type ServeOptions struct {
	// Drain bounds how long requests in flight may take after ctx ends; 0
	// cuts them off at once.
	Drain time.Duration
	// ReadHeaderTimeout bounds the time a caller takes to send headers; 0 is
	// 10 seconds.
	ReadHeaderTimeout time.Duration
	// ReadTimeout and WriteTimeout bound whole requests and answers; 0 is no
	// bound. Handlers of long streams lift them by http.ResponseController.
	ReadTimeout, WriteTimeout time.Duration
	// MaxHeaderBytes bounds a request's headers; 0 is 1 MiB.
	MaxHeaderBytes int
	// Log takes the server's own complaints, such as TLS handshakes that fail.
	Log *slog.Logger
}

// Serve answers requests on ln with h, over HTTP/1 and HTTP/2 without TLS,
// until ctx ends; then it stops accepting, waits for the requests in flight
// as long as o.Drain allows, and closes what is left. It returns nil when
// that was ctx's doing. It closes ln in any case.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, o ServeOptions) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		ReadHeaderTimeout: o.ReadHeaderTimeout,
		ReadTimeout:       o.ReadTimeout,
		WriteTimeout:      o.WriteTimeout,
		MaxHeaderBytes:    o.MaxHeaderBytes,
		// Requests outlive ctx while they drain, so they do not inherit its end.
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	if srv.ReadHeaderTimeout == 0 {
		srv.ReadHeaderTimeout = 10 * time.Second
	}
	if o.Log != nil {
		srv.ErrorLog = slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)
	}

	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.Drain)
	defer cancel()
	err := srv.Shutdown(drain)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-served
	return err
}

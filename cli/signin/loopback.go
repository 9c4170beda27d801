package signin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/openid"
)

// callbackPath is where the issuer sends the browser back to. Clients that
// were registered for faas-cli have the same.
const callbackPath = "/oauth/callback"

// BrowserOptions say how a person logs in by browser.
type BrowserOptions struct {
	// Open shows a person a page of the issuer, or tells them where it is.
	Open func(url string)
	// Port is where the browser comes back to, on this machine; 0 is a free one.
	Port int
}

// Browser logs a person in with the browser of this machine: by authorization
// code, with PKCE, to a port that only this machine reaches.
func (s *Session) Browser(ctx context.Context, w World, o BrowserOptions) error {
	s.Flow = Browser
	at, err := s.discover(ctx, w)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(o.Port)))
	if err != nil {
		return fault.Unavailable.Errorf("listen for the browser: %w", err)
	}
	login := openid.NewLogin()
	redirect := "http://" + ln.Addr().String() + callbackPath
	target, err := at.LoginURL(s.Client, login, redirect)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	v := &visit{login: login, redeem: func(answer url.Values) error {
		got, err := at.Redeem(ctx, s.Client, login, redirect, answer)
		if err == nil {
			err = s.take(ctx, w, got)
		}
		return err
	}, done: make(chan error, 1)}
	server := &http.Server{Handler: v, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	stopped := make(chan struct{})
	var failed error // may be read once stopped is closed
	go func() {
		defer close(stopped)
		failed = server.Serve(ln)
	}()
	defer func() {
		// The page has to reach the browser before the program ends.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close() // a browser that keeps its connection needs it no more
		}
		<-stopped
	}()
	o.Open(target)
	select {
	case err := <-v.done:
		return err
	case <-stopped:
		return fault.Unavailable.Errorf("listen for the browser: %w", failed)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// visit answers the browser that comes back.
type visit struct {
	login  openid.Login
	redeem func(url.Values) error
	done   chan error // gets what became of the login, once
}

// ServeHTTP implements [http.Handler]. Only a request with the login's state is
// an answer: others on this machine may knock too, and must not end the login.
func (v *visit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := r.URL.Query()
	if r.Method != http.MethodGet || r.URL.Path != callbackPath {
		http.NotFound(w, r)
		return
	}
	if answer.Get("state") != v.login.State {
		openid.Page{
			Title:  "This is not the login that was begun",
			Failed: true,
			Text:   []string{"The page belongs to another login than the one the command line waits for. Begin again with \"graphene login\"."},
		}.Write(w, http.StatusForbidden)
		return
	}
	err := v.redeem(answer)
	if err != nil {
		openid.Page{Title: "You are not logged in", Failed: true, Text: []string{err.Error(), "You may close this window and go on in the terminal."}}.Write(w, http.StatusForbidden)
	} else {
		openid.Page{Title: "You are logged in", Done: true, Text: []string{"You may close this window and go on in the terminal."}}.Write(w, http.StatusOK)
	}
	select {
	case v.done <- err:
	default: // the browser asks again for what it has already been told
	}
}

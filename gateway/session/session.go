// Package session logs browsers in, by authorization code with PKCE, and keeps
// them logged in by a cookie.
//
// A session is in its cookies, encrypted, and nowhere else: every gateway that
// has the key can read it, and none has to remember anything. What it holds is
// a token of the issuer, so a caller with a session is one with a token: the
// same rules apply, and a token that has ended is replaced by the issuer or
// not at all. Functions never see the cookies.
//
// Functions' pages have the same origin as the platform's own and could act in
// the name of whoever looks at them. So while there are sessions, browsers are
// told to give those pages an origin of their own.
//
// Start with [New]; [Sessions.Wrap] goes around everything that takes callers,
// and [Sessions.Token] is asked for their tokens.
package session

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/openid"
	"github.com/graphene-faas/graphene/internal/web"
)

const (
	sessionCookie = "graphene"
	loginCookie   = "graphene-login"
	hostPrefix    = "__Host-" // only this host over TLS can have set it

	// margin is how long before its end a token is replaced.
	margin = 30 * time.Second
	// loginTime is how long a person may take to log in.
	loginTime = 15 * time.Minute
	// defaultMaxAge is how long a session lasts.
	defaultMaxAge = 12 * time.Hour
	// graceTime is for how long the answer to a cookie that was replaced is
	// remembered: a page asks for several things at once.
	graceTime = time.Minute
	// maxGrace bounds how many are remembered.
	maxGrace = 1000
	// discoveryAge is how long an issuer's description is used.
	discoveryAge = 10 * time.Minute

	sandbox = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-popups-to-escape-sandbox allow-scripts"
)

// Options are what sessions need.
type Options struct {
	// Issuers lists those that browsers can log in with now.
	Issuers func() []Issuer
	// Verify returns nil if a token is one that the platform accepts.
	Verify func(ctx context.Context, token string) error
	// Secrets returns what cookies are encrypted by, of 32 bytes each, the
	// newest first; cookies of the others can still be read.
	Secrets func() ([][]byte, error)
	// PublicURL is where browsers reach the platform; nil: as each request says,
	// below Prefix.
	PublicURL *url.URL
	// Prefix is the path below which the platform is shown, such as "/functions".
	Prefix string
	// MaxAge is how long a session lasts at most; 0 is 12 hours.
	MaxAge time.Duration
	// TrustFunctions leaves the pages of functions the origin of the platform.
	TrustFunctions bool
	Log            *slog.Logger // nil logs nothing
}

// An Issuer is somebody whom browsers can log in with.
type Issuer struct {
	Name      string
	URL       string   // as its tokens name it
	Internal  string   // where the platform reaches it; "" is URL
	Audiences []string // of tokens for this platform
	CAFile    string   // certificates it is known by; "" is the system's
	Client    openid.Client
	// SecretFile holds the client's secret; "" for one without.
	SecretFile string
}

// Sessions are the sessions of a platform. They are safe for concurrent use.
type Sessions struct {
	o       Options
	sealer  sealer
	issuers discovered
	opened  opened
	flights singleflight.Group

	mu    sync.Mutex // guards grace
	grace map[[sha256.Size]byte]replaced
}

// A replaced session answers for the cookie that it was made from.
type replaced struct {
	session session
	until   time.Time
}

// New returns sessions. It starts nothing.
func New(o Options) *Sessions {
	o.MaxAge = cmp.Or(o.MaxAge, defaultMaxAge)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Sessions{o: o, sealer: sealer{o.Secrets}, grace: map[[sha256.Size]byte]replaced{}}
}

// session is what the cookies of a session hold.
type session struct {
	Issuer  string `json:"i"`          // its name
	Token   packed `json:"k"`          // which proves who it is
	Expiry  int64  `json:"e"`          // of the token
	Began   int64  `json:"b"`          // in seconds since 1970, as is the expiry
	Refresh packed `json:"r,omitzero"` // which gets the next token
	ID      packed `json:"d,omitzero"` // the ID token, if Token is another
}

// IsZero tells package json what to leave out.
func (p packed) IsZero() bool { return p.Text == "" && len(p.Parts) == 0 }

func (s session) id() string {
	if s.ID.IsZero() {
		return s.Token.String()
	}
	return s.ID.String()
}

// Enabled reports whether browsers can log in.
func (s *Sessions) Enabled() bool { return s != nil && len(s.o.Issuers()) > 0 }

type carriedKey struct{}

// carried is the session that a request came with.
type carried struct {
	w      http.ResponseWriter // which gets new cookies
	value  string              // of the cookies
	secure bool
}

type loginKey struct{}

// loginValue returns the cookie of the login that the browser has begun; "" if
// it has not.
func loginValue(r *http.Request) string {
	value, _ := r.Context().Value(loginKey{}).(string)
	return value
}

// Wrap takes sessions' cookies out of requests, before anybody else sees them,
// and keeps them for [Sessions.Token].
func (s *Sessions) Wrap(next http.Handler) http.Handler {
	if s == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header["Cookie"]) > 0 {
			secure := s.secure(r)
			value := join(r, s.name(sessionCookie, secure))
			if c, err := r.Cookie(s.name(loginCookie, secure)); err == nil && r.URL.Path == CallbackPath {
				r = r.WithContext(context.WithValue(r.Context(), loginKey{}, c.Value))
			}
			if strip(r.Header); value != "" && len(r.Header["Authorization"]) == 0 {
				r = r.WithContext(context.WithValue(r.Context(), carriedKey{}, &carried{w: w, value: value, secure: secure}))
			}
		}
		next.ServeHTTP(w, r)
	})
}

// WrapFunctions is Wrap for the way to functions, whose pages get an origin of
// their own.
func (s *Sessions) WrapFunctions(next http.Handler) http.Handler {
	if s == nil {
		return next
	}
	next = s.Wrap(next)
	if s.o.TrustFunctions {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.Enabled() {
			w.Header().Add("Content-Security-Policy", sandbox)
		}
		next.ServeHTTP(w, r)
	})
}

// strip removes the platform's own cookies. The others stay as they were sent.
func strip(h http.Header) {
	lines := h["Cookie"]
	own := false
	for _, line := range lines {
		own = own || strings.Contains(line, sessionCookie)
	}
	if !own {
		return
	}
	var kept []string
	for _, line := range lines {
		var others []string
		for part := range strings.SplitSeq(line, ";") {
			name, _, _ := strings.Cut(strings.TrimSpace(part), "=")
			name = strings.TrimPrefix(strings.TrimSpace(name), hostPrefix)
			name, _, _ = strings.Cut(name, ".")
			if name != sessionCookie && name != loginCookie && strings.TrimSpace(part) != "" {
				others = append(others, strings.TrimSpace(part))
			}
		}
		if len(others) > 0 {
			kept = append(kept, strings.Join(others, "; "))
		}
	}
	if h.Del("Cookie"); len(kept) > 0 {
		h["Cookie"] = kept
	}
}

// ErrNone says that a request has no session, or one that has ended.
var ErrNone = fault.Unauthenticated.Errorf("there is no session")

// crossOrigin knows requests that pages of other origins make.
var crossOrigin = http.NewCrossOriginProtection()

// Token returns the token of the caller whose session r came with, which is
// prolonged if need be: so it has to be asked for before the answer begins.
// Errors are ErrNone, fault.Denied for what another site's page asks for, and
// fault.Unavailable if the issuer does not answer.
func (s *Sessions) Token(r *http.Request) (string, error) {
	if s == nil {
		return "", ErrNone
	}
	c, ok := r.Context().Value(carriedKey{}).(*carried)
	if !ok {
		return "", ErrNone
	}
	if err := sameOrigin(r); err != nil {
		return "", err
	}
	return s.current(r.Context(), c)
}

// sameOrigin refuses what another site's page asks for in the name of whoever
// looks at it. Looking is allowed, as links are; a connection that stays open
// is more than looking.
func sameOrigin(r *http.Request) error {
	check := r
	if r.Header.Get("Upgrade") != "" || r.Method == http.MethodConnect {
		check = &http.Request{Method: http.MethodPost, Header: r.Header, Host: r.Host, URL: r.URL}
	}
	if crossOrigin.Check(check) != nil {
		return fault.Denied.Errorf("the request comes from a page of another site, which may not act for you here")
	}
	return nil
}

// current returns the token of the session that c carries, prolonged if need
// be.
func (s *Sessions) current(ctx context.Context, c *carried) (string, error) {
	now := time.Now()
	key := sha256.Sum256([]byte(s.name(sessionCookie, c.secure) + "=" + c.value))
	found := s.opened.get(key, now)
	if found == nil {
		had, err := s.read(c, now)
		if err != nil {
			return "", err
		}
		found = s.opened.put(key, had, now)
	}
	had := found.session
	if s.ended(had, now) {
		return "", ErrNone
	}
	if now.Add(margin).Before(time.Unix(had.Expiry, 0)) {
		return found.token, nil
	}
	next, err := s.prolong(ctx, key, had)
	if err != nil {
		if errors.Is(err, fault.Unavailable) && now.Before(time.Unix(had.Expiry, 0)) {
			return found.token, nil
		}
		if errors.Is(err, fault.Denied) {
			// The cookie stays: another request may have replaced it already.
			s.o.Log.Info("a session has ended", "issuer", had.Issuer, "reason", err)
			return "", ErrNone
		}
		return "", err
	}
	if err := s.write(c.w, c.secure, next, len(c.value)); err != nil {
		return "", err
	}
	return next.Token.String(), nil
}

// ended reports whether a session has lasted as long as one may.
func (s *Sessions) ended(v session, now time.Time) bool {
	return now.After(time.Unix(v.Began, 0).Add(s.o.MaxAge))
}

// read returns the session that c carries if it has not ended.
func (s *Sessions) read(c *carried, now time.Time) (session, error) {
	var had session
	name := s.name(sessionCookie, c.secure)
	if err := s.sealer.open(name, c.value, &had); err != nil {
		return session{}, ErrNone
	}
	if s.ended(had, now) {
		return session{}, ErrNone
	}
	return had, nil
}

// prolong gets the next token of a session, once for all who need it.
func (s *Sessions) prolong(ctx context.Context, key [sha256.Size]byte, had session) (session, error) {
	result := s.flights.DoChan(string(key[:]), func() (any, error) {
		if next, ok := s.recall(key); ok {
			return next, nil
		}
		// Whoever asked first may leave; the new token is for all.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*openid.Timeout)
		defer cancel()
		next, err := s.refresh(ctx, had)
		if err == nil {
			s.remember(key, next)
		}
		return next, err
	})
	select {
	case r := <-result:
		next, _ := r.Val.(session)
		return next, r.Err
	case <-ctx.Done():
		return session{}, ctx.Err()
	}
}

func (s *Sessions) recall(key [sha256.Size]byte) (session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.grace[key]
	return r.session, ok && time.Now().Before(r.until)
}

func (s *Sessions) remember(key [sha256.Size]byte, next session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for k, r := range s.grace {
		if now.After(r.until) || len(s.grace) >= maxGrace {
			delete(s.grace, k)
		}
	}
	s.grace[key] = replaced{session: next, until: now.Add(graceTime)}
}

// refresh asks the issuer for the next token.
func (s *Sessions) refresh(ctx context.Context, had session) (session, error) {
	if had.Refresh.IsZero() {
		return session{}, fault.Denied.Errorf("the token has expired, and the issuer gave nothing to prolong it by")
	}
	issuer, at, err := s.issuer(ctx, had.Issuer)
	if err != nil {
		return session{}, err
	}
	got, err := at.Refresh(ctx, issuer.Client, had.Refresh.String())
	if err != nil {
		return session{}, err
	}
	if got.ID == "" {
		got.ID = had.id()
	}
	return s.made(ctx, issuer, got, time.Unix(had.Began, 0))
}

// made returns the session that an issuer's tokens make.
func (s *Sessions) made(ctx context.Context, issuer Issuer, got openid.Tokens, began time.Time) (session, error) {
	token, expiry, err := got.For(issuer.Audiences)
	if err != nil {
		return session{}, err
	}
	if err := s.o.Verify(ctx, token); errors.Is(err, fault.Unavailable) {
		return session{}, err
	} else if err != nil {
		return session{}, fault.Denied.Errorf("the platform does not accept the issuer's token: %w", err)
	}
	next := session{Issuer: issuer.Name, Token: pack(token), Expiry: expiry.Unix(), Began: began.Unix(), Refresh: pack(got.Refresh)}
	if got.ID != token {
		next.ID = pack(got.ID)
	}
	return next, nil
}

// write sets the cookies of a session, in place of those whose values had so
// many bytes.
func (s *Sessions) write(w http.ResponseWriter, secure bool, v session, had int) error {
	name := s.name(sessionCookie, secure)
	value, err := s.sealer.seal(name, v)
	if err != nil {
		return err
	}
	parts, err := split(value)
	if err != nil {
		return err
	}
	left := time.Until(time.Unix(v.Began, 0).Add(s.o.MaxAge))
	for i, part := range parts {
		setCookie(w, cookieName(name, i), part, secure, left)
	}
	for i := len(parts); i*maxCookie < had; i++ {
		setCookie(w, cookieName(name, i), "", secure, 0)
	}
	return nil
}

// setCookie sets a cookie for a time; none removes it.
func setCookie(w http.ResponseWriter, name, value string, secure bool, age time.Duration) {
	c := &http.Cookie{Name: name, Value: value, Path: "/", Secure: secure, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(age / time.Second)}
	if c.MaxAge <= 0 {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// secure reports whether the browser that sent r reaches the platform by TLS.
func (s *Sessions) secure(r *http.Request) bool { return s.base(r).Scheme == "https" }

// name returns the name of a cookie. With TLS it is one that only this host can
// have set, and no other is looked at.
func (s *Sessions) name(name string, secure bool) string {
	if secure {
		return hostPrefix + name
	}
	return name
}

// base returns where the browser that sent r reaches the platform.
func (s *Sessions) base(r *http.Request) *url.URL {
	if s.o.PublicURL != nil {
		return s.o.PublicURL
	}
	// What others than trusted proxies say of the way has been removed.
	u := &url.URL{Scheme: "http", Host: cmp.Or(r.Header.Get(web.HeaderForwardedHost), r.Host), Path: s.o.Prefix}
	if r.TLS != nil || r.Header.Get(web.HeaderForwardedProto) == "https" {
		u.Scheme = "https"
	}
	return u
}

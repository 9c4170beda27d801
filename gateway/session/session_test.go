package session_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"

	"github.com/graphene-faas/graphene/gateway/session"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/openid"
	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// An idp is an issuer that logs everybody in who comes, as user. Its tokens are
// not signed: who verifies them is the platform's affair, which the test plays.
// How real issuers behave is tried in test/identity.
type idp struct {
	*httptest.Server
	mu        sync.Mutex
	nonces    map[string]string // by code
	verifiers map[string]string // challenges by code
	life      time.Duration     // of tokens
	refreshes int               // tokens that were prolonged
	valid     string            // the refresh token that is good
	ended     bool              // nothing is prolonged any more
	down      bool
	padding   int // of tokens, in bytes
	nonce     string
	revoked   []string
}

func newIDP(t *testing.T) *idp {
	i := &idp{nonces: map[string]string{}, verifiers: map[string]string{}, life: time.Hour}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, map[string]any{
			"issuer": i.URL, "authorization_endpoint": i.URL + "/auth", "token_endpoint": i.URL + "/token",
			"revocation_endpoint": i.URL + "/revoke", "end_session_endpoint": i.URL + "/logout", "jwks_uri": i.URL + "/keys",
		})
	})
	mux.HandleFunc("GET /auth", func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		q := r.URL.Query()
		code := fmt.Sprintf("code%d", len(i.nonces))
		i.nonces[code], i.verifiers[code] = q.Get("nonce"), q.Get("code_challenge")
		if q.Get("code_challenge_method") != "S256" || q.Get("response_type") != "code" {
			http.Error(w, "no PKCE", http.StatusBadRequest)
			return
		}
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {q.Get("state")}}.Encode(), http.StatusFound)
	})
	mux.HandleFunc("POST /token", i.token)
	mux.HandleFunc("POST /revoke", func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.revoked = append(i.revoked, r.FormValue("token"))
	})
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		down := i.down
		i.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(i.Close)
	return i
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a test's own peer
}

func (i *idp) token(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	nonce := ""
	switch r.FormValue("grant_type") {
	case "authorization_code":
		code := r.FormValue("code")
		if oauth2.S256ChallengeFromVerifier(r.FormValue("code_verifier")) != i.verifiers[code] {
			w.WriteHeader(http.StatusBadRequest)
			writeJSON(w, map[string]any{"error": "invalid_grant", "error_description": "wrong verifier"})
			return
		}
		nonce = i.nonces[code]
		if i.nonce != "" {
			nonce = i.nonce
		}
		delete(i.verifiers, code)
	case "refresh_token":
		if i.ended || r.FormValue("refresh_token") != i.valid {
			w.WriteHeader(http.StatusBadRequest)
			writeJSON(w, map[string]any{"error": "invalid_grant", "error_description": "the session has ended"})
			return
		}
		i.refreshes++
	}
	i.valid = fmt.Sprintf("refresh-%d", i.refreshes)
	token := i.sign(map[string]any{
		"iss": i.URL, "sub": "user", "aud": "web", "exp": time.Now().Add(i.life).Unix(), "nonce": nonce,
		"n": i.refreshes, "groups": strings.Repeat("x", i.padding),
	})
	writeJSON(w, map[string]any{"access_token": "opaque", "id_token": token, "refresh_token": i.valid, "token_type": "Bearer", "expires_in": int(i.life.Seconds())})
}

func (i *idp) sign(claims map[string]any) string {
	text, _ := json.Marshal(claims) // of texts and numbers
	// A signature is random, and does not get smaller.
	signature := bytes.Repeat([]byte{0xa5, 0x17, 0xff}, 85)
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode(text) + "." + encode(signature)
}

// set changes the issuer.
func (i *idp) set(change func(*idp)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(i)
}

var secret = bytes.Repeat([]byte{7}, 32)

// A site is a platform with sessions, and a page that says whose it is.
type site struct {
	*httptest.Server
	seen    atomic.Pointer[http.Header] // of the last request behind the sessions
	refused error                       // what the platform says of tokens
}

func newSite(t *testing.T, issuers []session.Issuer, adjust ...func(*session.Options)) *site {
	s := &site{}
	o := session.Options{
		Issuers: func() []session.Issuer { return issuers },
		Verify:  func(context.Context, string) error { return s.refused },
		Secrets: func() ([][]byte, error) { return [][]byte{secret}, nil },
		Log:     testkit.Log(t),
	}
	for _, a := range adjust {
		a(&o)
	}
	sessions := session.New(o)
	mux := http.NewServeMux()
	for _, r := range sessions.Routes() {
		mux.Handle(r.Method+" "+r.Path, sessions.Wrap(r.Handle))
	}
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := r.Header.Clone()
		s.seen.Store(&seen)
		token, err := sessions.Token(r)
		switch {
		case errors.Is(err, session.ErrNone):
			http.Error(w, "nobody", http.StatusUnauthorized)
		case errors.Is(err, fault.Denied):
			http.Error(w, err.Error(), http.StatusForbidden)
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		default:
			claims, _ := openid.Read(token)
			fmt.Fprint(w, claims.Subject)
		}
	})
	mux.Handle("/", sessions.Wrap(page))
	mux.Handle("/function/", sessions.WrapFunctions(page))
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// web is how the site is registered with an issuer.
func (i *idp) web() session.Issuer {
	return session.Issuer{Name: "corp", URL: i.URL, Audiences: []string{"web"}, Client: openid.Client{ID: "web", Secret: "s"}}
}

// A browser keeps cookies.
type browser struct {
	t *testing.T
	*http.Client
}

func newBrowser(t *testing.T) browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return browser{t, &http.Client{Jar: jar}}
}

func (b browser) do(method, target string, header ...string) (*http.Response, string) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, target, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := b.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		b.t.Fatal(err)
	}
	return resp, text.String()
}

// want checks what a page answers.
func (b browser) want(status int, text, method, target string, header ...string) *http.Response {
	b.t.Helper()
	resp, got := b.do(method, target, header...)
	if resp.StatusCode != status || !strings.Contains(got, text) {
		b.t.Errorf("%s %s: %d %q, want %d %q", method, target, resp.StatusCode, got, status, text)
	}
	return resp
}

// stay has the browser not follow redirects.
func (b browser) stay() browser {
	c := *b.Client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return browser{b.t, &c}
}

func TestABrowserLogsInAndOut(t *testing.T) {
	i := newIDP(t)
	s := newSite(t, []session.Issuer{i.web()})
	b := newBrowser(t)
	b.want(401, "nobody", "GET", s.URL+"/page")
	resp := b.want(200, "user", "GET", s.URL+"/auth/login?return_to=/page%3Fa%3Db")
	if got := resp.Request.URL.String(); got != s.URL+"/page?a=b" {
		t.Errorf("the login leads to %s", got)
	}
	for query, want := range map[string]string{
		"return_to=/page?a=b&c=%2F":             "/page?a=b&c=%2F", // as nginx writes it
		"issuer=corp&return_to=/page?a=b&c=d":   "/page?a=b&c=d",
		"return_to=%2Fpage%3Fa%3Db&issuer=corp": "/page?a=b",
		"return_to=//evil.example/":             "/",
		"return_to=https://evil.example/":       "/",
	} {
		resp, _ := b.do("GET", s.URL+"/auth/login?"+query)
		if got := resp.Request.URL.String(); got != s.URL+want {
			t.Errorf("%s leads to %s, want %s", query, got, want)
		}
	}
	b.want(200, "user", "POST", s.URL+"/page", "Sec-Fetch-Site", "same-origin")
	b.want(200, `<form method="post" action="/auth/logout">`, "GET", s.URL+"/auth/logout")
	b.want(200, "user", "GET", s.URL+"/page") // asking is not doing

	out, _ := b.stay().do("POST", s.URL+"/auth/logout", "Sec-Fetch-Site", "same-origin")
	target, err := out.Location()
	if err != nil || !strings.HasPrefix(target.String(), i.URL+"/logout?") || target.Query().Get("id_token_hint") == "" || target.Query().Get("post_logout_redirect_uri") != s.URL+"/auth/logged-out" {
		t.Errorf("logout leads to %v, %v", target, err)
	}
	if !slices.Equal(i.revoked, []string{"refresh-0"}) { // of the last login
		t.Errorf("revoked: %q", i.revoked)
	}
	b.want(401, "nobody", "GET", s.URL+"/page")
	b.want(200, "You are logged out", "GET", s.URL+"/auth/logged-out")
}

func TestCookiesAreAsStrictAsTheyCanBe(t *testing.T) {
	i := newIDP(t)
	for name, test := range map[string]struct {
		url    string // of the platform, as it was told
		prefix string
		secure bool
	}{
		"without TLS": {"", "", false},
		"with TLS":    {"https://functions.example.com/platform", "__Host-", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, []session.Issuer{i.web()}, func(o *session.Options) {
				if test.url != "" {
					o.PublicURL, _ = url.Parse(test.url)
				}
			})
			b := newBrowser(t).stay()
			resp, _ := b.do("GET", s.URL+"/auth/login?return_to=/platform/page")
			begun := resp.Cookies()[0]
			at, err := resp.Location()
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.TrimSuffix(test.url, "/") + "/auth/callback"; test.url != "" && at.Query().Get("redirect_uri") != want {
				t.Errorf("redirect_uri is %q, want %q", at.Query().Get("redirect_uri"), want)
			}
			back, _ := b.do("GET", at.String())
			answer, err := back.Location()
			if err != nil {
				t.Fatal(err)
			}
			resp, text := b.do("GET", s.URL+"/auth/callback?"+answer.RawQuery, "Cookie", begun.Name+"="+begun.Value)
			if resp.StatusCode != 303 || resp.Header.Get("Location") != "/platform/page" {
				t.Fatalf("callback: %d %s %q", resp.StatusCode, text, resp.Header)
			}
			for _, c := range append(resp.Cookies(), begun) {
				want := &http.Cookie{Name: c.Name, Value: c.Value, Path: "/", MaxAge: c.MaxAge, HttpOnly: true, Secure: test.secure, SameSite: http.SameSiteLaxMode, Raw: c.Raw}
				if diff := cmp.Diff(want, c); diff != "" || !strings.HasPrefix(c.Name, test.prefix+"graphene") {
					t.Errorf("cookie %s (-want +got)\n%s", c.Name, diff)
				}
			}
			if strings.Contains(fmt.Sprint(resp.Cookies()), "refresh-") {
				t.Error("a cookie can be read")
			}
		})
	}
}

func TestFunctionsDoNotSeeCookiesOfThePlatform(t *testing.T) {
	i := newIDP(t)
	s := newSite(t, []session.Issuer{i.web()})
	b := newBrowser(t)
	b.do("GET", s.URL+"/auth/login")
	own, _ := url.Parse(s.URL)
	b.Jar.SetCookies(own, []*http.Cookie{{Name: "theme", Value: "dark", Path: "/"}, {Name: "graphenes", Value: "others", Path: "/"}})
	resp := b.want(200, "user", "GET", s.URL+"/function/f")
	if got := (*s.seen.Load())["Cookie"]; !slices.Equal(got, []string{"theme=dark; graphenes=others"}) && !slices.Equal(got, []string{"graphenes=others; theme=dark"}) {
		t.Errorf("the function sees %q", got)
	}
	if got := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "sandbox ") || strings.Contains(got, "allow-same-origin") {
		t.Errorf("the function's page has the platform's origin: %q", got)
	}
	// Also one that nobody can use.
	newBrowser(t).want(401, "nobody", "GET", s.URL+"/function/f", "Cookie", "__Host-graphene=x; a=b; graphene.1=y; graphene-login=z")
	if got := (*s.seen.Load())["Cookie"]; !slices.Equal(got, []string{"a=b"}) {
		t.Errorf("the function sees %q", got)
	}
	trusted := newSite(t, []session.Issuer{i.web()}, func(o *session.Options) { o.TrustFunctions = true })
	if resp := newBrowser(t).want(401, "nobody", "GET", trusted.URL+"/function/f"); resp.Header.Get("Content-Security-Policy") != "" {
		t.Error("pages of functions that are trusted are fenced in")
	}
}

func TestPagesOfOtherSitesCannotActInASession(t *testing.T) {
	i := newIDP(t)
	s := newSite(t, []session.Issuer{i.web()})
	b := newBrowser(t)
	b.do("GET", s.URL+"/auth/login")
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://evil.example.com"},
		{"Origin", "null"},
	} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
			b.want(403, "another site", method, s.URL+"/function/f", header...)
			b.want(403, "another site", method, s.URL+"/page", header...)
		}
		b.want(403, "another site", "POST", s.URL+"/auth/logout", header...)
		if header[1] != "null" {
			b.want(403, "another site", "GET", s.URL+"/function/f", append(slices.Clone(header), "Connection", "Upgrade", "Upgrade", "websocket")...)
		}
	}
	b.want(200, "user", "GET", s.URL+"/page", "Sec-Fetch-Site", "cross-site") // a link
	b.want(200, "user", "GET", s.URL+"/page")
	// Who brings a token needs no cookie, and no protection by it.
	b.want(401, "nobody", "POST", s.URL+"/page", "Authorization", "Bearer x", "Sec-Fetch-Site", "cross-site")
}

func TestSessionsAreProlonged(t *testing.T) {
	i := newIDP(t)
	s := newSite(t, []session.Issuer{i.web()})
	b := newBrowser(t)
	i.set(func(i *idp) { i.life = 20 * time.Second }) // which is nearly over, always
	b.do("GET", s.URL+"/auth/login")
	before := i.refreshes
	for range 3 {
		b.want(200, "user", "GET", s.URL+"/page")
	}
	if got := i.refreshes - before; got != 3 {
		t.Errorf("prolonged %d times, want 3: each with the cookie of the one before", got)
	}
	// A page asks for many things at once, all with the cookie it has.
	i.set(func(i *idp) { i.life = time.Hour })
	before = i.refreshes
	frozen := *b.Client
	frozen.Jar = nil
	own, _ := url.Parse(s.URL)
	var cookies []string
	for _, c := range b.Jar.Cookies(own) {
		cookies = append(cookies, c.Name+"="+c.Value)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			browser{t, &frozen}.want(200, "user", "GET", s.URL+"/page", "Cookie", strings.Join(cookies, "; "))
		})
	}
	all.Wait()
	if got := i.refreshes - before; got != 1 {
		t.Errorf("prolonged %d times for one page, want once", got)
	}

	i.set(func(i *idp) { i.life = 20 * time.Second })
	b = newBrowser(t)
	b.do("GET", s.URL+"/auth/login")
	i.set(func(i *idp) { i.down = true })
	b.want(200, "user", "GET", s.URL+"/page") // it is good for a while still
	i.set(func(i *idp) { i.down, i.ended = false, true })
	b.want(401, "nobody", "GET", s.URL+"/page")
}

func TestASessionThatTheIssuerCannotProlongIsNotLost(t *testing.T) {
	i := newIDP(t)
	s := newSite(t, []session.Issuer{i.web()})
	b := newBrowser(t)
	i.set(func(i *idp) { i.life = -time.Second })
	b.do("GET", s.URL+"/auth/login")
	i.set(func(i *idp) { i.down = true })
	b.want(503, "issuer", "GET", s.URL+"/page")
	i.set(func(i *idp) { i.down, i.life = false, time.Hour })
	b.want(200, "user", "GET", s.URL+"/page")
}

func TestSessionsEnd(t *testing.T) {
	i := newIDP(t)
	s := newSite(t, []session.Issuer{i.web()}, func(o *session.Options) { o.MaxAge = time.Nanosecond })
	b := newBrowser(t)
	b.want(401, "nobody", "GET", s.URL+"/auth/login?return_to=/page")
}

func TestKeysCanBeReplaced(t *testing.T) {
	i := newIDP(t)
	keys := [][]byte{secret}
	rotating := func(o *session.Options) { o.Secrets = func() ([][]byte, error) { return keys, nil } }
	s := newSite(t, []session.Issuer{i.web()}, rotating)
	one, two := newBrowser(t), newBrowser(t)
	for _, b := range []browser{one, two} {
		b.do("GET", s.URL+"/auth/login?return_to=/auth/logged-out")
	}
	keys = [][]byte{bytes.Repeat([]byte{8}, 32), secret}
	one.want(200, "user", "GET", s.URL+"/page")
	keys = keys[:1]
	two.want(401, "nobody", "GET", s.URL+"/page") // one may be remembered for a minute
}

func TestALoginThatWasNotBegunHereIsRefused(t *testing.T) {
	i := newIDP(t)
	s := newSite(t, []session.Issuer{i.web()})
	victim, attacker := newBrowser(t), newBrowser(t)
	victim.want(403, "has not begun a login", "GET", s.URL+"/auth/callback?code=x&state=y")

	// The attacker's own answer, in the victim's browser.
	begun, _ := attacker.stay().do("GET", s.URL+"/auth/login")
	at, err := begun.Location()
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := attacker.stay().do("GET", at.String())
	planted := answer.Header.Get("Location")
	victim.want(403, "has not begun a login", "GET", planted)
	victim.stay().do("GET", s.URL+"/auth/login")
	victim.want(403, "another login", "GET", planted)
	victim.want(401, "nobody", "GET", s.URL+"/page")

	// An ID token of another login.
	i.set(func(i *idp) { i.nonce = "replayed" })
	newBrowser(t).want(403, "answers another login", "GET", s.URL+"/auth/login")
	i.set(func(i *idp) { i.nonce = "" })

	// What the issuer says is shown, and is no page of its own.
	b := newBrowser(t)
	begun, _ = b.stay().do("GET", s.URL+"/auth/login")
	at, err = begun.Location()
	if err != nil {
		t.Fatal(err)
	}
	said := url.Values{"state": {at.Query().Get("state")}, "error": {"access_denied"}, "error_description": {"<script>alert(1)</script>"}}
	resp := b.want(403, "&lt;script&gt;", "GET", s.URL+"/auth/callback?"+said.Encode())
	if got := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'") {
		t.Errorf("the page may load what it likes: %q", got)
	}
}

func TestATokenThatThePlatformRefusesMakesNoSession(t *testing.T) {
	i := newIDP(t)
	s := newSite(t, []session.Issuer{i.web()})
	s.refused = fault.Unauthenticated.Errorf("the token's signature is wrong")
	b := newBrowser(t)
	b.want(403, "signature is wrong", "GET", s.URL+"/auth/login")
	s.refused = nil
	b.want(401, "nobody", "GET", s.URL+"/page")

	other := i.web()
	other.Audiences = []string{"graphene"}
	s = newSite(t, []session.Issuer{other})
	b.want(403, "graphene", "GET", s.URL+"/auth/login")
}

func TestTokensOfAnySizeMakeASessionOrSayWhyNot(t *testing.T) {
	i := newIDP(t)
	s := newSite(t, []session.Issuer{i.web()})
	for _, size := range []int{0, 10_000} { // which are all the same letter, and become small
		i.set(func(i *idp) { i.padding = size })
		newBrowser(t).want(200, "user", "GET", s.URL+"/auth/login?return_to=/page")
	}
	large := newSite(t, []session.Issuer{i.web()}, func(o *session.Options) {
		o.Verify = func(context.Context, string) error { return nil }
	})
	i.set(func(i *idp) { i.padding = 60_000 })
	newBrowser(t).want(200, "", "GET", large.URL+"/auth/login?return_to=/page")
}

func TestSeveralIssuersAreOffered(t *testing.T) {
	one, two := newIDP(t), newIDP(t)
	second := two.web()
	second.Name = "partner & sons"
	s := newSite(t, []session.Issuer{one.web(), second})
	b := newBrowser(t)
	b.want(200, "issuer=partner&#43;%26&#43;sons&amp;return_to=%2Fpage", "GET", s.URL+"/auth/login?return_to=/page")
	b.want(200, "user", "GET", s.URL+"/auth/login?return_to=/page&issuer=partner+%26+sons")
	b.want(403, "no", "GET", s.URL+"/auth/login?issuer=nobody")
	newBrowser(t).want(404, "cannot log in here", "GET", newSite(t, nil).URL+"/auth/login")
}

func TestAnIssuerThatIsAwayIsSaid(t *testing.T) {
	i := newIDP(t)
	s := newSite(t, []session.Issuer{i.web()})
	i.set(func(i *idp) { i.down = true })
	resp := newBrowser(t).want(503, "The issuer answers 503", "GET", s.URL+"/auth/login")
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control is %q", got)
	}
}

// BenchmarkToken is what a session costs a request, besides verifying the token.
func BenchmarkToken(b *testing.B) {
	i := &idp{}
	token := i.sign(map[string]any{"iss": "https://sso.example.com/realms/acme", "sub": "f3a1e0d2-5c1b-4c43-9d0f-6a3f6d1e0b77", "aud": "graphene", "groups": []string{"a", "b"}})
	s := session.New(session.Options{
		Issuers: func() []session.Issuer { return nil },
		Secrets: func() ([][]byte, error) { return [][]byte{secret}, nil },
	})
	cookie, err := session.Seal(s, token, "a refresh token")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(cookie)), "bytes/cookie")
	h := s.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if got, err := s.Token(r); err != nil || got != token {
			b.Fatal(got, err)
		}
	}))
	r := httptest.NewRequest(http.MethodGet, "/function/f", nil)
	w := httptest.NewRecorder()
	for b.Loop() {
		r.Header["Cookie"] = []string{"graphene=" + cookie}
		h.ServeHTTP(w, r)
	}
}

package session

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/openid"
	"github.com/graphene-faas/graphene/internal/web"
)

// Paths of the routes.
const (
	LoginPath     = "/auth/login"
	CallbackPath  = "/auth/callback"
	LogoutPath    = "/auth/logout"
	LoggedOutPath = "/auth/logged-out"
)

// A Route is one of the pages by which browsers log in and out.
type Route struct {
	Method, Path string
	Handle       http.Handler
}

// Routes lists the routes, which are open to everybody. Their requests must
// have passed [Sessions.Wrap].
func (s *Sessions) Routes() []Route {
	page := func(h web.HandlerFunc) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				s.failed(w, r, err)
			}
		})
	}
	return []Route{
		{http.MethodGet, LoginPath, page(s.login)},
		{http.MethodGet, CallbackPath, page(s.callback)},
		{http.MethodGet, LogoutPath, page(s.askLogout)},
		{http.MethodPost, LogoutPath, page(s.logout)},
		{http.MethodGet, LoggedOutPath, page(s.loggedOut)},
	}
}

// begun is what the cookie of a login that was begun holds.
type begun struct {
	openid.Login
	Issuer   string `json:"i"`
	ReturnTo string `json:"r"`
	Until    int64  `json:"u"` // in seconds since 1970
}

// login sends a browser to its issuer, or lets it choose one.
func (s *Sessions) login(w http.ResponseWriter, r *http.Request) error {
	back := s.returnTo(r, askedReturnTo(r))
	name := r.URL.Query().Get("issuer")
	if all := s.o.Issuers(); name == "" {
		switch len(all) {
		case 0:
			return fault.NotFound.Errorf("browsers cannot log in here: no issuer has a client for that")
		case 1:
			name = all[0].Name
		default:
			return s.choose(w, r, all, back)
		}
	}
	issuer, at, err := s.issuer(r.Context(), name)
	if err != nil {
		return err
	}
	b := begun{Login: openid.NewLogin(), Issuer: name, ReturnTo: back, Until: time.Now().Add(loginTime).Unix()}
	target, err := at.LoginURL(issuer.Client, b.Login, s.url(r, CallbackPath))
	if err != nil {
		return err
	}
	secure := s.secure(r)
	value, err := s.sealer.seal(s.name(loginCookie, secure), b)
	if err != nil {
		return err
	}
	setCookie(w, s.name(loginCookie, secure), value, secure, loginTime)
	redirect(w, target)
	return nil
}

// choose lets a person choose an issuer.
func (s *Sessions) choose(w http.ResponseWriter, r *http.Request, all []Issuer, back string) error {
	page := openid.Page{Title: "Log in", Text: []string{"With whom do you want to log in?"}}
	for _, issuer := range all {
		query := url.Values{"issuer": {issuer.Name}, "return_to": {back}}
		page.Links = append(page.Links, openid.PageLink{Text: issuer.Name, URL: s.path(r, LoginPath) + "?" + query.Encode()})
	}
	page.Write(w, http.StatusOK)
	return nil
}

// callback is where an issuer sends browsers back to.
func (s *Sessions) callback(w http.ResponseWriter, r *http.Request) error {
	secure := s.secure(r)
	cookie := s.name(loginCookie, secure)
	var b begun
	// The cookie has been taken out of the request's header, and is in the
	// context with the session's.
	if err := s.sealer.open(cookie, loginValue(r), &b); err != nil || time.Now().After(time.Unix(b.Until, 0)) {
		return fault.Denied.Errorf("this browser has not begun a login, or too long ago, or it keeps no cookies")
	}
	setCookie(w, cookie, "", secure, 0)
	issuer, at, err := s.issuer(r.Context(), b.Issuer)
	if err != nil {
		return err
	}
	got, err := at.Redeem(r.Context(), issuer.Client, b.Login, s.url(r, CallbackPath), r.URL.Query())
	if err != nil {
		return err
	}
	made, err := s.made(r.Context(), issuer, got, time.Now())
	if err != nil {
		return err
	}
	had := 0
	if c, ok := r.Context().Value(carriedKey{}).(*carried); ok {
		had = len(c.value)
	}
	if err := s.write(w, secure, made, had); err != nil {
		return err
	}
	claims, err := openid.Read(made.id())
	if err != nil {
		return err
	}
	s.o.Log.Info("a browser has logged in", "issuer", issuer.Name, "subject", claims.Subject, "from", r.RemoteAddr)
	redirect(w, s.returnTo(r, b.ReturnTo)) // again, as rules may have changed with the program
	return nil
}

// askLogout asks whether somebody wants to be logged out, which a link of
// another site must not decide.
func (s *Sessions) askLogout(w http.ResponseWriter, r *http.Request) error {
	openid.Page{
		Title:  "Log out?",
		Text:   []string{"You will be logged out here, and where you logged in."},
		Button: &openid.PageLink{Text: "Log out", URL: s.path(r, LogoutPath)},
	}.Write(w, http.StatusOK)
	return nil
}

// logout ends a session here and at the issuer.
func (s *Sessions) logout(w http.ResponseWriter, r *http.Request) error {
	if err := sameOrigin(r); err != nil {
		return err
	}
	target := s.path(r, LoggedOutPath)
	if c, ok := r.Context().Value(carriedKey{}).(*carried); ok {
		for i := range maxCookies {
			setCookie(w, cookieName(s.name(sessionCookie, c.secure), i), "", c.secure, 0)
		}
		if had, err := s.read(c, time.Now()); err == nil {
			target = s.end(r, had, target)
		}
	}
	redirect(w, target)
	return nil
}

// end has the issuer end a session, and returns where the browser goes on.
// That it does not answer keeps nobody logged in here.
func (s *Sessions) end(r *http.Request, had session, target string) string {
	issuer, at, err := s.issuer(r.Context(), had.Issuer)
	if err != nil {
		s.o.Log.Warn("a session cannot be ended at its issuer", "issuer", had.Issuer, "err", err)
		return target
	}
	if err := at.Revoke(r.Context(), issuer.Client, had.Refresh.String()); err != nil {
		s.o.Log.Warn("a session cannot be ended at its issuer", "issuer", had.Issuer, "err", err)
	}
	if there := at.LogoutURL(issuer.Client, had.id(), s.url(r, LoggedOutPath)); there != "" {
		return there
	}
	return target
}

func (s *Sessions) loggedOut(w http.ResponseWriter, r *http.Request) error {
	openid.Page{
		Title: "You are logged out",
		Done:  true,
		Links: []openid.PageLink{{Text: "Log in again", URL: s.path(r, LoginPath)}},
	}.Write(w, http.StatusOK)
	return nil
}

// failed answers with a page that says what went wrong.
func (s *Sessions) failed(w http.ResponseWriter, r *http.Request, err error) {
	s.o.Log.Info("a browser could not log in or out", "path", r.URL.Path, "from", r.RemoteAddr, "err", err)
	text := []string{err.Error()}
	if errors.Is(err, fault.Internal) || fault.KindOf(err) == fault.Internal {
		text = []string{"Something went wrong that nobody foresaw. The platform's log has the details."}
	}
	openid.Page{
		Title:  "That did not work",
		Failed: true,
		Text:   text,
		Links:  []openid.PageLink{{Text: "Try again", URL: s.path(r, LoginPath)}},
	}.Write(w, web.Status(err))
}

// path returns a path of the platform as browsers write it.
func (s *Sessions) path(r *http.Request, path string) string {
	return strings.TrimSuffix(s.base(r).EscapedPath(), "/") + path
}

// url returns the whole address of a path of the platform.
func (s *Sessions) url(r *http.Request, path string) string {
	return strings.TrimSuffix(s.base(r).String(), "/") + path
}

// redirect sends a browser elsewhere, by GET. Unlike http.Redirect it leaves
// the address as it is.
func redirect(w http.ResponseWriter, target string) {
	w.Header().Set("Location", target)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusSeeOther)
}

// askedReturnTo returns the parameter return_to. A path that is not escaped, as
// nginx writes the one it was asked for, goes to the end of the query.
func askedReturnTo(r *http.Request) string {
	const parameter = "return_to="
	asked := r.URL.Query().Get("return_to")
	raw := r.URL.RawQuery
	if i := strings.Index(raw, "&"+parameter); i >= 0 {
		raw = raw[i+1:]
	}
	path, ok := strings.CutPrefix(raw, parameter)
	escaped := strings.Contains(asked, "?") && !strings.Contains(path, "?") // by those who leave "/" as it is
	if !ok || !strings.HasPrefix(path, "/") || escaped {
		return asked
	}
	return path
}

// maxReturnTo is the longest path to return to, in bytes.
const maxReturnTo = 1024

// returnTo returns the path that a browser goes back to after a login: the one
// that was asked for if it is on the same host, where there may be other
// applications beside the platform, and else the platform's root.
func (s *Sessions) returnTo(r *http.Request, asked string) string {
	if !localPath(asked) {
		return s.path(r, "/")
	}
	return asked
}

// localPath reports whether every browser takes text for a path on the host it
// is on. Browsers read "\" as "/", drop tabs and line breaks, and take what
// follows "//" for a host.
func localPath(text string) bool {
	if len(text) > maxReturnTo || !strings.HasPrefix(text, "/") || strings.HasPrefix(text, "//") {
		return false
	}
	for _, c := range []byte(text) {
		if c <= ' ' || c >= 0x7f || c == '\\' || c == '"' || c == '<' || c == '>' {
			return false
		}
	}
	u, err := url.Parse(text)
	return err == nil && !u.IsAbs() && u.Host == "" && u.User == nil
}

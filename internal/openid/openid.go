// Package openid is the client's side of OpenID Connect: it finds out where an
// issuer answers, and gets tokens from it for people, by authorization code or
// device code, and for programs, by client credentials.
//
// The command line and the sessions of browsers log in by it. It does not
// verify signatures: what it returns came from the issuer itself, and whoever
// is shown a token verifies it.
//
// Start with [Discover].
package openid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/graphene-faas/graphene/internal/fault"
)

const (
	maxDocument = 1 << 20 // what an issuer says, in bytes
	// Timeout bounds each request to an issuer.
	Timeout = 10 * time.Second
)

// An Issuer is where an issuer answers what.
type Issuer struct {
	URL string `json:"issuer"` // as tokens name it

	AuthURL       string `json:"authorization_endpoint"`
	TokenURL      string `json:"token_endpoint"`
	DeviceURL     string `json:"device_authorization_endpoint"` // "" if it has no device flow
	RevocationURL string `json:"revocation_endpoint"`           // "" if it revokes nothing
	EndSessionURL string `json:"end_session_endpoint"`          // "" if it knows no logout

	AuthMethods []string `json:"token_endpoint_auth_methods_supported"`
	Scopes      []string `json:"scopes_supported"`
	// NamesItself tells that it says in the answer to a login who it is.
	NamesItself bool `json:"authorization_response_iss_parameter_supported"`

	client *http.Client
}

// Discover asks an issuer where it answers what. A nil client is one of
// http.DefaultTransport. Errors are fault.Unavailable if there is no answer,
// and fault.Invalid if it is not an issuer's.
func Discover(ctx context.Context, client *http.Client, issuer string) (*Issuer, error) {
	return DiscoverAt(ctx, client, issuer, issuer)
}

// DiscoverAt is Discover for an issuer that has to be asked at another address
// than its own.
func DiscoverAt(ctx context.Context, client *http.Client, issuer, at string) (*Issuer, error) {
	if client == nil {
		client = &http.Client{Timeout: Timeout}
	}
	where := strings.TrimSuffix(at, "/") + "/.well-known/openid-configuration"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, fault.Invalid.Errorf("issuer %s: %w", issuer, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fault.Unavailable.Errorf("the issuer cannot be reached: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fault.Unavailable.Errorf("the issuer answers %s at %s", resp.Status, where)
	}
	i := &Issuer{client: client}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxDocument)).Decode(i); err != nil {
		return nil, fault.Invalid.Errorf("%s is no issuer's description: %w", where, err)
	}
	if i.URL != issuer {
		return nil, fault.Invalid.Errorf("the issuer at %s calls itself %q, not %q", where, i.URL, issuer)
	}
	if i.TokenURL == "" {
		return nil, fault.Invalid.Errorf("the issuer %s does not say where it gives out tokens", issuer)
	}
	if at != issuer {
		// Who is asked inside is asked inside for everything but what people see.
		for _, endpoint := range []*string{&i.TokenURL, &i.DeviceURL, &i.RevocationURL} {
			if rest, ok := strings.CutPrefix(*endpoint, issuer); ok {
				*endpoint = at + rest
			}
		}
	}
	return i, nil
}

// A Client is how an issuer knows the program that asks it.
type Client struct {
	ID     string
	Secret string // "" for one that can keep none
	// Scopes are asked for besides openid. None stands for profile, email and
	// offline_access, without those that the issuer does not know.
	Scopes []string
	// Parameters are sent along when a login begins.
	Parameters map[string]string
}

// defaultScopes are what a login needs: who somebody is, and that the login
// lasts.
var defaultScopes = []string{"profile", "email", "offline_access"}

func (i *Issuer) config(c Client) *oauth2.Config {
	scopes := []string{"openid"}
	for _, scope := range c.Scopes {
		if scope != "openid" {
			scopes = append(scopes, scope)
		}
	}
	if len(c.Scopes) == 0 {
		for _, scope := range defaultScopes {
			if len(i.Scopes) == 0 || slices.Contains(i.Scopes, scope) {
				scopes = append(scopes, scope)
			}
		}
	}
	return &oauth2.Config{
		ClientID: c.ID, ClientSecret: c.Secret, Scopes: scopes,
		Endpoint: oauth2.Endpoint{AuthURL: i.AuthURL, TokenURL: i.TokenURL, DeviceAuthURL: i.DeviceURL, AuthStyle: i.authStyle(c)},
	}
}

// authStyle is how a client says who it is. The default of the standard is a
// header; a client without a secret only names itself.
func (i *Issuer) authStyle(c Client) oauth2.AuthStyle {
	if c.Secret == "" || len(i.AuthMethods) > 0 && !slices.Contains(i.AuthMethods, "client_secret_basic") {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

func (i *Issuer) context(ctx context.Context) context.Context {
	return context.WithValue(ctx, oauth2.HTTPClient, i.client)
}

// Tokens are what a login gives.
type Tokens struct {
	Access  string
	ID      string // "" for a program
	Refresh string // "" if the login cannot be prolonged
	Expiry  time.Time
}

func tokens(t *oauth2.Token) Tokens {
	id, _ := t.Extra("id_token").(string)
	return Tokens{Access: t.AccessToken, ID: id, Refresh: t.RefreshToken, Expiry: t.Expiry}
}

// For returns the token to show to somebody who takes tokens for one of these
// audiences, and when it ends: the access token if it can be read and is meant
// for them, else the ID token. No audience stands for any. The error says what
// is missing.
func (t Tokens) For(audiences []string) (raw string, expiry time.Time, err error) {
	var meant []string
	for _, raw := range []string{t.Access, t.ID} {
		claims, err := Read(raw)
		if err != nil {
			continue // an access token may be for the issuer alone to read
		}
		if len(audiences) == 0 || slices.ContainsFunc(claims.Audience, func(a string) bool { return slices.Contains(audiences, a) }) {
			return raw, claims.Expiry.Time(), nil
		}
		meant = append(meant, claims.Audience...)
	}
	if len(meant) == 0 {
		return "", time.Time{}, fault.Denied.Errorf("the issuer gives out no token that others than itself can read: have it make JWTs")
	}
	return "", time.Time{}, fault.Denied.Errorf("the issuer's tokens are for %q, and the platform takes those for %q: give the client an audience mapper, or the rules another aud",
		slices.Compact(slices.Sorted(slices.Values(meant))), audiences)
}

// A Login is one login by authorization code, from its beginning to its end.
// Everything in it but the URL is secret.
type Login struct {
	State    string `json:"s"` // returns with the answer
	Nonce    string `json:"n"` // returns in the ID token
	Verifier string `json:"v"` // proves that who began the login ends it
}

// NewLogin begins a login.
func NewLogin() Login {
	return Login{State: oauth2.GenerateVerifier(), Nonce: oauth2.GenerateVerifier(), Verifier: oauth2.GenerateVerifier()}
}

// LoginURL returns where a person logs in. They return to redirect.
func (i *Issuer) LoginURL(c Client, l Login, redirect string) (string, error) {
	if i.AuthURL == "" {
		return "", fault.Unsupported.Errorf("the issuer %s does not let people log in", i.URL)
	}
	config := i.config(c)
	config.RedirectURL = redirect
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(l.Verifier), oauth2.SetAuthURLParam("nonce", l.Nonce)}
	for name, value := range c.Parameters {
		options = append(options, oauth2.SetAuthURLParam(name, value))
	}
	return config.AuthCodeURL(l.State, options...), nil
}

// Redeem returns the tokens of a person who has returned to redirect with
// answer. Errors are fault.Denied if the person or the issuer said no, or if
// the answer belongs to another login.
func (i *Issuer) Redeem(ctx context.Context, c Client, l Login, redirect string, answer url.Values) (Tokens, error) {
	if !equal(answer.Get("state"), l.State) {
		return Tokens{}, fault.Denied.Errorf("the answer belongs to another login than the one that was begun here")
	}
	if iss := answer.Get("iss"); iss != i.URL && (iss != "" || i.NamesItself) {
		return Tokens{}, fault.Denied.Errorf("the answer is from another issuer than the one that was asked")
	}
	if said := answer.Get("error"); said != "" {
		return Tokens{}, fault.Denied.Errorf("the issuer says %s", describe(said, answer.Get("error_description")))
	}
	code := answer.Get("code")
	if code == "" {
		return Tokens{}, fault.Denied.Errorf("the issuer's answer has no code")
	}
	config := i.config(c)
	config.RedirectURL = redirect
	t, err := config.Exchange(i.context(ctx), code, oauth2.VerifierOption(l.Verifier))
	if err != nil {
		return Tokens{}, refused("redeem the code", err)
	}
	got := tokens(t)
	return got, i.checkID(got.ID, c.ID, l.Nonce)
}

// checkID checks that an ID token answers the login it is meant to.
func (i *Issuer) checkID(raw, client, nonce string) error {
	claims, err := Read(raw)
	switch {
	case raw == "":
		return fault.Denied.Errorf("the issuer gave no ID token")
	case err != nil:
		return err
	case claims.Issuer != i.URL:
		return fault.Denied.Errorf("the ID token is from %q, not from %q", claims.Issuer, i.URL)
	case !slices.Contains(claims.Audience, client):
		return fault.Denied.Errorf("the ID token is for %q, not for %q", claims.Audience, client)
	case nonce != "" && !equal(claims.Nonce, nonce):
		return fault.Denied.Errorf("the ID token answers another login than the one that was begun here")
	}
	return nil
}

// A DeviceCode is what a person who logs in elsewhere is shown.
type DeviceCode struct {
	URL      string    // where to enter Code
	Complete string    // where it need not be entered; "" if there is none
	Code     string    // short
	Expiry   time.Time // of the code; zero if it is not known
}

// Device logs a person in who confirms it elsewhere, with the code that show
// is given. It asks as often as the issuer allows until it is done, the code
// has expired, or ctx ends.
func (i *Issuer) Device(ctx context.Context, c Client, show func(DeviceCode)) (Tokens, error) {
	if i.DeviceURL == "" {
		return Tokens{}, fault.Unsupported.Errorf("the issuer %s offers no login by device code", i.URL)
	}
	config := i.config(c)
	var options []oauth2.AuthCodeOption
	for name, value := range c.Parameters {
		options = append(options, oauth2.SetAuthURLParam(name, value))
	}
	verifier := oauth2.GenerateVerifier()
	code, err := config.DeviceAuth(i.context(ctx), append(options, oauth2.S256ChallengeOption(verifier))...)
	if err != nil {
		return Tokens{}, refused("begin the login", err)
	}
	show(DeviceCode{URL: code.VerificationURI, Complete: code.VerificationURIComplete, Code: code.UserCode, Expiry: code.Expiry})
	t, err := config.DeviceAccessToken(i.context(ctx), code, oauth2.VerifierOption(verifier))
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			return Tokens{}, fault.Timeout.Errorf("nobody confirmed the login in time: begin it again")
		}
		return Tokens{}, refused("wait for the login", err)
	}
	got := tokens(t)
	if got.ID == "" {
		return got, nil // the standard promises none
	}
	return got, i.checkID(got.ID, c.ID, "")
}

// ClientCredentials returns the tokens of a program. Only the scopes that c
// names are asked for.
func (i *Issuer) ClientCredentials(ctx context.Context, c Client) (Tokens, error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(c.Scopes) > 0 {
		form.Set("scope", strings.Join(c.Scopes, " "))
	}
	for name, value := range c.Parameters {
		form.Set(name, value)
	}
	var t struct {
		Access    string `json:"access_token"`
		ExpiresIn int64  `json:"expires_in"`
	}
	if err := i.post(ctx, i.TokenURL, c, form, &t); err != nil {
		return Tokens{}, refused("get a token", err)
	}
	got := Tokens{Access: t.Access}
	if t.ExpiresIn > 0 {
		got.Expiry = time.Now().Add(time.Duration(t.ExpiresIn) * time.Second)
	}
	return got, nil
}

// Refresh prolongs a login. Its refresh token may be another afterwards.
// Errors are fault.Denied if the issuer has ended the login.
func (i *Issuer) Refresh(ctx context.Context, c Client, refresh string) (Tokens, error) {
	t, err := i.config(c).TokenSource(i.context(ctx), &oauth2.Token{RefreshToken: refresh}).Token()
	if err != nil {
		return Tokens{}, refused("prolong the login", err)
	}
	return tokens(t), nil
}

// Revoke has the issuer forget a refresh token. It does nothing with issuers
// that cannot.
func (i *Issuer) Revoke(ctx context.Context, c Client, refresh string) error {
	if i.RevocationURL == "" || refresh == "" {
		return nil
	}
	if err := i.post(ctx, i.RevocationURL, c, url.Values{"token": {refresh}, "token_type_hint": {"refresh_token"}}, nil); err != nil {
		return refused("revoke the login", err)
	}
	return nil
}

// LogoutURL returns where a browser is logged out of the issuer; it returns to
// redirect. It is "" with issuers that know no logout.
func (i *Issuer) LogoutURL(c Client, idToken, redirect string) string {
	u, err := url.Parse(i.EndSessionURL)
	if err != nil || i.EndSessionURL == "" {
		return ""
	}
	query := u.Query()
	query.Set("client_id", c.ID)
	if idToken != "" {
		query.Set("id_token_hint", idToken)
	}
	query.Set("post_logout_redirect_uri", redirect)
	u.RawQuery = query.Encode()
	return u.String()
}

// post sends a form as c, and reads the answer into out unless that is nil.
func (i *Issuer) post(ctx context.Context, where string, c Client, form url.Values, out any) error {
	inHeader := i.authStyle(c) == oauth2.AuthStyleInHeader
	if !inHeader {
		form.Set("client_id", c.ID)
		if c.Secret != "" {
			form.Set("client_secret", c.Secret)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, where, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if inHeader {
		req.SetBasicAuth(url.QueryEscape(c.ID), url.QueryEscape(c.Secret))
	}
	resp, err := i.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		failed := &oauth2.RetrieveError{Response: resp, Body: text}
		var said struct {
			Code string `json:"error"`
			Text string `json:"error_description"`
		}
		if json.Unmarshal(text, &said) == nil {
			failed.ErrorCode, failed.ErrorDescription = said.Code, said.Text
		}
		return failed
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// refused turns what an issuer answered into an error. Its body is left out:
// nobody knows what is in it.
func refused(doing string, err error) error {
	said, ok := errors.AsType[*oauth2.RetrieveError](err)
	switch {
	case !ok && errors.Is(err, context.Canceled):
		return err
	case !ok:
		return fault.Unavailable.Errorf("%s: the issuer cannot be reached: %w", doing, err)
	case said.ErrorCode == "" && said.Response.StatusCode >= 500:
		return fault.Unavailable.Errorf("%s: the issuer answers %s", doing, said.Response.Status)
	case said.ErrorCode == "":
		return fault.Denied.Errorf("%s: the issuer answers %s", doing, said.Response.Status)
	}
	return fault.Denied.Errorf("%s: the issuer says %s", doing, describe(said.ErrorCode, said.ErrorDescription))
}

// describe writes an issuer's error for people. It is a stranger's text.
func describe(code, text string) string {
	const longest = 300
	clean := func(s string) string {
		s = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, strings.ToValidUTF8(s, "?"))
		if len(s) > longest {
			s = strings.ToValidUTF8(s[:longest], "") + "…"
		}
		return s
	}
	if text == "" {
		return fmt.Sprintf("%q", clean(code))
	}
	return fmt.Sprintf("%q: %s", clean(code), clean(text))
}

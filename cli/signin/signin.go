// Package signin logs the command line in to gateways: by a browser, by a code
// that is confirmed elsewhere, or as a program; and it keeps logins going.
//
// What a login needs is asked of the gateway ([client.LoginConfig]), what it
// gives is kept in the file of logins, in the form that faas-cli reads: the
// token itself where faas-cli looks for it, and what prolongs it in options
// that faas-cli leaves alone.
//
// Start with [Session.Browser] and its siblings for a new login, and with
// [Current] for one that is kept.
package signin

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/openid"
)

// A Flow is how somebody has logged in.
type Flow string

// The flows.
const (
	Browser Flow = "browser"
	Device  Flow = "device"
	Program Flow = "client-credentials"
	Given   Flow = "token"
)

// A Session is a login with one issuer for one gateway, from which tokens for
// that gateway follow.
type Session struct {
	Flow Flow
	// Issuer is the issuer's URL, as its tokens name it.
	Issuer string
	Client openid.Client
	// SecretFile holds the client's secret; "" if it has none, or one that is
	// not kept.
	SecretFile string
	// Audiences are those of tokens for the gateway; none is any.
	Audiences []string
	// Exchange has the gateway make a token of its own for each of the issuer's.
	Exchange bool

	// Refresh and ID are the issuer's; "" if there are none.
	Refresh, ID string
	// Token is for the gateway, and good until Expiry; zero: not known.
	Token  string
	Expiry time.Time
}

// A World is what logging in needs of the world.
type World struct {
	// Gateway makes a client of the gateway without credentials.
	Gateway func() (*client.Client, error)
	// HTTP carries requests to issuers; nil is the default.
	HTTP *http.Client
}

// discover finds the issuer, and reads the client's secret if it is in a file.
func (s *Session) discover(ctx context.Context, w World) (*openid.Issuer, error) {
	if s.SecretFile != "" {
		secret, err := ReadSecret(s.SecretFile)
		if err != nil {
			return nil, err
		}
		s.Client.Secret = secret
	}
	return openid.Discover(ctx, w.HTTP, s.Issuer)
}

// maxSecret is the longest secret, in bytes.
const maxSecret = 4096

// ReadSecret reads a client's secret from a file. White space around it is not
// part of it.
func ReadSecret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fault.NotFound.Errorf("read the client's secret: %w", err)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" || len(secret) > maxSecret {
		return "", fault.Invalid.Errorf("%s holds no secret: it has %d bytes", path, len(text))
	}
	return secret, nil
}

// Program logs in as a program, by the client's secret.
func (s *Session) Program(ctx context.Context, w World) error {
	s.Flow = Program
	at, err := s.discover(ctx, w)
	if err != nil {
		return err
	}
	got, err := at.ClientCredentials(ctx, s.Client)
	if err != nil {
		return err
	}
	return s.take(ctx, w, got)
}

// Device logs a person in who confirms it elsewhere, as show tells them.
func (s *Session) Device(ctx context.Context, w World, show func(openid.DeviceCode)) error {
	s.Flow = Device
	at, err := s.discover(ctx, w)
	if err != nil {
		return err
	}
	got, err := at.Device(ctx, s.Client, show)
	if err != nil {
		return err
	}
	return s.take(ctx, w, got)
}

// HasDevice reports whether the issuer offers logins by device code.
func (s *Session) HasDevice(ctx context.Context, w World) bool {
	at, err := openid.Discover(ctx, w.HTTP, s.Issuer)
	return err == nil && at.DeviceURL != ""
}

// Prolong gets the next token.
func (s *Session) Prolong(ctx context.Context, w World) error {
	switch {
	case s.Flow == Program && s.SecretFile != "":
		return s.Program(ctx, w)
	case s.Refresh == "":
		return fault.Denied.Errorf("nothing is kept to prolong it by")
	}
	at, err := s.discover(ctx, w)
	if err != nil {
		return err
	}
	got, err := at.Refresh(ctx, s.Client, s.Refresh)
	if err != nil {
		return err
	}
	return s.take(ctx, w, got)
}

// End has the issuer forget the login, if it can.
func (s *Session) End(ctx context.Context, w World) error {
	if s.Refresh == "" {
		return nil
	}
	at, err := s.discover(ctx, w)
	if err != nil {
		return err
	}
	return at.Revoke(ctx, s.Client, s.Refresh)
}

// take makes the token for the gateway of what the issuer gave.
func (s *Session) take(ctx context.Context, w World, got openid.Tokens) error {
	if got.ID == "" {
		got.ID = s.ID // which some issuers give only once
	}
	token, expiry, err := got.For(s.Audiences)
	if err != nil {
		return err
	}
	s.Refresh, s.ID, s.Token, s.Expiry = got.Refresh, got.ID, token, expiry
	if !s.Exchange {
		return nil
	}
	c, err := w.Gateway()
	if err != nil {
		return err
	}
	made, err := c.ExchangeToken(ctx, token)
	if err != nil {
		return fmt.Errorf("exchange the issuer's token: %w", err)
	}
	s.Token, s.Expiry = made.AccessToken, time.Now().Add(time.Duration(made.ExpiresIn)*time.Second)
	return nil
}

// Names of the options of a login that is kept.
const (
	optionFlow       = "flow"
	optionIssuer     = "issuer"
	optionClient     = "client_id"
	optionSecretFile = "client_secret_file"
	optionScope      = "scope"
	optionAudience   = "audience"
	optionExchange   = "token_exchange"
	optionRefresh    = "refresh_token"
	optionID         = "id_token"
	optionExpiry     = "expires_at"
)

// Login returns the login as it is kept. A secret is never kept, but where it
// is.
func (s *Session) Login() logins.Login {
	l := logins.Login{Kind: logins.Bearer, Token: s.Token}
	set := func(name, value string) {
		if value != "" {
			l.Options = append(l.Options, logins.Option{Name: name, Value: value})
		}
	}
	set(optionFlow, string(s.Flow))
	set(optionIssuer, s.Issuer)
	set(optionClient, s.Client.ID)
	set(optionSecretFile, s.SecretFile)
	set(optionScope, strings.Join(s.Client.Scopes, " "))
	set(optionAudience, strings.Join(s.Audiences, " "))
	if s.Exchange {
		set(optionExchange, "true")
	}
	set(optionRefresh, s.Refresh)
	if s.ID != s.Token {
		set(optionID, s.ID)
	}
	if !s.Expiry.IsZero() {
		set(optionExpiry, s.Expiry.UTC().Format(time.RFC3339))
	}
	return l
}

// Of returns the session that a login was made by; ok is false for logins that
// no flow made, which last as long as they do.
func Of(l logins.Login) (s Session, ok bool) {
	s = Session{
		Flow:       Flow(l.Option(optionFlow)),
		Issuer:     l.Option(optionIssuer),
		Client:     openid.Client{ID: l.Option(optionClient), Scopes: strings.Fields(l.Option(optionScope))},
		SecretFile: l.Option(optionSecretFile),
		Audiences:  strings.Fields(l.Option(optionAudience)),
		Exchange:   l.Option(optionExchange) == "true",
		Refresh:    l.Option(optionRefresh),
		ID:         l.Option(optionID),
		Token:      l.Token,
	}
	s.Expiry, _ = time.Parse(time.RFC3339, l.Option(optionExpiry)) // zero is: not known
	return s, l.Kind == logins.Bearer && s.Flow != "" && s.Flow != Given
}

package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
)

// A LoginConfig says how people log in to a gateway.
type LoginConfig struct {
	Issuers []LoginIssuer `json:"issuers"`
	// TokenExchange tells that the gateway makes tokens of its own.
	TokenExchange bool `json:"token_exchange"`
	// Sessions tells that browsers can log in.
	Sessions bool `json:"sessions"`
}

// A LoginIssuer is somebody whose tokens the gateway takes.
type LoginIssuer struct {
	Name      string   `json:"name"`
	Issuer    string   `json:"issuer"`
	Audiences []string `json:"audiences"`
	// ClientID is the client by which command lines log in; "" if the gateway
	// names none.
	ClientID   string            `json:"client_id"`
	Scopes     []string          `json:"scopes"`
	Parameters map[string]string `json:"parameters"`
	// RedirectPort is where browsers come back to, on the machine of whoever
	// logs in; 0 is any port that is free.
	RedirectPort int `json:"redirect_port"`
}

// LoginConfig asks how people log in. It needs no login. A gateway that trusts
// no issuer, or does not know the question, names none.
func (c *Client) LoginConfig(ctx context.Context) (LoginConfig, error) {
	var answer LoginConfig
	err := c.do(ctx, request{method: "GET", path: []string{"auth", "config"}}, &answer)
	switch fault.KindOf(err) {
	case fault.NotFound, fault.Unauthenticated: // another make of gateway
		return LoginConfig{}, nil
	}
	return answer, err
}

// A Me is who a gateway takes a client for.
type Me struct {
	Caller  string     `json:"caller"` // unique
	Subject string     `json:"subject"`
	Issuer  string     `json:"issuer,omitempty"` // its name
	Name    string     `json:"name,omitempty"`
	Email   string     `json:"email,omitempty"`
	Groups  []string   `json:"groups,omitempty"`
	Roles   []string   `json:"roles,omitempty"`
	Admin   bool       `json:"admin,omitempty"`
	Expiry  *time.Time `json:"expires_at,omitempty"` // of what proves it
}

// Me asks who this client is.
func (c *Client) Me(ctx context.Context) (Me, error) {
	var answer Me
	err := c.do(ctx, request{method: "GET", path: []string{"auth", "me"}}, &answer)
	return answer, err
}

// An ExchangedToken is a gateway's own token.
type ExchangedToken struct {
	AccessToken string `json:"access_token"`
	ExpiresIn   int64  `json:"expires_in"` // seconds
}

// ExchangeToken exchanges a token of an issuer for one of the gateway's own.
func (c *Client) ExchangeToken(ctx context.Context, token string) (ExchangedToken, error) {
	form := url.Values{
		"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token":      {token},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:id_token"},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.String()+"/oauth/token", strings.NewReader(form.Encode()))
	if err != nil {
		return ExchangedToken{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.roundTrip(req)
	if err != nil {
		return ExchangedToken{}, err
	}
	defer resp.Body.Close()
	var answer struct {
		ExchangedToken
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	err = json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxErrorText)).Decode(&answer)
	switch {
	case answer.Error != "":
		return ExchangedToken{}, fault.Denied.Errorf("the gateway says %s: %s", answer.Error, answer.Description)
	case resp.StatusCode != http.StatusOK:
		return ExchangedToken{}, fault.Unavailable.Errorf("the gateway answers %s", resp.Status)
	case err != nil || answer.AccessToken == "":
		return ExchangedToken{}, fault.Internal.Errorf("the gateway answers with no token")
	}
	return answer.ExchangedToken, nil
}

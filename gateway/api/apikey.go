package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/mux"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/web"
)

// maxKeyAge bounds for how long an API key can be asked for, so that "expires"
// means something.
const maxKeyAge = 10 * 365 * 24 * time.Hour

// An APIKeyRequest asks for an API key.
type APIKeyRequest struct {
	Name     string   `json:"name,omitempty"` // what it is for, for people
	Action   iam.List `json:"action"`
	Resource iam.List `json:"resource"`
	// ExpiresIn is for how long it is good, in seconds; 0 is until it is
	// revoked.
	ExpiresIn int64 `json:"expires_in,omitempty"`
}

// A NewAPIKey is an API key that was just made. It is shown this once.
type NewAPIKey struct {
	Key string `json:"key"`
	iam.APIKey
}

// createAPIKey makes a key. Only what is kept of it goes to the provider.
func (a *API) createAPIKey(w http.ResponseWriter, r *http.Request, s subject) error {
	var want APIKeyRequest
	if err := web.Unmarshal(s.body, &want); err != nil {
		return err
	}
	if want.ExpiresIn < 0 || want.ExpiresIn > int64(maxKeyAge/time.Second) {
		return fault.Invalid.Errorf("expires_in is %d, want seconds, at most %d, or 0", want.ExpiresIn, int64(maxKeyAge/time.Second))
	}
	now := time.Now().UTC().Truncate(time.Second)
	made := NewAPIKey{APIKey: iam.APIKey{Name: want.Name, Action: want.Action, Resource: want.Resource, Created: now}}
	if want.ExpiresIn > 0 {
		made.Expires = new(now.Add(time.Duration(want.ExpiresIn) * time.Second))
	}
	if err := made.Check(); err != nil {
		return err
	}
	if err := a.o.MakeAPIKey(r.Context(), &made); err != nil {
		return err
	}
	var err error
	if s.body, err = json.Marshal(made.APIKey); err != nil {
		return err
	}
	ctx, cancel := a.bound(r)
	defer cancel()
	resp, err := a.ask(ctx, http.MethodPost, r.Header, s)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		relay(w, resp)
		return nil
	}
	made.Hash = ""
	w.Header().Set("Cache-Control", "no-store")
	web.WriteJSON(w, http.StatusOK, made)
	return nil
}

// listAPIKeys adds to the provider's list when this gateway saw each key last.
func (a *API) listAPIKeys(w http.ResponseWriter, r *http.Request, s subject) error {
	ctx, cancel := a.bound(r)
	defer cancel()
	resp, err := a.ask(ctx, r.Method, r.Header, s)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		relay(w, resp)
		return nil
	}
	var all []iam.APIKey
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		return fmt.Errorf("read the provider's list of API keys: %w", err)
	}
	for i := range all {
		if at := a.o.APIKeyUsed(all[i].ID); !at.IsZero() {
			all[i].LastUsed = &at
		}
	}
	web.WriteJSON(w, http.StatusOK, all)
	return nil
}

// keyInPath is for requests that name an API key.
func (a *API) keyInPath(_ http.ResponseWriter, r *http.Request) (subject, error) {
	id, err := url.PathUnescape(mux.Vars(r)["id"])
	if err != nil {
		return subject{}, fault.Invalid.Errorf("the ID of the API key is not one")
	}
	return subject{path: "/system/api-keys/" + url.PathEscape(id)}, nil
}

// wholeBody is for requests about the platform that say more in their body.
func (a *API) wholeBody(w http.ResponseWriter, r *http.Request) (subject, error) {
	body, err := web.ReadBody(w, r, a.o.MaxBody)
	return subject{path: r.URL.Path, body: body}, err
}

// noAPIKeys is what an API without keys answers.
func noAPIKeys(context.Context, *NewAPIKey) error {
	return fault.Unsupported.Errorf("this gateway makes no API keys")
}

// listSigningKeys tells of the keys that this gateway knows.
func (a *API) listSigningKeys(w http.ResponseWriter, _ *http.Request, _ subject) error {
	if a.o.SigningKeys == nil {
		return fault.Unsupported.Errorf("this gateway signs no tokens of its own")
	}
	web.WriteJSON(w, http.StatusOK, a.o.SigningKeys())
	return nil
}

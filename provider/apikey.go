package provider

import (
	"encoding/hex"
	"fmt"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/web"
)

func (s *Server) listAPIKeys(w http.ResponseWriter, r *http.Request) error {
	if s.APIKeys == nil {
		return unsupported()
	}
	list, err := s.APIKeys.APIKeys(r.Context())
	if err != nil {
		return fmt.Errorf("list API keys: %w", err)
	}
	shown := make([]iam.APIKey, len(list)) // [] and not null when there are none
	for i, k := range list {
		k.Hash = "" // of use only to who checks keys, and that goes another way
		shown[i] = k
	}
	web.WriteJSON(w, http.StatusOK, shown)
	return nil
}

func (s *Server) createAPIKey(w http.ResponseWriter, r *http.Request) error {
	if s.APIKeys == nil {
		return unsupported()
	}
	var k iam.APIKey
	if err := web.Decode(w, r, s.MaxBody, &k); err != nil {
		return err
	}
	if sum, err := hex.DecodeString(k.Hash); err != nil || len(sum) != 32 {
		return fault.Invalid.Errorf("hash must be the SHA-256 of the key, in hexadecimal")
	}
	if (function.Ref{Name: k.ID, Namespace: function.DefaultNamespace}).Validate() != nil {
		return fault.Invalid.Errorf("id is %q, want letters and digits", k.ID)
	}
	if err := k.Check(); err != nil {
		return err
	}
	if err := s.APIKeys.CreateAPIKey(r.Context(), k); err != nil {
		return fmt.Errorf("create API key %s: %w", k.ID, err)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (s *Server) deleteAPIKey(w http.ResponseWriter, r *http.Request) error {
	if s.APIKeys == nil {
		return unsupported()
	}
	id := mux.Vars(r)["name"]
	if err := s.APIKeys.DeleteAPIKey(r.Context(), id); err != nil {
		return fmt.Errorf("delete API key %s: %w", id, err)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

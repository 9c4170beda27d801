package provider

import (
	"fmt"
	"net/http"

	"github.com/graphene-faas/graphene/internal/web"
)

func (s *Server) rotateSigningKeys(w http.ResponseWriter, r *http.Request) error {
	if s.SigningKeys == nil {
		return unsupported()
	}
	id, err := s.SigningKeys.RotateSigningKeys(r.Context())
	if err != nil {
		return fmt.Errorf("make a new signing key: %w", err)
	}
	web.WriteJSON(w, http.StatusOK, map[string]string{"id": id})
	return nil
}

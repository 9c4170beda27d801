package provider

import (
	"fmt"
	"net/http"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

func (s *Server) listSecrets(w http.ResponseWriter, r *http.Request) error {
	if s.Secrets == nil {
		return unsupported()
	}
	namespace := namespaceOf(r)
	if err := function.ValidNamespace(namespace); err != nil {
		return err
	}
	list, err := s.Secrets.ListSecrets(r.Context(), namespace)
	if err != nil {
		return fmt.Errorf("list secrets of %s: %w", namespace, err)
	}
	names := make([]types.Secret, len(list)) // [] and not null when there are none
	for i, secret := range list {
		names[i] = types.Secret{Name: secret.Name, Namespace: secret.Namespace}
	}
	web.WriteJSON(w, http.StatusOK, names)
	return nil
}

func (s *Server) createSecret(w http.ResponseWriter, r *http.Request) error {
	secret, err := s.readSecret(w, r)
	if err != nil {
		return err
	}
	if err := s.checkSurroundings(r, types.FunctionDeployment{Namespace: secret.Namespace}); err != nil {
		return err
	}
	if err := s.Secrets.CreateSecret(r.Context(), secret); err != nil {
		return fmt.Errorf("create secret %s: %w", secret.Name, err)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (s *Server) updateSecret(w http.ResponseWriter, r *http.Request) error {
	secret, err := s.readSecret(w, r)
	if err != nil {
		return err
	}
	if err := s.Secrets.UpdateSecret(r.Context(), secret); err != nil {
		return fmt.Errorf("update secret %s: %w", secret.Name, err)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (s *Server) deleteSecret(w http.ResponseWriter, r *http.Request) error {
	secret, err := s.readSecret(w, r)
	if err != nil {
		return err
	}
	if err := s.Secrets.DeleteSecret(r.Context(), secret.Namespace, secret.Name); err != nil {
		return fmt.Errorf("delete secret %s: %w", secret.Name, err)
	}
	// Not 204, which OpenFaaS's client takes for a failure.
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// readSecret reads a secret and makes its value that of RawValue, which wins
// when both are sent.
func (s *Server) readSecret(w http.ResponseWriter, r *http.Request) (types.Secret, error) {
	if s.Secrets == nil {
		return types.Secret{}, unsupported()
	}
	var secret types.Secret
	if err := web.Decode(w, r, s.MaxBody, &secret); err != nil {
		return types.Secret{}, err
	}
	secret.Namespace = namespaceOf(r, secret.Namespace)
	if err := function.ValidNamespace(secret.Namespace); err != nil {
		return types.Secret{}, err
	}
	if err := function.ValidSecretName(secret.Name); err != nil {
		return types.Secret{}, err
	}
	if len(secret.RawValue) == 0 {
		secret.RawValue = []byte(secret.Value)
	}
	secret.Value = ""
	return secret, nil
}

package provider

import (
	"fmt"
	"net/http"

	"github.com/gorilla/mux"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

func (s *Server) listNamespaces(w http.ResponseWriter, r *http.Request) error {
	names := []string{function.DefaultNamespace}
	if s.Namespaces != nil {
		var err error
		if names, err = s.Namespaces.ListNamespaces(r.Context()); err != nil {
			return fmt.Errorf("list namespaces: %w", err)
		}
	}
	web.WriteJSON(w, http.StatusOK, names)
	return nil
}

func (s *Server) namespace(w http.ResponseWriter, r *http.Request) error {
	if s.Namespaces == nil {
		return unsupported()
	}
	name := mux.Vars(r)["name"]
	n, err := s.Namespaces.Namespace(r.Context(), name)
	if err != nil {
		return fmt.Errorf("look up namespace %s: %w", name, err)
	}
	web.WriteJSON(w, http.StatusOK, n)
	return nil
}

func (s *Server) createNamespace(w http.ResponseWriter, r *http.Request) error {
	n, err := s.readNamespace(w, r)
	if err != nil {
		return err
	}
	if err := s.Namespaces.CreateNamespace(r.Context(), n); err != nil {
		return fmt.Errorf("create namespace %s: %w", n.Name, err)
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (s *Server) updateNamespace(w http.ResponseWriter, r *http.Request) error {
	n, err := s.readNamespace(w, r)
	if err != nil {
		return err
	}
	if err := s.Namespaces.UpdateNamespace(r.Context(), n); err != nil {
		return fmt.Errorf("update namespace %s: %w", n.Name, err)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (s *Server) deleteNamespace(w http.ResponseWriter, r *http.Request) error {
	if s.Namespaces == nil {
		return unsupported()
	}
	name := mux.Vars(r)["name"]
	if err := s.Namespaces.DeleteNamespace(r.Context(), name); err != nil {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// openfaasMark is the label and annotation by which OpenFaaS knows the
// namespaces that are for functions. A namespace of ours always has both.
const openfaasMark = "openfaas"

func (s *Server) readNamespace(w http.ResponseWriter, r *http.Request) (types.FunctionNamespace, error) {
	if s.Namespaces == nil {
		return types.FunctionNamespace{}, unsupported()
	}
	var n types.FunctionNamespace
	if err := web.Decode(w, r, s.MaxBody, &n); err != nil {
		return n, err
	}
	if name := mux.Vars(r)["name"]; name != "" {
		if n.Name != "" && n.Name != name {
			return n, fault.Invalid.Errorf("the path names namespace %q and the body %q", name, n.Name)
		}
		n.Name = name
	}
	if err := function.ValidNamespace(n.Name); err != nil {
		return n, err
	}
	for _, m := range []*map[string]string{&n.Labels, &n.Annotations} {
		if *m == nil {
			*m = map[string]string{}
		}
		(*m)[openfaasMark] = "1"
	}
	return n, nil
}

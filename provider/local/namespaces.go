package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// namespaces are kept in one file. The default one is always among them.
type namespaces struct {
	file string

	mu  sync.Mutex
	all map[string]types.FunctionNamespace
}

func openNamespaces(file string) (*namespaces, error) {
	n := &namespaces{file: file, all: map[string]types.FunctionNamespace{}}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &n.all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read namespaces from %s: %w", file, err)
	}
	if _, known := n.all[function.DefaultNamespace]; !known {
		mark := map[string]string{"openfaas": "1"}
		n.all[function.DefaultNamespace] = types.FunctionNamespace{Name: function.DefaultNamespace, Labels: mark, Annotations: mark}
	}
	return n, nil
}

// change replaces the set by what edit makes of a copy of it.
func (n *namespaces) change(edit func(all map[string]types.FunctionNamespace) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := maps.Clone(n.all)
	if err := edit(all); err != nil {
		return err
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("save namespaces: %w", err)
	}
	if err := writeFile(n.file, text, 0o600); err != nil {
		return storage(fmt.Errorf("save namespaces: %w", err))
	}
	n.all = all
	return nil
}

func noNamespace(name string) error {
	return fault.NotFound.Errorf("namespace %q does not exist", name)
}

// ListNamespaces implements package provider's Namespaces.
func (r *Runtime) ListNamespaces(context.Context) ([]string, error) {
	r.namespaces.mu.Lock()
	defer r.namespaces.mu.Unlock()
	return slices.Sorted(maps.Keys(r.namespaces.all)), nil
}

// Namespace implements package provider's Namespaces.
func (r *Runtime) Namespace(_ context.Context, name string) (types.FunctionNamespace, error) {
	r.namespaces.mu.Lock()
	defer r.namespaces.mu.Unlock()
	n, known := r.namespaces.all[name]
	if !known {
		return n, noNamespace(name)
	}
	n.Labels, n.Annotations = maps.Clone(n.Labels), maps.Clone(n.Annotations)
	return n, nil
}

// CreateNamespace implements package provider's Namespaces.
func (r *Runtime) CreateNamespace(_ context.Context, n types.FunctionNamespace) error {
	return r.namespaces.change(func(all map[string]types.FunctionNamespace) error {
		if _, known := all[n.Name]; known {
			return fault.Exists.Errorf("namespace %q exists already", n.Name)
		}
		all[n.Name] = n
		return nil
	})
}

// UpdateNamespace implements package provider's Namespaces.
func (r *Runtime) UpdateNamespace(_ context.Context, n types.FunctionNamespace) error {
	return r.namespaces.change(func(all map[string]types.FunctionNamespace) error {
		if _, known := all[n.Name]; !known {
			return noNamespace(n.Name)
		}
		all[n.Name] = n
		return nil
	})
}

// DeleteNamespace implements package provider's Namespaces. Secrets go with
// it; functions do not.
func (r *Runtime) DeleteNamespace(_ context.Context, name string) error {
	return r.namespaces.change(func(all map[string]types.FunctionNamespace) error {
		if _, known := all[name]; !known {
			return noNamespace(name)
		}
		if name == function.DefaultNamespace {
			return fault.Invalid.Errorf("namespace %q is the default one and stays", name)
		}
		for _, f := range r.everyone() {
			if f.ref.Namespace == name && !f.leaving() {
				return fault.Invalid.Errorf("namespace %q holds functions, such as %s: remove them first", name, f.ref.Name)
			}
		}
		delete(all, name)
		if err := os.RemoveAll(filepath.Join(r.secrets.dir, name)); err != nil {
			return fmt.Errorf("delete secrets: %w", err)
		}
		return nil
	})
}

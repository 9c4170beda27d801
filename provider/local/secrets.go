package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
)

// secrets keeps one file per secret, readable by this process's user alone.
type secrets struct {
	dir string
	mu  sync.Mutex // held while a secret is made, changed or deleted
}

func (s *secrets) file(namespace, name string) string {
	return filepath.Join(s.dir, namespace, name)
}

// value returns a secret's value, or fault.NotFound.
func (s *secrets) value(namespace, name string) ([]byte, error) {
	value, err := os.ReadFile(s.file(namespace, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noSecret(namespace, name)
	}
	if err != nil {
		return nil, fmt.Errorf("read secret %s: %w", name, err)
	}
	return value, nil
}

func noSecret(namespace, name string) error {
	return fault.NotFound.Errorf("secret %q does not exist in namespace %s", name, namespace)
}

func (s *secrets) exists(namespace, name string) (bool, error) {
	_, err := os.Stat(s.file(namespace, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (s *secrets) save(secret types.Secret) error {
	value := secret.RawValue
	if len(value) == 0 {
		value = []byte(secret.Value)
	}
	return storage(writeFile(s.file(secret.Namespace, secret.Name), value, 0o600))
}

// ListSecrets implements package provider's Secrets.
func (r *Runtime) ListSecrets(_ context.Context, namespace string) ([]types.Secret, error) {
	entries, err := os.ReadDir(filepath.Join(r.secrets.dir, namespace))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	var list []types.Secret
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") { // a file that is being written
			list = append(list, types.Secret{Name: e.Name(), Namespace: namespace})
		}
	}
	return list, nil
}

// CreateSecret implements package provider's Secrets.
func (r *Runtime) CreateSecret(_ context.Context, secret types.Secret) error {
	r.secrets.mu.Lock()
	defer r.secrets.mu.Unlock()
	exists, err := r.secrets.exists(secret.Namespace, secret.Name)
	if err != nil {
		return fmt.Errorf("look for secret: %w", err)
	}
	if exists {
		return fault.Exists.Errorf("secret %q exists already in namespace %s", secret.Name, secret.Namespace)
	}
	return r.secrets.save(secret)
}

// UpdateSecret implements package provider's Secrets. Running replicas find
// the new value in their file.
func (r *Runtime) UpdateSecret(_ context.Context, secret types.Secret) error {
	r.secrets.mu.Lock()
	defer r.secrets.mu.Unlock()
	exists, err := r.secrets.exists(secret.Namespace, secret.Name)
	if err != nil {
		return fmt.Errorf("look for secret: %w", err)
	}
	if !exists {
		return noSecret(secret.Namespace, secret.Name)
	}
	if err := r.secrets.save(secret); err != nil {
		return err
	}
	value, err := r.secrets.value(secret.Namespace, secret.Name)
	if err != nil {
		return err
	}
	for _, f := range r.everyone() {
		if f.ref.Namespace != secret.Namespace {
			continue
		}
		for _, replica := range f.live() {
			if slices.Contains(replica.version.Spec.Secrets, secret.Name) {
				replica.refreshSecret(secret.Name, value)
			}
		}
	}
	return nil
}

// DeleteSecret implements package provider's Secrets. Replicas that run keep
// what they have.
func (r *Runtime) DeleteSecret(_ context.Context, namespace, name string) error {
	r.secrets.mu.Lock()
	defer r.secrets.mu.Unlock()
	err := os.Remove(r.secrets.file(namespace, name))
	if errors.Is(err, fs.ErrNotExist) {
		return noSecret(namespace, name)
	}
	if err != nil {
		return fmt.Errorf("delete secret: %w", err)
	}
	return nil
}

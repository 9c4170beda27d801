package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
)

// maxAPIKeys bounds how many keys there are: all are in memory everywhere.
const maxAPIKeys = 10_000

// APIKeys keeps what is known of API keys, never the keys themselves, in one
// file that only its owner can read. It implements the interfaces APIKeys and
// Objects of package provider, and is safe for concurrent use.
type APIKeys struct {
	file string

	mu      sync.Mutex // guards what follows, and the order of reports
	all     map[string]iam.APIKey
	readers map[*func(function.Event)]bool
}

// OpenAPIKeys reads the keys in a file, which need not exist.
func OpenAPIKeys(file string) (*APIKeys, error) {
	k := &APIKeys{file: file, all: map[string]iam.APIKey{}, readers: map[*func(function.Event)]bool{}}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read API keys: %w", err)
	}
	var list []iam.APIKey
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fault.Invalid.Errorf("read API keys: %s: %w", file, err)
	}
	for _, key := range list {
		k.all[key.ID] = key
	}
	return k, nil
}

// APIKeys returns all keys in the order of their IDs.
func (k *APIKeys) APIKeys(context.Context) ([]iam.APIKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.list(), nil
}

// list is APIKeys while mu is held.
func (k *APIKeys) list() []iam.APIKey {
	var list []iam.APIKey
	for _, key := range k.all {
		list = append(list, key)
	}
	slices.SortFunc(list, func(a, b iam.APIKey) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// CreateAPIKey keeps a key.
func (k *APIKeys) CreateAPIKey(_ context.Context, key iam.APIKey) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, exists := k.all[key.ID]; exists {
		return fault.Exists.Errorf("API key %s exists already", key.ID)
	}
	if len(k.all) >= maxAPIKeys {
		return fault.Invalid.Errorf("there are %d API keys already: revoke some", len(k.all))
	}
	k.all[key.ID] = key
	if err := k.save(); err != nil {
		delete(k.all, key.ID)
		return err
	}
	return k.tell(key.ID)
}

// DeleteAPIKey forgets a key. Gateways have been told when it returns.
func (k *APIKeys) DeleteAPIKey(_ context.Context, id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, exists := k.all[id]
	if !exists {
		return fault.NotFound.Errorf("there is no API key %s", id)
	}
	delete(k.all, id)
	if err := k.save(); err != nil {
		k.all[id] = key
		return err
	}
	return k.tell(id)
}

func (k *APIKeys) save() error {
	text, err := json.MarshalIndent(k.list(), "", "  ")
	if err != nil {
		return fmt.Errorf("keep API keys: %w", err)
	}
	if err := writeFile(k.file, text, 0o600); err != nil {
		return fmt.Errorf("keep API keys: %w", err)
	}
	return nil
}

// tell tells all readers what is known of a key now. mu is held.
func (k *APIKeys) tell(id string) error {
	e, err := k.event(id)
	if err != nil {
		return err
	}
	for report := range k.readers {
		(*report)(e)
	}
	return nil
}

func (k *APIKeys) event(id string) (function.Event, error) {
	o := &function.Object{Kind: iam.KindAPIKey, Name: id}
	if key, exists := k.all[id]; exists {
		var err error
		if o.Content, err = json.Marshal(key); err != nil {
			return function.Event{}, err
		}
	}
	return function.Event{Object: o}, nil
}

// WatchObjects reports the keys until ctx ends.
func (k *APIKeys) WatchObjects(ctx context.Context, report func(function.Event)) error {
	k.mu.Lock()
	for id := range k.all {
		e, err := k.event(id)
		if err != nil {
			k.mu.Unlock()
			return err
		}
		report(e)
	}
	report(function.Event{Synced: true})
	k.readers[&report] = true
	k.mu.Unlock()
	<-ctx.Done()
	k.mu.Lock()
	delete(k.readers, &report)
	k.mu.Unlock()
	return nil
}

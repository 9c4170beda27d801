package client

import (
	"context"

	"github.com/graphene-faas/graphene/internal/iam"
)

// A NewAPIKey asks for an API key.
type NewAPIKey struct {
	Name      string   `json:"name,omitempty"` // what it is for, for people
	Action    []string `json:"action"`
	Resource  []string `json:"resource"`
	ExpiresIn int64    `json:"expires_in,omitempty"` // seconds; 0 is never
}

// An APIKey is one that was just made. The gateway does not show it again.
type APIKey struct {
	Key string `json:"key"`
	iam.APIKey
}

// CreateAPIKey makes an API key. Who may not do what it is for gets
// fault.Denied.
func (c *Client) CreateAPIKey(ctx context.Context, k NewAPIKey) (APIKey, error) {
	var made APIKey
	err := c.do(ctx, request{method: "POST", path: []string{"system", "api-keys"}, body: k}, &made)
	return made, err
}

// APIKeys lists what is kept of API keys.
func (c *Client) APIKeys(ctx context.Context) ([]iam.APIKey, error) {
	var all []iam.APIKey
	err := c.do(ctx, request{method: "GET", path: []string{"system", "api-keys"}}, &all)
	return all, err
}

// RevokeAPIKey has a key refused from now on, else fault.NotFound.
func (c *Client) RevokeAPIKey(ctx context.Context, id string) error {
	return c.do(ctx, request{method: "DELETE", path: []string{"system", "api-keys", id}}, nil)
}

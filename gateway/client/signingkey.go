package client

import (
	"context"
	"time"
)

// A SigningKey is what is told of a key that signs the platform's own tokens.
type SigningKey struct {
	ID      string     `json:"id"`
	Created *time.Time `json:"created,omitempty"` // nil: unknown
	State   string     `json:"state"`             // "signs", "next" or "verifies"
	Signs   *time.Time `json:"signs,omitempty"`   // of the next: from then on
	Until   *time.Time `json:"until,omitempty"`   // when it is forgotten, if that is known
}

// SigningKeys lists the keys that the gateway which answers knows, the newest
// first.
func (c *Client) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	var all []SigningKey
	err := c.do(ctx, request{method: "GET", path: []string{"system", "signing-keys"}}, &all)
	return all, err
}

// RotateSigningKeys has a new signing key made, and returns its ID. While the
// last one does not sign yet, that is fault.Exists.
func (c *Client) RotateSigningKeys(ctx context.Context) (id string, err error) {
	var made struct{ ID string }
	err = c.do(ctx, request{method: "POST", path: []string{"system", "signing-keys"}}, &made)
	return made.ID, err
}

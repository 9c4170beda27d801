package image

import (
	"context"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/graphene-faas/graphene/internal/fault"
)

func (b *build) buildDocker(ctx context.Context) (v1.Image, error) {
	return nil, fault.Unsupported.Errorf("later")
}

package image

import (
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/graphene-faas/graphene/internal/function"
)

// Info is what an image says about itself.
type Info struct {
	Digest   v1.Hash
	Builder  string          // "layers", "docker", or empty for an image from elsewhere
	Language string          // the template's name
	Target   function.Target // zero if the image does not say
	Size     int64           // of all layers as they travel, in bytes
}

// Inspect reads an image's manifest and configuration, but no layers. A target
// that cannot be understood is fault.Invalid.
func Inspect(img v1.Image) (Info, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return Info{}, fmt.Errorf("read the image's configuration: %w", err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		return Info{}, fmt.Errorf("read the image's manifest: %w", err)
	}
	info := Info{Builder: cfg.Config.Labels[function.ImageBuilder], Language: cfg.Config.Labels[function.ImageLang]}
	if info.Digest, err = img.Digest(); err != nil {
		return Info{}, fmt.Errorf("read the image's digest: %w", err)
	}
	if text := cfg.Config.Labels[function.ImageTarget]; text != "" {
		if info.Target, err = function.ParseTarget(text); err != nil {
			return Info{}, fmt.Errorf("read the image's target: %w", err)
		}
	}
	for _, layer := range manifest.Layers {
		info.Size += layer.Size
	}
	return info, nil
}

package function

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var (
	imageRegistry = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$`)
	imagePath     = regexp.MustCompile(`^[a-z0-9_.-]+(/[a-z0-9_.-]+)*$`)
	imageTag      = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)
	imageDigest   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// ValidImage checks that image can be the name of an image,
// [REGISTRY/]PATH[:TAG][@DIGEST]. Whether there is one is the registry's to say.
func ValidImage(image string) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("image %q: %s", image, fmt.Sprintf(format, args...))
	}
	rest, digest, pinned := strings.Cut(image, "@")
	if pinned && !imageDigest.MatchString(digest) {
		return bad("a digest is sha256: and 64 hexadecimal digits")
	}
	path := rest
	if colon := strings.LastIndexByte(rest, ':'); colon > strings.LastIndexByte(rest, '/') {
		path = rest[:colon]
		if !imageTag.MatchString(rest[colon+1:]) {
			return bad("a tag has 1 to 128 letters, digits, dots, dashes and underscores")
		}
	}
	least := 1
	if registry, inside, ok := strings.Cut(path, "/"); ok && strings.ContainsAny(registry, ".:") {
		if !imageRegistry.MatchString(registry) {
			return bad("%q is not a registry, which is a host name, maybe with a port", registry)
		}
		path, least = inside, 2
	}
	switch {
	case image == "":
		return errors.New("an image has a name")
	case strings.ToLower(path) != path:
		return bad("a name has no capital letters")
	case !imagePath.MatchString(path):
		return bad("a name has lower-case letters, digits, dots, dashes and underscores, in parts separated by single slashes")
	case len(path) < least || len(path) > 247: // "library/" is put before some
		return bad("a name in a registry has 2 to 247 characters")
	}
	return nil
}

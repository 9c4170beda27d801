package function

import (
	"slices"
	"strings"

	"github.com/graphene-faas/graphene/internal/fault"
)

// A Target is the kind of machine a function's image is built for. Python and
// Libc are empty for functions that need neither.
type Target struct {
	OS     string `json:"os"`               // as GOOS: linux, darwin
	Arch   string `json:"arch"`             // as GOARCH: amd64, arm64
	Python string `json:"python,omitempty"` // implementation and version tag: cp311
	Libc   string `json:"libc,omitempty"`   // glibc or musl
}

// String returns "os/arch" or "os/arch/python/libc", the form recorded in an
// image.
func (t Target) String() string {
	if t.Python == "" {
		return t.OS + "/" + t.Arch
	}
	return t.OS + "/" + t.Arch + "/" + t.Python + "/" + t.Libc
}

// ParseTarget reads what String writes. Errors are fault.Invalid.
func ParseTarget(s string) (Target, error) {
	part := strings.Split(s, "/")
	if slices.Contains(part, "") {
		return Target{}, fault.Invalid.Errorf("target %q has an empty part", s)
	}
	switch len(part) {
	case 2:
		return Target{OS: part[0], Arch: part[1]}, nil
	case 4:
		return Target{OS: part[0], Arch: part[1], Python: part[2], Libc: part[3]}, nil
	}
	return Target{}, fault.Invalid.Errorf("target %q is neither os/arch nor os/arch/python/libc", s)
}

// Runs reports, as fault.Invalid, why a machine of kind t cannot run an image
// built for image. A remedy is part of the text.
func (t Target) Runs(image Target) error {
	if image.Python == "" {
		t.Python, t.Libc = "", ""
	}
	if t == image {
		return nil
	}
	return fault.Invalid.Errorf("image is built for %s, but this platform runs %s: build it again with \"graphene build --target %s\"", image, t, t)
}

// Builds is what an installation tells those who make images for it, beside
// the [Target] of its machines.
type Builds struct {
	// OwnRegistry: the gateway serves a registry, for images whose names have
	// no host.
	OwnRegistry bool `json:"own_registry,omitempty"`
	// Registry is the host, with a prefix if there is one, that comes before
	// such a name where the gateway serves none: registry.example.com/team.
	Registry string `json:"registry,omitempty"`
	// PythonImage is the base of Python functions. Where it is empty and
	// OwnRegistry is true, functions run with the platform's own interpreter
	// and need no base at all.
	PythonImage string `json:"python_image,omitempty"`
	// WatchdogImage is where a function gets its watchdog from, and one that
	// needs no interpreter its base.
	WatchdogImage string `json:"watchdog_image,omitempty"`
}

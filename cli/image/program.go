package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// programDir is where the binary of a program's image is.
const programDir = "usr/bin"

// labelProgram is on images that [BuildProgram] made: the path of the binary,
// which is all that the image's last layer holds. Functions get their watchdog
// that way.
const labelProgram = "com.graphene.program"

// programUser runs a program; it owns nothing in the image.
const programUser = "65532"

// ProgramOptions say which program to make an image of. Name, Package, Dir,
// Targets and CacheDir are required.
type ProgramOptions struct {
	// Name is the image's, for messages and in its labels.
	Name string
	// Package is the Go main package, as the go command takes it; Dir is
	// where it is run. The module there may be the package's own or one that
	// requires it.
	Package string
	Dir     string
	// Targets are the platforms to build for, each once.
	Targets []function.Target
	// Version and Commit are stamped into the variables main.version and
	// main.commit, and into the image's labels; Source is the URL of the
	// sources. Empty ones are left out.
	Version, Commit, Source string
	// Authorities is a file of certificate authorities in PEM; without one the
	// program cannot speak TLS to anybody whose authority it is not given.
	Authorities string
	// CacheDir keeps layers, as in Options.
	CacheDir string
	// Output receives what the compiler prints; nil discards it.
	Output io.Writer
	// Progress is told what is being done; nil is silent.
	Progress Progress
}

// A Program is an image for several platforms.
type Program struct {
	Name, Version string
	Index         v1.ImageIndex
	Variants      []Variant
}

// A Variant is a program's image for one platform.
type Variant struct {
	Target function.Target
	Image  v1.Image
	SBOM   []byte // what the binary is made of, as SPDX 2.3 in JSON
	Size   int64  // of its layers as they travel, in bytes
}

// BuildProgram makes an image that holds one static Go program and what a
// program expects of a system: certificate authorities, user names, /tmp. It
// has no shell and runs as nobody in particular. The same sources, compiler
// and authorities give the same digest.
func BuildProgram(ctx context.Context, o ProgramOptions) (*Program, error) {
	if o.Progress == nil {
		o.Progress = silent{}
	}
	if o.Output == nil {
		o.Output = io.Discard
	}
	b, err := newBuild(Options{CacheDir: o.CacheDir, Dir: o.Dir, Output: o.Output, Progress: o.Progress})
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", o.Name, err)
	}
	defer b.close()
	p, err := (&programBuild{build: b, o: o}).run(ctx)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", o.Name, err)
	}
	return p, nil
}

type programBuild struct {
	*build
	o ProgramOptions
}

func (p *programBuild) run(ctx context.Context) (*Program, error) {
	system := filepath.Join(p.work, "system")
	if err := p.layOutSystem(system); err != nil {
		return nil, err
	}
	out := &Program{Name: p.o.Name, Version: p.o.Version}
	out.Index = mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, target := range p.o.Targets {
		v, err := p.variant(ctx, system, target)
		if err != nil {
			return nil, err
		}
		out.Variants = append(out.Variants, v)
		out.Index = mutate.AppendManifests(out.Index, mutate.IndexAddendum{
			Add:        v.Image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: target.OS, Architecture: target.Arch}},
		})
	}
	out.Index = mutate.Annotations(out.Index, p.labels("")).(v1.ImageIndex)
	return out, nil
}

// layOutSystem writes what there is in an image beside the program.
func (p *programBuild) layOutSystem(dir string) error {
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\n" +
			"app:x:" + userID + ":" + userID + ":function:/tmp:/sbin/nologin\n" +
			"nonroot:x:" + programUser + ":" + programUser + ":nonroot:/tmp:/sbin/nologin\n",
		"etc/group": "root:x:0:\n" +
			"app:x:" + userID + ":\n" +
			"nonroot:x:" + programUser + ":\n",
		// Without it Go's resolver would ask DNS before it looks into /etc/hosts.
		"etc/nsswitch.conf": "hosts: files dns\n",
	}
	if p.o.Authorities != "" {
		text, err := os.ReadFile(p.o.Authorities)
		if err != nil {
			return fault.Invalid.Errorf("read certificate authorities: %w", err)
		}
		files["etc/ssl/certs/ca-certificates.crt"] = string(text)
	}
	for name, text := range files {
		if err := writeFile(filepath.Join(dir, name), strings.NewReader(text), 0o644); err != nil {
			return err
		}
	}
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	return os.Chmod(tmp, 0o777|os.ModeSticky)
}

// variant makes the image for one platform.
func (p *programBuild) variant(ctx context.Context, system string, target function.Target) (Variant, error) {
	p.Progress.Step("compile " + p.o.Name + " for " + target.String())
	dir := filepath.Join(p.work, target.OS+"-"+target.Arch)
	binary := filepath.Join(dir, binaryName(p.o.Package))
	if err := p.compile(ctx, binary, target); err != nil {
		return Variant{}, err
	}
	p.Progress.Step("assemble " + p.o.Name + " for " + target.String())
	layers, err := p.layersOf(ctx, []tree{{at: ".", dir: system}, {at: programDir, dir: dir}})
	if err != nil {
		return Variant{}, err
	}
	img, err := p.assemble(layers, target, filepath.Base(binary))
	if err != nil {
		return Variant{}, err
	}
	v := Variant{Target: target, Image: img}
	info, err := Inspect(img)
	if err != nil {
		return Variant{}, err
	}
	v.Size = info.Size
	v.SBOM, err = p.sbom(ctx, binary, target, info.Digest)
	return v, err
}

// compile builds the program. Nothing of the environment that could change
// its bytes reaches the compiler.
func (p *programBuild) compile(ctx context.Context, binary string, target function.Target) error {
	flags := "-s -w -buildid= -X main.version=" + p.o.Version + " -X main.commit=" + p.o.Commit
	cmd := command(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags="+flags, "-o", binary, p.o.Package)
	cmd.Dir = p.o.Dir
	cmd.Env = goEnviron(cmd.Environ(), target)
	output, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		_, _ = p.Output.Write(output)
	case errors.Is(err, exec.ErrNotFound):
		return fault.NotFound.Errorf("there is no Go compiler in PATH: install it from https://go.dev/dl")
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		return fault.Invalid.Errorf("compile %s for %s: %w\n%s", p.o.Package, target, err, bytes.TrimSpace(output))
	}
	// A package that is no program makes an archive.
	if info, err := os.Stat(binary); err != nil || info.Mode()&0o111 == 0 {
		return fault.Invalid.Errorf("%s is not a main package", p.o.Package)
	}
	return nil
}

// goEnviron returns the environment for the go command that builds for target.
func goEnviron(environ []string, target function.Target) []string {
	return append(environ, "GOOS="+target.OS, "GOARCH="+target.Arch, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off",
		"GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=")
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// binaryName returns how the go command would call the program of a package.
func binaryName(pkg string) string {
	if name := path.Base(pkg); !majorVersion.MatchString(name) {
		return name
	}
	return path.Base(path.Dir(pkg))
}

// assemble puts layers and configuration together.
func (p *programBuild) assemble(layers []v1.Layer, target function.Target, binary string) (v1.Image, error) {
	at := "/" + programDir + "/" + binary
	return assembleImage(nil, layers, func(cfg *v1.ConfigFile) {
		cfg.OS, cfg.Architecture = target.OS, target.Arch
		cfg.Config = v1.Config{
			User:       programUser,
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Entrypoint: []string{at},
			WorkingDir: "/",
			Labels:     p.labels(at),
		}
	})
}

// labels describe the image to those who look at it with other tools.
func (p *programBuild) labels(at string) map[string]string {
	labels := map[string]string{}
	for name, value := range map[string]string{
		"org.opencontainers.image.title":    p.o.Name,
		"org.opencontainers.image.version":  p.o.Version,
		"org.opencontainers.image.revision": p.o.Commit,
		"org.opencontainers.image.source":   p.o.Source,
		labelProgram:                        at,
	} {
		if value != "" {
			labels[name] = value
		}
	}
	return labels
}

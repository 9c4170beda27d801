package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// containerTools are the programs that build a Dockerfile, in the order of
// preference. Their command lines agree, but for how buildah writes archives.
var containerTools = []string{"docker", "podman", "nerdctl", "buildah"}

// buildDocker has a container tool build the template's Dockerfile, with the
// handler in it, and reads the image from an archive the tool saves.
func (b *build) buildDocker(ctx context.Context) (v1.Image, error) {
	tool, err := findTool()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.work, "context")
	if err := b.layOutContext(dir); err != nil {
		return nil, err
	}
	tag := "graphene-build/" + b.Name + ":latest"
	b.Progress.Step(tool + " build " + b.Name)
	if err := b.container(ctx, tool, b.dockerArgs(tag, dir)...); err != nil {
		return nil, err
	}

	b.Progress.Step(tool + " save " + b.Name)
	archive := filepath.Join(b.work, "image.tar")
	save := []string{"save", "--output", archive, tag}
	if tool == "buildah" {
		save = []string{"push", tag, "docker-archive:" + archive}
	}
	if err := b.container(ctx, tool, save...); err != nil {
		return nil, err
	}
	name := b.Name + ".tar"
	if err := b.cache.add(archive, "docker", name, false); err != nil {
		return nil, fmt.Errorf("keep the image: %w", err)
	}
	img, err := tarball.ImageFromPath(b.cache.path("docker", name), nil)
	if err != nil {
		return nil, fmt.Errorf("read the image that %s saved: %w", tool, err)
	}
	return img, nil
}

func findTool() (string, error) {
	for _, tool := range containerTools {
		if _, err := exec.LookPath(tool); err == nil {
			return tool, nil
		}
	}
	return "", fault.NotFound.Errorf("this template has a Dockerfile, and none of %s is installed to build it: install one, or use a template that needs none (graphene template list)", strings.Join(containerTools, ", "))
}

// layOutContext puts the template and the handler where a Dockerfile of an
// OpenFaaS template expects them. Without a template the handler directory is
// all there is, and brings the Dockerfile.
func (b *build) layOutContext(dir string) error {
	handler := dir
	if b.Runtime != nil {
		if err := copyFS(dir, b.Runtime, ""); err != nil {
			return fmt.Errorf("write the template: %w", err)
		}
		handler = filepath.Join(dir, "function")
		if b.HandlerFolder != "" {
			if !filepath.IsLocal(b.HandlerFolder) {
				return fault.Invalid.Errorf("the template's handler_folder %q leaves the build context", b.HandlerFolder)
			}
			handler = filepath.Join(dir, b.HandlerFolder)
		}
	}
	if err := b.copyHandler(handler); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "Dockerfile")); errors.Is(err, fs.ErrNotExist) {
		return fault.Invalid.Errorf("there is no Dockerfile, neither in the template nor in %s", b.Dir)
	}
	return nil
}

func (b *build) dockerArgs(tag, dir string) []string {
	args := []string{"build", "--tag", tag}
	if b.NoCache {
		args = append(args, "--no-cache")
	}
	target := function.Target{OS: b.Target.OS, Arch: b.Target.Arch} // the image brings its own Python
	if target.OS != "" {
		args = append(args, "--platform", target.String())
	}
	for _, name := range slices.Sorted(maps.Keys(b.BuildArgs)) {
		args = append(args, "--build-arg", name+"="+b.BuildArgs[name])
	}
	labels := b.labels("docker", target)
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		args = append(args, "--label", name+"="+labels[name])
	}
	return append(args, dir)
}

// container runs a container tool. What it says about a Dockerfile is for its
// author.
func (b *build) container(ctx context.Context, tool string, args ...string) error {
	cmd := command(ctx, tool, args...)
	cmd.Dir = b.work
	if err := b.runTool(ctx, cmd); err != nil {
		return fault.Invalid.Errorf("%s %s: %w", tool, args[0], err)
	}
	return nil
}

// Command images makes the container images of the platform's own programs,
// or of any Go program, without a container engine: for several platforms, the
// same bytes from the same sources, with a bill of materials beside each.
//
//	images [flags]                   build, and write OCI layouts
//	images copy [flags] FROM TO      copy an image; a place is a name in a registry or oci:DIR
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/graphene-faas/graphene/cli/image"
	"github.com/graphene-faas/graphene/internal/function"
)

// programs are the platform's own, by the names of their images.
var programs = []program{
	{"gateway", "./gateway/cmd/gateway"},
	{"queue-worker", "./gateway/cmd/queue-worker"},
	{"provider", "./provider/cmd/provider"},
	{"watchdog", "./watchdog/cmd/fwatchdog"},
}

type program struct{ name, pkg string }

const source = "https://github.com/graphene-faas/graphene"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cache, err := os.UserCacheDir()
	if err == nil {
		err = run(ctx, os.Args[1:], filepath.Join(cache, "graphene"), os.Stdout, os.Stderr)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "images: %v\n", err)
		os.Exit(1)
	}
}

// run is main with everything it reads and writes. Errors of flags have been
// printed by their parser too.
func run(ctx context.Context, args []string, cache string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "copy" {
		return runCopy(ctx, args[1:], stderr)
	}
	b := builder{cache: cache, stdout: stdout, stderr: stderr}
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&b.out, "out", "bin/images", "directory of the OCI layouts, one in each image's name, and of the bills of materials")
	flags.StringVar(&b.push, "push", "", "registry and prefix to push to as well, such as 127.0.0.1:5000/graphene")
	flags.StringVar(&b.version, "version", "dev", "version of the programs, and tag of the images")
	flags.StringVar(&b.commit, "commit", "", "commit the programs are built from")
	flags.StringVar(&b.authorities, "authorities", "", "file of certificate authorities, or none (default: this machine's)")
	flags.Int64Var(&b.maxSize, "max-size", 30_000_000, "most bytes an image may have for one platform, compressed; 0 is any number")
	only := flags.String("only", "", "NAME or NAME=PACKAGE, separated by commas, instead of all of the platform's own programs")
	platforms := flags.String("platforms", "linux/amd64,linux/arm64", "platforms to build for")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("there is no command %q; there is only \"images copy\"", flags.Arg(0))
	}
	var err error
	if b.targets, err = parsePlatforms(*platforms); err != nil {
		return err
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	return b.all(ctx, chosen)
}

func runCopy(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("images copy", flag.ContinueOnError)
	flags.SetOutput(stderr)
	platforms := flags.String("platforms", "", "platforms to copy of an image that has several, such as linux/amd64 (default: all)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return errors.New("usage: images copy [-platforms LIST] FROM TO; a place is a name in a registry or oci:DIR")
	}
	targets, err := parsePlatforms(*platforms)
	if err != nil {
		return err
	}
	return image.Copy(ctx, flags.Arg(0), flags.Arg(1), image.CopyOptions{Targets: targets, Progress: steps{stderr}})
}

func parsePlatforms(list string) ([]function.Target, error) {
	var targets []function.Target
	for _, text := range split(list) {
		t, err := function.ParseTarget(text)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// choose returns the programs that only names, or the platform's own.
func choose(only string) ([]program, error) {
	if only == "" {
		return programs, nil
	}
	var chosen []program
next:
	for _, text := range split(only) {
		name, pkg, ok := strings.Cut(text, "=")
		if ok {
			chosen = append(chosen, program{name, pkg})
			continue
		}
		for _, p := range programs {
			if p.name == name {
				chosen = append(chosen, p)
				continue next
			}
		}
		return nil, fmt.Errorf("there is no program %q; name its package: -only %s=PACKAGE", name, name)
	}
	return chosen, nil
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

type builder struct {
	out, push       string
	version, commit string
	authorities     string
	maxSize         int64
	targets         []function.Target
	cache           string
	stdout, stderr  io.Writer
}

// all builds every program; one that fails does not keep others from being
// built.
func (b *builder) all(ctx context.Context, chosen []program) error {
	authorities, err := b.findAuthorities()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range chosen {
		if err := b.one(ctx, p, authorities); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (b *builder) one(ctx context.Context, p program, authorities string) error {
	built, err := image.BuildProgram(ctx, image.ProgramOptions{
		Name:        p.name,
		Package:     p.pkg,
		Dir:         ".",
		Targets:     b.targets,
		Version:     b.version,
		Commit:      b.commit,
		Source:      source,
		Authorities: authorities,
		CacheDir:    b.cache,
		Output:      b.stderr,
		Progress:    steps{b.stderr},
	})
	if err != nil {
		return err
	}
	if err := b.check(built); err != nil {
		return err
	}
	if err := built.Copy(ctx, "oci:"+filepath.Join(b.out, p.name), image.CopyOptions{}); err != nil {
		return err
	}
	for _, v := range built.Variants {
		bill := filepath.Join(b.out, p.name+"-"+v.Target.OS+"-"+v.Target.Arch+".spdx.json")
		if err := os.WriteFile(bill, v.SBOM, 0o644); err != nil {
			return err
		}
	}
	if b.push != "" {
		to := strings.TrimSuffix(b.push, "/") + "/" + p.name + ":" + b.version
		if err := built.Copy(ctx, to, image.CopyOptions{Progress: steps{b.stderr}}); err != nil {
			return err
		}
	}
	return b.report(built)
}

// check refuses an image that has grown too large.
func (b *builder) check(p *image.Program) error {
	for _, v := range p.Variants {
		if b.maxSize > 0 && v.Size > b.maxSize {
			return fmt.Errorf("%s for %s has %d bytes, and at most %d are wanted (-max-size)", p.Name, v.Target, v.Size, b.maxSize)
		}
	}
	return nil
}

func (b *builder) report(p *image.Program) error {
	digest, err := p.Index.Digest()
	if err != nil {
		return err
	}
	var sizes []string
	for _, v := range p.Variants {
		sizes = append(sizes, fmt.Sprintf("%s %.1f MB", v.Target, float64(v.Size)/1e6))
	}
	fmt.Fprintf(b.stdout, "%s:%s@%s  %s\n", p.Name, p.Version, digest, strings.Join(sizes, ", "))
	return nil
}

// usualAuthorities are where Linux distributions and macOS keep the
// certificate authorities that the machine trusts.
var usualAuthorities = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// findAuthorities returns the file of authorities to put into images. That
// there is none is said, for programs without them reach nobody by TLS.
func (b *builder) findAuthorities() (string, error) {
	switch b.authorities {
	case "none":
		return "", nil
	case "":
	default:
		return b.authorities, nil
	}
	for _, name := range usualAuthorities {
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("this machine (%s) has no file of certificate authorities, without which programs in images reach nobody by TLS: install the package ca-certificates, name a file with -authorities, or do without them by -authorities none", runtime.GOOS)
}

// steps shows progress as lines.
type steps struct{ w io.Writer }

func (s steps) Step(name string)  { fmt.Fprintln(s.w, name) }
func (steps) Update(int64, int64) {}

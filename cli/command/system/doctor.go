package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/semver"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/pyenv"
)

// A Check looks at one thing that the platform or its command line needs.
type Check struct {
	Name string
	// Need says what for. A check without it is information: when it fails,
	// that is a warning.
	Need string
	// Run returns what it found, or what is wrong and what to do about it.
	Run func(ctx context.Context) (string, error)
}

// A finding is the outcome of a check.
type finding struct {
	Name   string `json:"name"`
	Status string `json:"status"` // ok, warning or missing
	Detail string `json:"detail"`
}

// Outcomes of a check.
const (
	statusOK      = "ok"
	statusWarning = "warning"
	statusMissing = "missing"
)

// checkTime bounds one check.
const checkTime = 20 * time.Second

// minGo is the version of Go that functions are built with.
const minGo = "v1.26"

// minFree is how much disk space a build wants, in bytes.
const minFree = 1 << 30

// DoctorCommand returns the command doctor, which runs more after its own
// checks.
func DoctorCommand(f *command.Factory, more []Check) *cobra.Command {
	var output term.Format
	cmd := &cobra.Command{
		Use:     "doctor",
		Short:   "Check what this machine and the gateway need",
		GroupID: "platform",
		Long: `Checks the tools that builds need, the gateway, the login for it, and whether
what is built here runs there. What is missing is shown with its remedy, and
ends the command with exit code 1; warnings do not.`,
		Example: `  graphene doctor
  graphene doctor -o json`,
		Args: command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDoctor(cmd.Context(), f, output, more)
		},
	}
	command.OutputFlag(cmd, &output)
	return cmd
}

func runDoctor(ctx context.Context, f *command.Factory, output term.Format, more []Check) error {
	d := &doctor{f: f}
	var findings []finding
	missing := 0
	for _, c := range append(d.checks(), more...) {
		found := run(ctx, c)
		if found.Status == statusMissing {
			missing++
		}
		findings = append(findings, found)
	}
	err := output.Write(f.Streams.Out, findings, func(t *term.Table) {
		t.Header("CHECK", "STATUS", "DETAIL")
		for _, found := range findings {
			t.Row(found.Name, found.Status, found.Detail)
		}
	})
	if err == nil && missing > 0 {
		err = fmt.Errorf("%d of %d checks found something missing", missing, len(findings))
	}
	return err
}

func run(ctx context.Context, c Check) finding {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	detail, err := c.Run(ctx)
	switch {
	case err == nil:
		return finding{c.Name, statusOK, detail}
	case c.Need == "":
		return finding{c.Name, statusWarning, err.Error()}
	}
	return finding{c.Name, statusMissing, err.Error() + "; needed " + c.Need}
}

// A doctor remembers between checks what later ones build on.
type doctor struct {
	f      *command.Factory
	python pyenv.Interpreter
	url    string
	client *client.Client // nil: the gateway does not answer
	target *function.Target
}

func (d *doctor) checks() []Check {
	return []Check{
		{"go", "to build Go functions", d.checkGo},
		{"python", "to build and run Python functions", d.checkPython},
		{"pip", "to build Python functions that have requirements", d.checkPip},
		{"venv", "", d.checkVenv},
		{"git", "", d.checkGit},
		{"disk", "", d.checkDisk},
		{"gateway", "to deploy and call functions", d.checkGateway},
		{"login", "to deploy functions", d.checkLogin},
		{"target", "", d.checkTarget},
	}
}

// tool runs a program and returns the first line it prints.
func (d *doctor) tool(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = d.f.Environ
	cmd.Dir = os.TempDir() // a go.mod here would choose the version of Go
	out, err := cmd.CombinedOutput()
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%s is not installed", name)
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, first)
	}
	return first, nil
}

func (d *doctor) checkGo(ctx context.Context) (string, error) {
	version, err := d.tool(ctx, "go", "env", "GOVERSION")
	if err != nil {
		return "", fmt.Errorf("%w: get it from https://go.dev/dl", err)
	}
	if v := "v" + strings.TrimPrefix(version, "go"); semver.IsValid(v) && semver.Compare(v, minGo) < 0 {
		return "", fmt.Errorf("%s is too old: get %s or later from https://go.dev/dl", version, strings.TrimPrefix(minGo, "v"))
	}
	return version, nil
}

func (d *doctor) checkPython(ctx context.Context) (string, error) {
	var err error
	if d.python, err = pyenv.Find(ctx, "python3"); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s at %s, which builds for %s", d.python.Version, d.python.Path, d.python.Target), nil
}

func (d *doctor) checkPip(ctx context.Context) (string, error) {
	if d.python.Path == "" {
		return "", errors.New("there is no Python to run it")
	}
	version, err := d.tool(ctx, d.python.Path, "-m", "pip", "--version")
	if err != nil {
		return "", fmt.Errorf("pip does not run (%w): install python3-pip, or run \"%s -m ensurepip\"", err, d.python.Path)
	}
	return version, nil
}

func (d *doctor) checkVenv(ctx context.Context) (string, error) {
	if d.python.Path == "" {
		return "", errors.New("there is no Python to run it")
	}
	if _, err := d.tool(ctx, d.python.Path, "-c", "import venv, ensurepip"); err != nil {
		return "", errors.New("this Python has no venv: install python3-venv to test handlers with their requirements")
	}
	return "environments can be made", nil
}

func (d *doctor) checkGit(ctx context.Context) (string, error) {
	version, err := d.tool(ctx, "git", "--version")
	if err != nil {
		return "", fmt.Errorf("%w; without it templates come from directories only", err)
	}
	return version, nil
}

func (d *doctor) checkDisk(context.Context) (string, error) {
	dir, err := d.f.CacheDir()
	if err != nil {
		return "", err
	}
	free, err := freeSpace(existing(dir))
	if err != nil {
		return "", fmt.Errorf("measure the free space for %s: %w", dir, err)
	}
	if free < minFree {
		return "", fmt.Errorf("%s are free for the cache of builds in %s; %s are advisable", term.Size(free), dir, term.Size(minFree))
	}
	return term.Size(free) + " are free for the cache of builds in " + dir, nil
}

// existing returns dir, or the nearest directory above it that exists.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func (d *doctor) checkGateway(ctx context.Context) (string, error) {
	var err error
	if d.url, err = d.f.Gateway(ctx); err != nil {
		return "", err
	}
	c, err := d.f.ClientOf(d.url)
	if err != nil {
		return "", err
	}
	if err := c.Healthy(ctx); err != nil {
		return "", err
	}
	d.client = c
	return d.url + " answers", nil
}

func (d *doctor) checkLogin(ctx context.Context) (string, error) {
	if d.client == nil {
		return "", errors.New("the gateway does not answer")
	}
	info, err := d.client.Info(ctx)
	if err != nil {
		return "", err
	}
	d.target = info.Target
	return fmt.Sprintf("%s %s takes it", d.url, info.Version.Release), nil
}

func (d *doctor) checkTarget(context.Context) (string, error) {
	if d.target == nil {
		return "", errors.New("the gateway does not say what to build for")
	}
	here := function.Target{OS: runtime.GOOS, Arch: runtime.GOARCH, Python: d.python.Target.Python, Libc: d.python.Target.Libc}
	if here == *d.target {
		return "what is built here runs there: " + d.target.String(), nil
	}
	return "", fmt.Errorf("the gateway runs %s and this machine %s: packages are fetched ready-made for it, and a build.py cannot run", d.target, here)
}

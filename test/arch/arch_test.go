// Package arch holds the rules of the house as tests: which way imports
// point, where heavy libraries live, that every package says what it is for,
// and that only mains read the environment or exit.
package arch

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/graphene-faas/graphene"

// root is where the module lies, seen from this package.
const root = "../.."

type pkg struct {
	ImportPath string
	Dir        string
	Doc        string
	Standard   bool
	GoFiles    []string
	Imports    []string
	Deps       []string
}

// name returns the path inside the module: "gateway/invoke", "." for its root.
func (p pkg) name() string {
	return cmpOr(strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/"), ".")
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func packages(t *testing.T, patterns ...string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Dir,Doc,Standard,GoFiles,Imports,Deps"}, patterns...)...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// A rule fences a library, or a part of ours, in.
type rule struct {
	imports *regexp.Regexp // import paths
	onlyBy  *regexp.Regexp // names of packages that may import them
	why     string
}

var rules = []rule{
	{imp(`k8s\.io/.*|sigs\.k8s\.io/.*`), by(`provider/kube(/.*)?|provider/cmd/.*`), "one package speaks Kubernetes, so that the rest runs without it"},
	{imp(`github\.com/nats-io/nats\.go(/.*)?`), by(`gateway|gateway/async|gateway/autoscale/shared|gateway/quota|gateway/cmd/.*|cli/serve|internal/testkit/natstest|test/bench`), "the queue, and what gateways tell each other, are interfaces everywhere else"},
	{imp(`github\.com/nats-io/nats-server/.*`), by(`cli/serve|internal/testkit/natstest|test/bench`), "only the embedded size carries a server"},
	{imp(`github\.com/(coreos/go-oidc|go-jose)/.*`), by(`gateway/auth`), "identity has one home"},
	{imp(`github\.com/google/go-containerregistry/.*`), by(`cli/image|cli/serve|provider/local(/.*)?`), "images are built in one place and unpacked in one other"},
	{imp(`github\.com/distribution/.*`), by(`cli/serve`), "only the embedded size carries a registry"},
	{imp(`github\.com/landlock-lsm/.*`), by(`provider/local`), "only replicas on this machine are fenced in"},
	{imp(`github\.com/spf13/.*`), by(`cli|cli/command(/.*)?|cli/serve|cli/cmd/.*`), "commands are made in one place"},
	{imp(`github\.com/jedib0t/.*`), by(`cli/term`), "how things look on a terminal has one home"},
	{imp(`github\.com/prometheus/.*`), by(`gateway/metrics`), "everyone else counts through a small interface"},
	{imp(`go\.opentelemetry\.io/.*`), by(`gateway/trace`), "spans are made in one place, so that a program without them has none of their cost"},
	{imp(`github\.com/gorilla/mux`), by(`gateway|gateway/api|provider`), "route tables live in assemblies"},
	{imp(module + `/gateway/(api|invoke|auth|metrics|async|autoscale|quota|ui)`), by(`gateway|gateway/autoscale/shared|gateway/cmd/.*|cli/serve|test/.*`), "the parts of the gateway meet in its assembly"},
	{imp(module + `/provider/(local|kube)`), by(`provider/cmd/.*|cli/serve|cli/cmd/.*|test/.*`), "a runtime is handed to the provider by whoever assembles it"},
	{imp(module + `/gateway`), by(`gateway/cmd/.*|cli/serve|test/.*`), "assemblies do not import each other"},
	{imp(module + `/provider`), by(`provider/cmd/.*|provider/runtimetest|cli/serve|test/.*`), "assemblies do not import each other"},
	{imp(module + `/cli/serve`), by(`cli/cmd/.*|test/.*`), "the embedded size is linked by the one binary that offers it"},
}

func imp(s string) *regexp.Regexp { return regexp.MustCompile(`^(?:` + s + `)$`) }
func by(s string) *regexp.Regexp  { return imp(s) }

func TestImportsPointOneWay(t *testing.T) {
	for _, p := range packages(t, "./...") {
		for _, r := range rules {
			if r.onlyBy.MatchString(p.name()) {
				continue
			}
			for _, i := range p.Imports {
				if r.imports.MatchString(i) {
					t.Errorf("%s imports %s: %s", p.name(), i, r.why)
				}
			}
		}
	}
}

// linkRules say what must not be linked into a package, however indirectly.
var linkRules = []struct {
	pkg, why string
	allow    *regexp.Regexp // of everything that is not the standard library
}{
	{"watchdog", "it is linked into every function", imp(module + `/(watchdog|internal/proc)`)},
	{"internal/function", "the vocabulary knows no technology", imp(module + `/internal/.*`)},
	{"internal/fault", "the vocabulary knows no technology", imp(module + `/internal/.*`)},
}

func TestSmallPackagesStaySmall(t *testing.T) {
	for _, r := range linkRules {
		p := packages(t, "./"+r.pkg)[0]
		for _, d := range p.Deps {
			first, _, _ := strings.Cut(d, "/")
			thirdParty := strings.Contains(first, ".")
			if thirdParty && !r.allow.MatchString(d) && !strings.HasPrefix(d, "vendor/") {
				t.Errorf("%s links %s: %s", r.pkg, d, r.why)
			}
		}
	}
}

func TestOnlyTheProviderOfAClusterLinksKubernetes(t *testing.T) {
	for _, name := range []string{"cli/cmd/graphene", "gateway/cmd/gateway", "gateway/cmd/queue-worker", "watchdog/cmd/fwatchdog"} {
		for _, d := range packages(t, "./"+name)[0].Deps {
			if strings.HasPrefix(d, "k8s.io/") {
				t.Errorf("%s links %s: it has no business with a cluster, and would grow by tens of megabytes", name, d)
				break
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t, "./...") {
		if len(p.GoFiles) == 0 {
			continue
		}
		if len(strings.Fields(p.Doc)) < 5 {
			t.Errorf("%s has no package comment worth the name: %q", p.name(), p.Doc)
		}
		var documented []string
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				documented = append(documented, name)
			}
		}
		if len(documented) > 1 {
			t.Errorf("%s has %d package comments, in %v", p.name(), len(documented), documented)
		}
	}
}

// ambient lists the calls that reach around a program's arguments.
var ambient = map[string][]string{
	"os":     {"Getenv", "LookupEnv", "Environ", "Exit"},
	"signal": {"Notify", "NotifyContext"},
}

// mayUseAmbient lists the places that are mains: programs, the main of a Go
// function, and what runs tests.
var mayUseAmbient = by(`.*/cmd/[^/]*/[^/]*|watchdog/main\.go|internal/testkit/testkit\.go|test/(bench|cluster|demo|fuzz)/.*|.*_test\.go`)

func TestOnlyMainsReadTheEnvironmentOrExit(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && rel != "." || d.Name() == "node_modules" || d.Name() == "testdata" || slices.Contains([]string{"examples", "templates"}, rel)) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(rel, ".go") || mayUseAmbient.MatchString(filepath.ToSlash(rel)) {
			return nil
		}
		seen++
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if ok && slices.Contains(ambient[x.Name], sel.Sel.Name) {
				t.Errorf("%s:%d uses %s.%s: only mains may", rel, fset.Position(sel.Pos()).Line, x.Name, sel.Sel.Name)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 20 {
		t.Fatalf("only %d files were looked at: the walk is broken", seen)
	}
}

// TestFencedLibrariesAreUsedWhereTheyMay keeps the fences from rotting: every library they name
// that go.mod requires is imported by somebody who may.
func TestFencedLibrariesAreUsedWhereTheyMay(t *testing.T) {
	all := packages(t, "./...")
	for _, library := range []string{"github.com/gorilla/mux", "github.com/openfaas/faas-provider/types", "github.com/spf13/cobra", "github.com/google/go-containerregistry/pkg/v1"} {
		used := slices.ContainsFunc(all, func(p pkg) bool { return slices.Contains(p.Imports, library) })
		if !used {
			t.Errorf("nobody imports %s any more: drop its rule", library)
		}
	}
}

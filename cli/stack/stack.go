// Package stack reads stack.yaml, the file that names a project's functions.
//
// The format is OpenFaaS's, together with the settings of
// [function.ListSettings] as keys of a function. [Parse] reports every problem
// of a file at once, each with its line and column; keys it does not know are
// warnings, because files written for other versions must still deploy.
//
// [Expand] replaces ${VAR} before a file is parsed, and [Stack.Select] picks
// functions by name. The package reads no files and no environment itself.
package stack

import (
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/drone/envsubst"

	"github.com/graphene-faas/graphene/internal/fault"
)

// DefaultFiles are the names that are looked for when none is given, the
// first one first.
var DefaultFiles = [...]string{"stack.yaml", "stack.yml"}

// A Stack is the content of a stack file.
type Stack struct {
	// Name is the file's name as it was given to Parse.
	Name     string
	Provider Provider
	// Functions are in the order of the file.
	Functions []Function
	// Templates are those the project takes from elsewhere.
	Templates []TemplateSource
	// Copy lists paths that go into every function's directory when it is
	// built.
	Copy []string
	// Warnings are whole sentences with file, line and column.
	Warnings []string
}

// Provider says where the functions of a stack are deployed.
type Provider struct {
	Name    string // "openfaas", or "" if the file does not say
	Gateway string // URL, or "" if the file does not say
}

// A TemplateSource is one entry of configuration.templates.
type TemplateSource struct {
	Name   string
	Source string // git URL, optionally with #ref; "" is the template of that name that everybody has
}

// A Function is one entry of functions. Paths in it are as the file has them.
type Function struct {
	Name      string
	Namespace string
	Lang      string // a template's name, or "dockerfile"
	Handler   string // directory of the source code
	Image     string
	FProcess  string

	Environment      map[string]string
	EnvironmentFiles []string // each holds a further environment; later ones win
	Secrets          []string
	Constraints      []string
	Labels           map[string]string
	// Annotations include the settings that the file has as keys of their own.
	Annotations map[string]string
	Limits      Resources
	Requests    Resources

	ReadOnlyRootFilesystem bool

	SkipBuild    bool
	BuildArgs    map[string]string
	BuildOptions []string
}

// Resources are amounts of memory and processor time as Kubernetes writes
// them; "" is no statement.
type Resources struct {
	Memory string
	CPU    string
}

// ImageOrDefault returns the function's image, or NAME:latest if the file
// names none.
func (f Function) ImageOrDefault() string {
	if f.Image != "" {
		return f.Image
	}
	return f.Name + ":latest"
}

// Expand replaces ${VAR}, ${VAR:-default} and the other forms of shell
// parameter expansion in the text of a stack file. What is not set becomes
// empty. The error, fault.Invalid, is of malformed references.
func Expand(name string, text []byte, getenv func(string) string) ([]byte, error) {
	out, err := envsubst.Eval(string(text), getenv)
	if err != nil {
		return nil, fault.Invalid.Errorf("%s: replace ${…}: %w; --envsubst=false leaves the file as it is", name, err)
	}
	return []byte(out), nil
}

// A Selection picks functions of a stack by name. Its zero value picks all.
type Selection struct {
	Names  []string // exactly these; all of them must exist
	Filter string   // a pattern with * and ?, as in file names
	Regex  string   // a regular expression that matches anywhere in the name
}

// Select returns the functions that s picks, in the order of the file. Picking
// none is fault.NotFound, and a malformed pattern is fault.Invalid.
func (st *Stack) Select(s Selection) ([]Function, error) {
	match := func(string) bool { return true }
	switch {
	case s.Filter != "" && s.Regex != "":
		return nil, fault.Invalid.Errorf("--filter and --regex exclude each other")
	case s.Filter != "":
		if _, err := path.Match(s.Filter, ""); err != nil {
			return nil, fault.Invalid.Errorf("--filter %q: %w", s.Filter, err)
		}
		match = func(name string) bool { ok, _ := path.Match(s.Filter, name); return ok }
	case s.Regex != "":
		re, err := regexp.Compile(s.Regex)
		if err != nil {
			return nil, fault.Invalid.Errorf("--regex: %w", err)
		}
		match = re.MatchString
	}

	wanted := map[string]bool{}
	for _, name := range s.Names {
		wanted[name] = true
	}
	var picked []Function
	for _, f := range st.Functions {
		if match(f.Name) && (len(s.Names) == 0 || wanted[f.Name]) {
			picked = append(picked, f)
			delete(wanted, f.Name)
		}
	}
	for _, name := range s.Names {
		if wanted[name] {
			return nil, fault.NotFound.Errorf("%s has no function %q; it has %s", st.Name, name, st.names())
		}
	}
	if len(picked) == 0 {
		return nil, fault.NotFound.Errorf("no function of %s matches; it has %s", st.Name, st.names())
	}
	return picked, nil
}

// Function returns the function called name.
func (st *Stack) Function(name string) (Function, bool) {
	for _, f := range st.Functions {
		if f.Name == name {
			return f, true
		}
	}
	return Function{}, false
}

func (st *Stack) names() string {
	if len(st.Functions) == 0 {
		return "none"
	}
	var names []string
	for _, f := range st.Functions {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// IsURL reports whether the name of a stack file is an address to fetch it
// from.
func IsURL(name string) bool {
	return strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://")
}

// NamedFunction returns the name of the function that a stack file of its own
// would be called after: "hello" for "some/dir/hello.yml". It is "" for other
// names.
func NamedFunction(file string) string {
	base := filepath.Base(file)
	for _, ext := range []string{".yml", ".yaml"} {
		if name, ok := strings.CutSuffix(base, ext); ok && name != "" {
			return name
		}
	}
	return ""
}

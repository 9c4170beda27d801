// Package templates holds the language templates that a new function starts
// from, and reads templates of other origin that are laid out in the same way.
//
// A template is a directory: template.yml describes it, the handler folder
// (function/ unless template.yml says otherwise) holds the sample that a
// developer is given, and everything else is what a build puts around the
// developer's code. Those that come with Graphene are embedded: [List] and
// [Get] return them. [Load] reads one from a directory, as `template pull`
// leaves it in ./template. [Scaffold] writes the sample.
package templates

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/graphene-faas/graphene/internal/fault"
)

// Go sources and go.mod files are kept under names that end in .tmpl: a
// directory with a go.mod cannot be embedded, and one without would be a
// package of this module.
//
//go:embed go python3 python3-http python3-model
//go:embed python/graphene_function/*.py
var embedded embed.FS

// builtin lists the embedded templates, the one to try first coming first.
var builtin = [...]string{"go", "python3-http", "python3", "python3-model"}

// pythonRuntime is the directory that holds the package graphene_function,
// which all Python templates share.
const pythonRuntime = "python"

// A Kind says how functions of a template are built.
type Kind string

const (
	// Go handlers are compiled together with the watchdog.
	Go Kind = "go"
	// Python handlers run in the watchdog's pool of interpreters.
	Python Kind = "python"
	// Docker templates bring a Dockerfile, which says everything.
	Docker Kind = "dockerfile"
)

// A Template is what functions of one language start from and are built with.
type Template struct {
	Name        string
	Description string // one line, without a full stop
	Kind        Kind
	Config      Config

	// Files is the sample function directory.
	Files fs.FS
	// Runtime is what a build adds to the developer's code: main.go for Go, the
	// package graphene_function for Python, and for Docker the template without
	// template.yml and the sample.
	Runtime fs.FS
}

// Config is the content of template.yml. Its keys are OpenFaaS's, and a few of
// our own: description, kind, aliases and environment.
type Config struct {
	Language       string        `yaml:"language"`
	Fprocess       string        `yaml:"fprocess"`
	WelcomeMessage string        `yaml:"welcome_message"`
	HandlerFolder  string        `yaml:"handler_folder"` // "function" if the file does not say
	BuildOptions   []BuildOption `yaml:"build_options"`
	MountSSH       bool          `yaml:"mount_ssh"`

	Description string   `yaml:"description"`
	Kind        Kind     `yaml:"kind"` // Docker if the file does not say and there is a Dockerfile
	Aliases     []string `yaml:"aliases"`
	// Env is the watchdog's environment in every function of this template;
	// what the function itself sets wins.
	Env map[string]string `yaml:"environment"`
}

// A BuildOption is a set of packages that a build adds when it is asked for by
// name.
type BuildOption struct {
	Name     string   `yaml:"name"`
	Packages []string `yaml:"packages"`
}

// List returns the embedded templates, in the order to present them in.
func List() []Template {
	list := make([]Template, 0, len(builtin))
	for _, name := range builtin {
		list = append(list, mustEmbedded(name))
	}
	return list
}

// Get returns the embedded template of that name, which may be an alias: the
// name of an OpenFaaS template with the same kind of handler. The template
// returned always has its own name.
func Get(name string) (Template, bool) {
	for _, t := range List() {
		if t.Name == name || slices.Contains(t.Config.Aliases, name) {
			return t, true
		}
	}
	return Template{}, false
}

// mustEmbedded loads an embedded template. That it can is known when the
// program is built, and a test holds it to that.
func mustEmbedded(name string) Template {
	t, err := loadEmbedded(name)
	if err != nil {
		panic(err)
	}
	return t
}

func loadEmbedded(name string) (Template, error) {
	t, err := load(embedded, name, true)
	if err != nil || t.Kind != Python {
		return t, err
	}
	t.Runtime, err = fs.Sub(embedded, pythonRuntime)
	return t, err
}

// Load reads the template in the directory name of fsys. Its error is
// [fault.NotFound] if there is no template.yml there, and [fault.Invalid],
// telling the line, if that file cannot be understood.
//
// Python templates that are not embedded bring their runtime themselves. A
// template is a stranger's: fsys should be one that symbolic links cannot leave
// ([os.Root.FS], not [os.DirFS]).
func Load(fsys fs.FS, name string) (Template, error) {
	return load(fsys, name, false)
}

// load is Load, and takes .tmpl off the names of files if renamed.
func load(fsys fs.FS, name string, renamed bool) (Template, error) {
	if !fs.ValidPath(name) || name == "." {
		return Template{}, fault.Invalid.Errorf("template %q: not a name", name)
	}
	dir, err := fs.Sub(fsys, name)
	if err != nil {
		return Template{}, fmt.Errorf("template %s: %w", name, err)
	}
	config, err := readConfig(dir)
	if err != nil {
		return Template{}, fmt.Errorf("template %s: %w", name, err)
	}
	files, err := fs.Sub(dir, config.HandlerFolder)
	if err != nil {
		return Template{}, fmt.Errorf("template %s: %w", name, err)
	}
	return Template{
		Name:        path.Base(name),
		Description: config.Description,
		Kind:        config.Kind,
		Config:      config,
		Files:       sourceFS{fsys: files, renamed: renamed},
		Runtime:     sourceFS{fsys: dir, hidden: []string{configFile, config.HandlerFolder}, renamed: renamed},
	}, nil
}

const configFile = "template.yml"

// readConfig reads and checks the template.yml of the template in dir.
func readConfig(dir fs.FS) (Config, error) {
	data, err := fs.ReadFile(dir, configFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fault.NotFound.Errorf("it has no %s", configFile)
	} else if err != nil {
		return Config{}, err
	}
	config := Config{HandlerFolder: "function"}
	// An empty file is a template that says nothing about itself.
	if err := yaml.NewDecoder(bytes.NewReader(data)).Decode(&config); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, fault.Invalid.Errorf("%s: %w", configFile, err)
	}

	folder := path.Clean(config.HandlerFolder)
	if !fs.ValidPath(folder) || folder == "." {
		return Config{}, fault.Invalid.Errorf("%s: handler_folder %q is not below the template", configFile, config.HandlerFolder)
	}
	if info, err := fs.Stat(dir, folder); err != nil || !info.IsDir() {
		return Config{}, fault.Invalid.Errorf("%s: handler_folder %q is not a directory of the template", configFile, config.HandlerFolder)
	}
	config.HandlerFolder = folder

	switch config.Kind {
	case Go, Python, Docker:
	case "":
		if _, err := fs.Stat(dir, "Dockerfile"); err != nil {
			return Config{}, fault.Invalid.Errorf("%s names no kind, and there is no Dockerfile", configFile)
		}
		config.Kind = Docker
	default:
		return Config{}, fault.Invalid.Errorf("%s: kind %q is none of %s, %s and %s", configFile, config.Kind, Go, Python, Docker)
	}
	return config, nil
}

// Scaffold writes the sample function of t into dir, which it makes if need
// be, for a function called name: {{name}} in a README.md becomes that name.
// It overwrites nothing: if any of the files is there already, it returns
// [fault.Exists] and writes none.
func Scaffold(t Template, name, dir string) error {
	if err := scaffold(t.Files, name, dir); err != nil {
		return fmt.Errorf("scaffold %s from %s: %w", name, t.Name, err)
	}
	return nil
}

func scaffold(files fs.FS, name, dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()

	err = fs.WalkDir(files, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if _, err := root.Lstat(file); err == nil {
			return fault.Exists.Errorf("%s is there already", filepath.Join(dir, file))
		}
		return nil
	})
	if err != nil {
		return err
	}

	return fs.WalkDir(files, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return root.MkdirAll(file, 0o755)
		}
		return copyFile(root, files, file, name)
	})
}

// copyFile writes one file of a sample into root.
func copyFile(root *os.Root, files fs.FS, file, name string) error {
	info, err := fs.Stat(files, file)
	if err != nil {
		return err
	}
	content, err := fs.ReadFile(files, file)
	if err != nil {
		return err
	}
	if path.Base(file) == "README.md" {
		content = bytes.ReplaceAll(content, []byte("{{name}}"), []byte(name))
	}

	// A sample may hold scripts; nobody but their owner need write to them.
	mode := fs.FileMode(0o644)
	if info.Mode()&0o100 != 0 {
		mode = 0o755
	}
	out, err := root.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = out.Write(content)
	return errors.Join(err, out.Close())
}

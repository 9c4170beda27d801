package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/templates"
)

// TemplateDir is the directory, beside the stack file, of templates from
// elsewhere.
const TemplateDir = "template"

// Template returns the template called name: that of ./template, below dir, if
// there is one, or else an embedded one. The error is fault.NotFound with the
// names there are.
func Template(dir, name string) (templates.Template, error) {
	if fsys, err := openTemplates(dir); err == nil {
		t, err := templates.Load(fsys, name)
		if !errors.Is(err, fault.NotFound) {
			return t, err
		}
	}
	if t, ok := templates.Get(name); ok {
		return t, nil
	}
	var names []string
	for _, t := range Templates(dir) {
		names = append(names, t.Name)
	}
	return templates.Template{}, fault.NotFound.Errorf("there is no template %q; there are %s. \"graphene template pull URL\" gets others", name, strings.Join(names, ", "))
}

// Templates lists the embedded templates and those in ./template below dir.
// One there that cannot be read is left out: whoever asks for it by name is
// told why.
func Templates(dir string) []templates.Template {
	list := templates.List()
	fsys, err := openTemplates(dir)
	if err != nil {
		return list
	}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return list
	}
	for _, e := range entries {
		t, err := templates.Load(fsys, e.Name())
		if err != nil {
			continue
		}
		replaced := false
		for i := range list {
			if list[i].Name == t.Name {
				list[i], replaced = t, true
			}
		}
		if !replaced {
			list = append(list, t)
		}
	}
	return list
}

// openTemplates opens the directory of templates below dir. Symbolic links do
// not lead out of it. It stays open as long as a template of it is in use.
func openTemplates(dir string) (fs.FS, error) {
	root, err := os.OpenRoot(filepath.Join(dir, TemplateDir))
	if err != nil {
		return nil, err
	}
	return root.FS(), nil
}

// PullTemplates copies templates from source into ./template below dir and
// returns their names. source is a directory or a git repository, with an
// optional #ref, that has a directory called template. only, if not empty, is
// the one to take. A template that is there already is fault.Exists unless
// overwrite is set.
func (f *Factory) PullTemplates(ctx context.Context, source, only, dir string, overwrite bool) ([]string, error) {
	from := f.Path(source)
	if info, err := os.Stat(from); err != nil || !info.IsDir() {
		clone, err := os.MkdirTemp("", "graphene-template-")
		if err != nil {
			return nil, fmt.Errorf("pull templates: %w", err)
		}
		defer os.RemoveAll(clone)
		if err := f.gitClone(ctx, source, clone); err != nil {
			return nil, err
		}
		from = clone
	}
	fsys, err := openTemplates(from)
	if err != nil {
		return nil, fault.NotFound.Errorf("pull templates: %s has no directory called %s", source, TemplateDir)
	}

	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("pull templates: %w", err)
	}

	// Everything is checked before anything is written.
	var names []string
	for _, e := range entries {
		if !e.IsDir() || only != "" && e.Name() != only {
			continue
		}
		if _, err := templates.Load(fsys, e.Name()); err != nil {
			return nil, fault.Invalid.Errorf("pull templates: %s: %w", source, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, TemplateDir, e.Name())); err == nil && !overwrite {
			return nil, fault.Exists.Errorf("pull templates: %s exists already; --overwrite replaces it", filepath.Join(TemplateDir, e.Name()))
		}
		names = append(names, e.Name())
	}
	if len(names) == 0 {
		return nil, fault.NotFound.Errorf("pull templates: %s has no template %s", source, only)
	}
	for _, name := range names {
		to := filepath.Join(dir, TemplateDir, name)
		if err := os.RemoveAll(to); err != nil {
			return nil, fmt.Errorf("pull templates: %w", err)
		}
		one, err := fs.Sub(fsys, name)
		if err == nil {
			err = os.CopyFS(to, one)
		}
		if err != nil {
			return nil, fmt.Errorf("pull templates: copy %s: %w", name, err)
		}
	}
	return names, nil
}

// gitClone gets a repository, the newest state of one ref of it only. Its
// hooks and file-system monitors are not run, and it asks for no password.
func (f *Factory) gitClone(ctx context.Context, source, to string) error {
	url, ref, _ := strings.Cut(source, "#")
	if strings.HasPrefix(url, "-") || strings.HasPrefix(ref, "-") {
		return fault.Invalid.Errorf("pull templates: %q is neither a directory nor the URL of a git repository", source)
	}
	args := []string{"-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never", "clone", "--quiet", "--depth", "1"}
	if ref != "" {
		args = append(args, "--branch", ref)
	}
	cmd := exec.CommandContext(ctx, "git", append(args, "--", url, to)...)
	cmd.Dir = f.Dir
	cmd.Env = append(append([]string{}, f.Environ...), "GIT_TERMINAL_PROMPT=0")
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return fault.NotFound.Errorf("pull templates: git is not installed, and %s is not a directory", source)
	case ctx.Err() != nil:
		return fmt.Errorf("pull templates from %s: %w", source, context.Cause(ctx))
	}
	return fault.Unavailable.Errorf("pull templates from %s: git: %s", source, lastLine(string(out)))
}

// TemplateFor returns the template of a function of a stack file. One that the
// file says where to find is pulled if it is not there yet.
func (f *Factory) TemplateFor(ctx context.Context, file StackFile, fn stack.Function) (templates.Template, error) {
	if fn.Lang == "dockerfile" {
		return templates.Template{Name: fn.Lang, Kind: templates.Docker, Config: templates.Config{HandlerFolder: "."}}, nil
	}
	t, err := Template(file.Dir, fn.Lang)
	if !errors.Is(err, fault.NotFound) {
		return t, err
	}
	for _, source := range file.Templates {
		if source.Name == fn.Lang && source.Source != "" {
			f.Streams.Notef("pulling template %s from %s\n", source.Name, source.Source)
			if _, err := f.PullTemplates(ctx, source.Source, source.Name, file.Dir, false); err != nil {
				return templates.Template{}, err
			}
			return Template(file.Dir, fn.Lang)
		}
	}
	return t, err
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

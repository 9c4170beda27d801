package function

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/graphene-faas/graphene/cli/command"
)

// settle is how long files must be quiet before they are built: an editor
// writes a file in several steps, and a checkout writes many.
const settle = 200 * time.Millisecond

// watch runs once, and again for each function whose files change, until ctx
// ends, which is no error. What goes wrong is shown and waits for the next
// change.
func (u *up) watch(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch files: %w", err)
	}
	defer w.Close()

	// The watches come first, so that a change during the build is not lost.
	places, err := u.places(ctx)
	if err != nil {
		return err
	}
	places.addTo(w)
	u.attempt(ctx, nil)
	for ctx.Err() == nil {
		u.f.Streams.Notef("watching for changes; Ctrl-C ends it\n")
		changed := u.changes(ctx, w, places)
		if len(changed) == 0 {
			break
		}
		// The stack file may have changed, and directories come and go.
		if next, err := u.places(ctx); err != nil {
			u.show(err)
			continue
		} else {
			places = next
		}
		places.addTo(w)
		if slices.Contains(changed, "") {
			u.attempt(ctx, nil)
			continue
		}
		u.f.Streams.Notef("%s changed\n", strings.Join(changed, ", "))
		u.attempt(ctx, changed)
	}
	return nil
}

func (u *up) attempt(ctx context.Context, only []string) {
	if err := u.run(ctx, only); err != nil && ctx.Err() == nil {
		u.show(err)
	}
}

func (u *up) show(err error) {
	u.f.Streams.Notef("graphene: %s\n", command.Message(err, ""))
}

// places says which function each watched directory belongs to; "" is all of
// them, that of the stack file.
type places map[string]string

// places returns what to watch now.
func (u *up) places(ctx context.Context) (places, error) {
	file, functions, err := u.f.Selected(ctx, u.names)
	if err != nil {
		return nil, err
	}
	p := places{u.f.Path(file.Name): ""}
	for _, path := range file.Copy {
		p[file.Path(u.f, path)] = ""
	}
	for _, fn := range functions {
		if fn.Lang != "" && !fn.SkipBuild {
			p[file.Path(u.f, fn.Handler)] = fn.Name
		}
		for _, env := range fn.EnvironmentFiles {
			p[file.Path(u.f, env)] = fn.Name
		}
	}
	return p, nil
}

// addTo watches the places and every directory below them. A watch that is
// there already is kept; what cannot be watched shows when it is built.
func (p places) addTo(w *fsnotify.Watcher) {
	for place := range p {
		_ = filepath.WalkDir(place, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil
			case !entry.IsDir():
				if path == place {
					// A file is replaced as often as it is written, which only
					// its directory sees.
					_ = w.Add(filepath.Dir(path))
				}
			case path != place && ignored(entry.Name()):
				return fs.SkipDir
			default:
				_ = w.Add(path)
			}
			return nil
		})
	}
}

// ignored reports whether a directory's content never goes into an image.
func ignored(name string) bool {
	return name == "__pycache__" || name == "node_modules" || len(name) > 1 && name[0] == '.'
}

// changes waits for something to change and then to be quiet, and returns the
// functions concerned, "" for all; nothing if ctx ended.
func (u *up) changes(ctx context.Context, w *fsnotify.Watcher, p places) []string {
	var quiet <-chan time.Time // nil, which is never ready, until something changes
	var changed []string
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.Errors:
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				changed = append(changed, "")
				quiet = time.After(settle)
			}
		case e := <-w.Events:
			name, ok := p.owner(e)
			if !ok {
				continue
			}
			if !slices.Contains(changed, name) {
				changed = append(changed, name)
			}
			if e.Has(fsnotify.Create) {
				p.addTo(w) // it may be a directory
			}
			quiet = time.After(settle)
		case <-quiet:
			slices.Sort(changed)
			return changed
		}
	}
}

// owner returns the function that an event concerns.
func (p places) owner(e fsnotify.Event) (name string, ok bool) {
	if e.Op == fsnotify.Chmod || temporary(filepath.Base(e.Name)) {
		return "", false
	}
	for path := e.Name; ; path = filepath.Dir(path) {
		if name, ok := p[path]; ok {
			return name, true
		}
		if ignored(filepath.Base(path)) || path == filepath.Dir(path) {
			return "", false
		}
	}
}

// temporary reports whether a file is an editor's or an interpreter's own.
func temporary(name string) bool {
	return strings.HasSuffix(name, "~") || strings.HasSuffix(name, ".swp") || strings.HasSuffix(name, ".swx") ||
		strings.HasSuffix(name, ".pyc") || name == "4913" || strings.HasPrefix(name, ".#")
}

package templates

import (
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// tmplSuffix ends the names of embedded Go files on disk.
const tmplSuffix = ".tmpl"

// sourceFS shows a part of a template without its hidden names and without
// what interpreters and version control leave behind. It is safe for
// concurrent use if fsys is.
type sourceFS struct {
	fsys    fs.FS
	hidden  []string // names in the root
	renamed bool     // whether .tmpl is taken off the names of files
}

// Open implements [fs.FS].
func (s sourceFS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if s.hides(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if s.renamed && s.isFile(name+tmplSuffix) {
		file, err := s.fsys.Open(name + tmplSuffix)
		if err != nil {
			return nil, err
		}
		return renamedFile{file}, nil
	}
	if s.renamed && strings.HasSuffix(name, tmplSuffix) && s.isFile(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	file, err := s.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	if dir, ok := file.(fs.ReadDirFile); ok {
		if info, err := file.Stat(); err == nil && info.IsDir() {
			return &sourceDir{ReadDirFile: dir, fsys: s, name: name}, nil
		}
	}
	return file, nil
}

func (s sourceFS) isFile(name string) bool {
	info, err := fs.Stat(s.fsys, name)
	return err == nil && info.Mode().IsRegular()
}

// hides reports whether name, or a directory that it is in, is left out.
func (s sourceFS) hides(name string) bool {
	for _, hidden := range s.hidden {
		if name == hidden || strings.HasPrefix(name, hidden+"/") {
			return true
		}
	}
	for element := range strings.SplitSeq(name, "/") {
		if element == "__pycache__" || element == ".git" {
			return true
		}
	}
	return false
}

// entries returns the directory called name, sorted by name.
func (s sourceFS) entries(name string) ([]fs.DirEntry, error) {
	all, err := fs.ReadDir(s.fsys, name)
	if err != nil {
		return nil, err
	}
	var entries []fs.DirEntry
	for _, entry := range all {
		if s.renamed && entry.Type().IsRegular() && strings.HasSuffix(entry.Name(), tmplSuffix) {
			entry = renamedEntry{entry}
		}
		if !s.hides(path.Join(name, entry.Name())) {
			entries = append(entries, entry)
		}
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// sourceDir is an open directory of a sourceFS.
type sourceDir struct {
	fs.ReadDirFile
	fsys   sourceFS
	name   string
	read   bool
	unread []fs.DirEntry
}

// ReadDir implements [fs.ReadDirFile].
func (d *sourceDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		entries, err := d.fsys.entries(d.name)
		if err != nil {
			return nil, err
		}
		d.read, d.unread = true, entries
	}
	if n <= 0 {
		entries := d.unread
		d.unread = nil
		return entries, nil
	}
	if len(d.unread) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.unread))
	entries := d.unread[:n]
	d.unread = d.unread[n:]
	return entries, nil
}

type renamedFile struct{ fs.File }

func (f renamedFile) Stat() (fs.FileInfo, error) {
	info, err := f.File.Stat()
	return renamedInfo{info}, err
}

type renamedEntry struct{ fs.DirEntry }

func (e renamedEntry) Name() string { return strings.TrimSuffix(e.DirEntry.Name(), tmplSuffix) }

func (e renamedEntry) String() string { return fs.FormatDirEntry(e) }

func (e renamedEntry) Info() (fs.FileInfo, error) {
	info, err := e.DirEntry.Info()
	return renamedInfo{info}, err
}

type renamedInfo struct{ fs.FileInfo }

func (i renamedInfo) Name() string { return strings.TrimSuffix(i.FileInfo.Name(), tmplSuffix) }

func (i renamedInfo) String() string { return fs.FormatFileInfo(i) }

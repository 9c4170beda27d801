package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/atomicfile"
	"github.com/graphene-faas/graphene/internal/function"
)

// A record is what the disk knows of one function.
type record struct {
	Ref       function.Ref `json:"ref"`
	CreatedAt time.Time    `json:"created_at"`
	Desired   int          `json:"desired"` // replicas
	UID       int          `json:"uid"`     // of its replicas, where they have one of their own
	// Target is the version deployed last.
	Target version `json:"target"`
	// Proven: a replica of Target has been ready.
	Proven bool `json:"proven"`
	// Stable is the version that was proven last, until Target is. Nil: there
	// is no other.
	Stable *version `json:"stable,omitempty"`
}

// versions returns those that may have to run.
func (r record) versions() []version {
	if r.Stable == nil {
		return []version{r.Target}
	}
	return []version{*r.Stable, r.Target}
}

// A version is one deploy of a function.
type version struct {
	// Revision counts the deploys of the function.
	Revision   int64                    `json:"revision"`
	DeployedAt time.Time                `json:"deployed_at"`
	Spec       types.FunctionDeployment `json:"spec"`
	// Digest names the image that Spec.Image meant then.
	Digest string `json:"digest"`
	// Port of this machine that the function's own server insists on. Empty:
	// every replica is given one, or needs none.
	Port string `json:"port,omitempty"`
	// Foreign: replicas are containers, for the image came from elsewhere.
	Foreign bool `json:"foreign,omitempty"`
}

func (v version) labels() map[string]string      { return deref(v.Spec.Labels) }
func (v version) annotations() map[string]string { return deref(v.Spec.Annotations) }

func deref(m *map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	return *m
}

// A store keeps records, one file per function.
type store struct {
	dir string
	log *slog.Logger
}

const recordFile = "function.json"

func openStore(dir string, log *slog.Logger) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, storage(fmt.Errorf("open function store: %w", err))
	}
	return &store{dir, log}, nil
}

func (s *store) file(ref function.Ref) string {
	return filepath.Join(s.dir, ref.Namespace, ref.Name, recordFile)
}

// save writes rec as a whole or not at all. The error is fault.Storage when
// the disk is full.
func (s *store) save(rec record) error {
	text, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("save %s: %w", rec.Ref, err)
	}
	if err := writeFile(s.file(rec.Ref), text, 0o600); err != nil {
		return storage(fmt.Errorf("save %s: %w", rec.Ref, err))
	}
	return nil
}

// remove forgets a function.
func (s *store) remove(ref function.Ref) error {
	file := s.file(ref)
	err := os.Remove(file)
	if err == nil {
		err = atomicfile.SyncDir(filepath.Dir(file))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget %s: %w", ref, err)
	}
	// Anything else in there was put aside for a person to look at.
	_ = os.Remove(filepath.Dir(file))
	return nil
}

// load returns everything that was saved. A file that cannot be understood is
// reported and moved aside, so that it keeps nobody else from starting.
func (s *store) load() ([]record, error) {
	files, err := filepath.Glob(filepath.Join(s.dir, "*", "*", recordFile))
	if err != nil {
		return nil, fmt.Errorf("look for functions: %w", err)
	}
	var records []record
	for _, file := range files {
		rec, err := s.read(file)
		if err == nil {
			records = append(records, rec)
			continue
		}
		s.log.Error("function cannot be restored; its file is moved aside", "file", file, "err", err)
		if err := os.Rename(file, file+".broken"); err != nil {
			return nil, fmt.Errorf("move a broken file aside: %w", err)
		}
	}
	return records, nil
}

func (s *store) read(file string) (record, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return record{}, err
	}
	var rec record
	if err := json.Unmarshal(text, &rec); err != nil {
		return record{}, err
	}
	if err := rec.Ref.Validate(); err != nil {
		return record{}, err
	}
	if s.file(rec.Ref) != file {
		return record{}, fmt.Errorf("it describes %s, which belongs elsewhere", rec.Ref)
	}
	if rec.Target.Digest == "" || rec.Target.Revision < 1 || rec.Desired < 0 {
		return record{}, fmt.Errorf("it is incomplete")
	}
	return rec, nil
}

// writeFile replaces the file called name as a whole or not at all, and makes
// its directory if needed.
func writeFile(name string, content []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(name, content, mode)
}

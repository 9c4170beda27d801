// Package logins keeps the file of gateway credentials that Graphene shares
// with faas-cli, so that logging in with one logs in the other.
//
// The file is ~/.openfaas/config.yml unless [Path] is told otherwise, readable
// by its owner only. It is written as a whole or not at all, under a lock, and
// what it holds for other gateways or other programs is kept.
package logins

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"go.yaml.in/yaml/v3"

	"github.com/graphene-faas/graphene/internal/atomicfile"
	"github.com/graphene-faas/graphene/internal/fault"
)

// A Kind says how a token is sent.
type Kind string

const (
	Basic  Kind = "basic"  // the token is base64 of user:password
	Bearer Kind = "oauth2" // the token is sent as it is
)

// A Login is what proves to one gateway who is calling.
type Login struct {
	Kind  Kind
	Token string
	// Options are kept with the login, in this order. faas-cli leaves them
	// alone.
	Options []Option
}

// An Option is something to remember about a login.
type Option struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"`
}

// Option returns the value of an option, "" if there is none.
func (l Login) Option(name string) string {
	for _, o := range l.Options {
		if o.Name == name {
			return o.Value
		}
	}
	return ""
}

// NewBasic returns the login of a user with a password.
func NewBasic(user, password string) Login {
	return Login{Kind: Basic, Token: base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
}

// UserPassword returns what a basic login consists of; ok is false for other
// logins and for a damaged token.
func (l Login) UserPassword() (user, password string, ok bool) {
	if l.Kind != Basic {
		return "", "", false
	}
	text, err := base64.StdEncoding.DecodeString(l.Token)
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(text), ":")
}

// A File is a file of logins. It need not exist.
type File struct {
	Path string
}

// Path returns where the file of logins is for a process whose environment
// getenv reads and whose working directory is dir: in $OPENFAAS_CONFIG, which
// names a directory or a .yml file, else in ./.openfaas where CI is "true",
// else in ~/.openfaas.
func Path(getenv func(string) string, dir string) (string, error) {
	const name = "config.yml"
	if p := getenv("OPENFAAS_CONFIG"); p != "" {
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		if ext := filepath.Ext(p); ext == ".yml" || ext == ".yaml" {
			return p, nil
		}
		return filepath.Join(p, name), nil
	}
	if getenv("CI") == "true" {
		return filepath.Join(dir, ".openfaas", name), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", fault.Invalid.Errorf("HOME is not set, so there is no place for logins; set it, or set OPENFAAS_CONFIG")
	}
	return filepath.Join(home, ".openfaas", name), nil
}

// CleanURL returns a gateway's address in the form that logins are kept under:
// without a slash at its end, scheme and host in lower case.
func CleanURL(gateway string) string {
	gateway = strings.TrimRight(strings.TrimSpace(gateway), "/")
	scheme, rest, ok := strings.Cut(gateway, "://")
	if !ok {
		return strings.ToLower(gateway)
	}
	host, path, _ := strings.Cut(rest, "/")
	if path != "" {
		path = "/" + path
	}
	return strings.ToLower(scheme+"://"+host) + path
}

// entry is one login as the file has it.
type entry struct {
	Gateway string   `yaml:"gateway"`
	Auth    Kind     `yaml:"auth"`
	Token   string   `yaml:"token"`
	Options []Option `yaml:"options,omitempty"`
}

// Lookup returns the login for gateway; ok is false if there is none.
func (f File) Lookup(gateway string) (l Login, ok bool, err error) {
	doc, err := f.read()
	if err != nil {
		return Login{}, false, err
	}
	l, ok = doc.lookup(gateway)
	return l, ok, nil
}

// Save sets the login for gateway.
func (f File) Save(gateway string, l Login) error {
	return f.change((*flock.Flock).Lock, func(doc *document) error { return doc.set(gateway, l) })
}

// Update replaces the login for gateway by what edit makes of it, unless edit
// fails. It holds the lock meanwhile, so that others who want to change the
// file wait; ctx bounds its own waiting for them. The error is fault.NotFound
// if there is no login.
func (f File) Update(ctx context.Context, gateway string, edit func(Login) (Login, error)) error {
	wait := func(lock *flock.Flock) error {
		_, err := lock.TryLockContext(ctx, lockPoll)
		return err
	}
	return f.change(wait, func(doc *document) error {
		l, ok := doc.lookup(gateway)
		if !ok {
			return fault.NotFound.Errorf("there is no login for %s in %s", CleanURL(gateway), f.Path)
		}
		next, err := edit(l)
		if err != nil {
			return err
		}
		return doc.set(gateway, next)
	})
}

// Remove forgets the login for gateway. The error is fault.NotFound if there
// is none.
func (f File) Remove(gateway string) error {
	return f.change((*flock.Flock).Lock, func(doc *document) error {
		if !doc.remove(gateway) {
			return fault.NotFound.Errorf("there is no login for %s in %s", CleanURL(gateway), f.Path)
		}
		return nil
	})
}

// lockPoll is how often the lock is tried while somebody else has it.
const lockPoll = 20 * time.Millisecond

// change reads the file, lets edit change it, and writes it back, all under a
// lock that other processes respect. An error of edit leaves the file alone.
func (f File) change(wait func(*flock.Flock) error, edit func(*document) error) (err error) {
	dir := filepath.Dir(f.Path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory for logins: %w", err)
	}
	lock := flock.New(f.Path + ".lock")
	if err := wait(lock); err != nil {
		return fmt.Errorf("lock logins: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()

	doc, err := f.read()
	if err != nil {
		return err
	}
	if err := edit(doc); err != nil {
		return err
	}
	text, err := yaml.Marshal(&doc.root)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	if err := atomicfile.Write(f.Path, text, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	return nil
}

// read returns the file's content, that of an empty file if there is none.
func (f File) read() (*document, error) {
	doc := new(document)
	text, err := os.ReadFile(f.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read logins: %w", err)
	}
	if err := yaml.Unmarshal(text, &doc.root); err != nil {
		return nil, fault.Invalid.Errorf("%s is damaged (%w); correct or remove it, then log in again", f.Path, err)
	}
	if doc.root.Kind == 0 {
		doc.root = yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode}}}
	}
	top := doc.root.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		*top = yaml.Node{Kind: yaml.MappingNode}
	}
	if auths := doc.auths(); top.Kind != yaml.MappingNode || auths != nil && auths.Kind != yaml.SequenceNode && auths.Tag != "!!null" {
		return nil, fault.Invalid.Errorf("%s is not a file of logins; correct or remove it, then log in again", f.Path)
	}
	return doc, nil
}

// document is the file as a tree, so that what this program does not know
// survives a change.
type document struct{ root yaml.Node }

// auths returns the list of logins, nil if there is none.
func (d *document) auths() *yaml.Node {
	top := d.root.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value == "auths" {
			return top.Content[i+1]
		}
	}
	return nil
}

// makeAuths returns the list of logins, which it adds if there is none.
func (d *document) makeAuths() *yaml.Node {
	auths := d.auths()
	if auths == nil {
		auths = new(yaml.Node)
		top := d.root.Content[0]
		top.Content = append(top.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "auths"}, auths)
	}
	if auths.Kind != yaml.SequenceNode {
		*auths = yaml.Node{Kind: yaml.SequenceNode}
	}
	auths.Style = 0 // "[]", as an emptied file has it, would go on in one line
	return auths
}

// lookup returns the login for gateway; ok is false if there is none.
func (d *document) lookup(gateway string) (l Login, ok bool) {
	auths := d.auths()
	if auths == nil {
		return Login{}, false
	}
	for _, n := range auths.Content {
		var e entry
		if n.Decode(&e) == nil && CleanURL(e.Gateway) == CleanURL(gateway) {
			return Login{Kind: e.Auth, Token: e.Token, Options: e.Options}, true
		}
	}
	return Login{}, false
}

// set sets the login for gateway.
func (d *document) set(gateway string, l Login) error {
	n := new(yaml.Node)
	if err := n.Encode(entry{Gateway: CleanURL(gateway), Auth: l.Kind, Token: l.Token, Options: l.Options}); err != nil {
		return err
	}
	d.remove(gateway)
	auths := d.makeAuths()
	auths.Content = append(auths.Content, n)
	return nil
}

func (d *document) remove(gateway string) bool {
	auths := d.auths()
	if auths == nil {
		return false
	}
	var kept []*yaml.Node
	for _, n := range auths.Content {
		var e entry
		if n.Decode(&e) == nil && CleanURL(e.Gateway) == CleanURL(gateway) {
			continue
		}
		kept = append(kept, n)
	}
	removed := len(kept) < len(auths.Content)
	auths.Content = kept
	return removed
}

// Package command holds what the commands of the command line have in common:
// the outside world as a value, the flags that all commands take, how a
// gateway and a login for it are found, how the stack file is read, and the
// one table from kinds of errors to exit codes.
//
// A command is a constructor that takes a [Factory] and returns a
// *cobra.Command. There is one package of them for each noun below this one.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
)

// DefaultGateway is where `graphene serve` listens unless it is told
// otherwise.
const DefaultGateway = "http://127.0.0.1:8080"

// maxStackFile bounds a stack file in bytes.
const maxStackFile = 1 << 20

// A Factory is the outside world of a command: streams, environment, working
// directory, and the flags that all commands take. A command reads nothing
// else of the process it runs in.
type Factory struct {
	Streams *term.Streams
	Environ []string // NAME=VALUE
	Dir     string   // working directory, absolute
	Version string   // of this program, such as v0.1.0
	Commit  string
	// Sources are the packages that a Go function links, as image.Options
	// wants them.
	Sources fs.FS
	Flags   Flags

	spoken string // URL of the gateway that a client was made for last
}

// Flags are the flags that all commands take.
type Flags struct {
	StackFile string
	Regex     string
	Filter    string
	EnvSubst  bool

	Gateway     string
	Namespace   string
	Token       string
	TLSNoVerify bool
}

// Add defines the flags in set.
func (f *Flags) Add(set *pflag.FlagSet) {
	set.StringVarP(&f.StackFile, "yaml", "f", "", "path or URL of the stack file (default stack.yaml, then stack.yml)")
	set.StringVar(&f.Regex, "regex", "", "only functions of the stack file whose name matches this regular expression")
	set.StringVar(&f.Filter, "filter", "", "only functions of the stack file whose name matches this pattern with * and ?")
	set.BoolVar(&f.EnvSubst, "envsubst", true, "replace ${VAR} in the stack file")
	set.StringVarP(&f.Gateway, "gateway", "g", "", "URL of the gateway (default: the stack file's, then $OPENFAAS_URL, then "+DefaultGateway+")")
	set.StringVarP(&f.Namespace, "namespace", "n", "", "namespace of the function or secret (default: the stack file's, then the gateway's)")
	set.StringVarP(&f.Token, "token", "k", "", "bearer token for the gateway, instead of the login")
	set.BoolVar(&f.TLSNoVerify, "tls-no-verify", false, "accept any certificate of the gateway")
}

// Getenv returns the value of an environment variable, "" if it is not set.
func (f *Factory) Getenv(name string) string {
	value := ""
	for _, kv := range f.Environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v // of two with one name the later wins, as in a process
		}
	}
	return value
}

// Path returns name as an absolute path, seen from the working directory.
func (f *Factory) Path(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(f.Dir, name)
}

// Rel returns path as a person in the working directory would write it.
func (f *Factory) Rel(path string) string {
	rel, err := filepath.Rel(f.Dir, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return path
	}
	return rel
}

// CacheDir returns the directory for what can be made again. It may not exist.
func (f *Factory) CacheDir() (string, error) {
	if dir := f.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "graphene"), nil
	}
	home := f.Getenv("HOME")
	if home == "" {
		return "", fault.Invalid.Errorf("HOME is not set, so there is no place for a cache; set it, or set XDG_CACHE_HOME")
	}
	return filepath.Join(home, ".cache", "graphene"), nil
}

// ErrNoStack is what Stack returns when there is no stack file where one is
// looked for by default.
var ErrNoStack = fault.NotFound.Errorf("there is no stack.yaml or stack.yml here: make one with \"graphene new NAME --lang go\", or name one with -f FILE")

// A StackFile is a stack file that has been read.
type StackFile struct {
	*stack.Stack
	// Dir is the directory that paths in the file are relative to.
	Dir string
}

// Path returns a path of the stack file as an absolute one: relative to the
// file, or, if nothing is there, to the working directory, which is what
// faas-cli means by it.
func (s StackFile) Path(f *Factory, name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	beside := filepath.Join(s.Dir, name)
	if _, err := os.Stat(beside); err == nil {
		return beside
	}
	if here := f.Path(name); here != beside {
		if _, err := os.Stat(here); err == nil {
			return here
		}
	}
	return beside
}

// Stack reads the stack file that the flags name, or the default one, or
// returns ErrNoStack. Warnings go to Streams.Err.
//
// A file called NAME.yml that does not exist stands for the function NAME of
// the default stack file: tutorials of older versions of OpenFaaS deploy it
// that way.
func (f *Factory) Stack(ctx context.Context) (StackFile, error) {
	name, only, err := f.findStack()
	if err != nil {
		return StackFile{}, err
	}
	text, err := f.readStack(ctx, name)
	if err != nil {
		return StackFile{}, err
	}
	if f.Flags.EnvSubst {
		if text, err = stack.Expand(name, text, f.Getenv); err != nil {
			return StackFile{}, err
		}
	}
	st, err := stack.Parse(name, text)
	if st != nil { // also with an error: what is missing may be there under a misspelt key
		for _, w := range st.Warnings {
			f.Streams.Notef("warning: %s\n", term.Clean(w))
		}
	}
	if err != nil {
		return StackFile{}, err
	}
	file := StackFile{Stack: st, Dir: f.Dir}
	if !stack.IsURL(name) {
		file.Dir = filepath.Dir(f.Path(name))
	}
	if only == "" {
		return file, nil
	}
	fn, ok := st.Function(only)
	if !ok {
		return StackFile{}, fault.NotFound.Errorf("there is no %s, and %s has no function %q", f.Flags.StackFile, name, only)
	}
	f.Streams.Notef("there is no %s; using function %q of %s\n", f.Flags.StackFile, only, name)
	st.Functions = []stack.Function{fn}
	return file, nil
}

// findStack returns the stack file's name, and the one function that it is
// about if it is not about all.
func (f *Factory) findStack() (name, only string, err error) {
	asked := f.Flags.StackFile
	if stack.IsURL(asked) {
		return asked, "", nil
	}
	if asked != "" {
		_, err := os.Stat(f.Path(asked))
		if err == nil {
			return asked, "", nil
		}
		only = stack.NamedFunction(asked)
		if !errors.Is(err, fs.ErrNotExist) || only == "" {
			return "", "", fault.NotFound.Errorf("read the stack file: %w", err)
		}
	}
	dir := filepath.Dir(asked) // "." for no file
	for _, file := range stack.DefaultFiles {
		file = filepath.Join(dir, file)
		if _, err := os.Stat(f.Path(file)); err == nil {
			return file, only, nil
		}
	}
	if asked != "" {
		return "", "", fault.NotFound.Errorf("there is no stack file %s", asked)
	}
	return "", "", ErrNoStack
}

func (f *Factory) readStack(ctx context.Context, name string) ([]byte, error) {
	if stack.IsURL(name) {
		return f.fetch(ctx, name)
	}
	file, err := os.Open(f.Path(name))
	if err != nil {
		return nil, fmt.Errorf("read the stack file: %w", err)
	}
	defer file.Close()
	return readAtMost(file, name)
}

// fetch reads a stack file from the web.
func (f *Factory) fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fault.Invalid.Errorf("stack file: %w", err)
	}
	resp, err := new(http.Client).Do(req)
	if err != nil {
		return nil, fault.Unavailable.Errorf("fetch the stack file: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fault.NotFound.Errorf("fetch the stack file: %s answers %s", url, resp.Status)
	}
	return readAtMost(resp.Body, url)
}

func readAtMost(r io.Reader, name string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxStackFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the stack file %s: %w", name, err)
	}
	if len(text) > maxStackFile {
		return nil, fault.Invalid.Errorf("%s has more than %d bytes; that is no stack file", name, maxStackFile)
	}
	return text, nil
}

// Selected returns the stack file and those of its functions that names and
// the flags pick.
func (f *Factory) Selected(ctx context.Context, names []string) (StackFile, []stack.Function, error) {
	file, err := f.Stack(ctx)
	if err != nil {
		return StackFile{}, nil, err
	}
	functions, err := file.Select(stack.Selection{Names: names, Filter: f.Flags.Filter, Regex: f.Flags.Regex})
	return file, functions, err
}

// Gateway returns the URL of the gateway: the flag's, or the stack file's, or
// $OPENFAAS_URL, or the default. A stack file that names the default says
// nothing: `new` writes it into every one.
func (f *Factory) Gateway(ctx context.Context) (string, error) {
	if f.Flags.Gateway != "" {
		return checkGateway(f.Flags.Gateway, "--gateway")
	}
	file, err := f.Stack(ctx)
	if err != nil && !errors.Is(err, ErrNoStack) {
		return "", err
	}
	return f.GatewayOf(file)
}

// GatewayOf is Gateway for a stack file that has been read. Its zero value
// stands for none.
func (f *Factory) GatewayOf(file StackFile) (string, error) {
	if f.Flags.Gateway != "" {
		return checkGateway(f.Flags.Gateway, "--gateway")
	}
	if file.Stack != nil && file.Provider.Gateway != "" && logins.CleanURL(file.Provider.Gateway) != DefaultGateway {
		return checkGateway(file.Provider.Gateway, "provider.gateway of "+file.Name)
	}
	if url := f.Getenv("OPENFAAS_URL"); url != "" {
		return checkGateway(url, "OPENFAAS_URL")
	}
	return DefaultGateway, nil
}

func checkGateway(url, from string) (string, error) {
	clean := logins.CleanURL(url)
	if !stack.IsURL(clean) {
		return "", Usagef("%s is %q; a gateway's address begins with http:// or https://", from, url)
	}
	return clean, nil
}

// Logins returns the file of logins.
func (f *Factory) Logins() (logins.File, error) {
	path, err := logins.Path(f.Getenv, f.Dir)
	return logins.File{Path: path}, err
}

// Client returns a client of the gateway that Gateway names, with the token
// of the flag or the login that is kept for it.
func (f *Factory) Client(ctx context.Context) (*client.Client, error) {
	url, err := f.Gateway(ctx)
	if err != nil {
		return nil, err
	}
	return f.ClientOf(url)
}

// Namespace returns the namespace to use for something that has its own
// opinion on it, which may be "": the flag wins.
func (f *Factory) Namespace(own string) string {
	if f.Flags.Namespace != "" {
		return f.Flags.Namespace
	}
	return own
}

// WarnInsecure says on Streams.Err when a login would travel in clear text
// through a network.
func (f *Factory) WarnInsecure(gateway string) {
	host, ok := strings.CutPrefix(gateway, "http://")
	if !ok {
		return
	}
	host, _, _ = strings.Cut(host, "/")
	for _, local := range []string{"127.", "localhost", "[::1]"} {
		if strings.HasPrefix(host, local) {
			return
		}
	}
	f.Streams.Notef("warning: %s has no TLS; logins and functions' data can be read on the way\n", gateway)
}

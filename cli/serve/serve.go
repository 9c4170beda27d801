// Package serve assembles the embedded size: gateway, provider, the runtime of
// processes and an OCI registry in one process, with everything that must
// survive a restart in one directory.
//
// Nothing is implemented here twice: the parts are those of a cluster, with
// the network between them taken out. Start with [Run]; [NewCommand] is the
// command line in front of it, and [Reexec] what this program does when the
// platform starts it again for a replica.
package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/openfaas/faas-provider/types"
	"golang.org/x/sync/errgroup"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/auth"
	gatewaymetrics "github.com/graphene-faas/graphene/gateway/metrics"
	"github.com/graphene-faas/graphene/gateway/quota"
	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/signkey"
	"github.com/graphene-faas/graphene/internal/web"
	"github.com/graphene-faas/graphene/provider"
	"github.com/graphene-faas/graphene/provider/local"
)

// Options are what a platform needs besides its configuration.
type Options struct {
	Config
	Version types.VersionInfo
	// Executable is this program, which the platform starts again for
	// replicas; see [Reexec].
	Executable string
	// Getenv reads the environment that says where directories of this user are.
	Getenv func(string) string
	// LogIn keeps the administrator's password for the command line. Nil: nobody
	// is logged in.
	LogIn func(gateway, user, password string) error
	// Stdout gets a line with the address when the platform can be called.
	Stdout io.Writer
	Log    *slog.Logger
}

// Run serves a platform until ctx ends; then calls in flight finish, replicas
// stop, and it returns nil. Its errors say what to do about a directory or a
// port that is taken.
func Run(ctx context.Context, o Options) (err error) {
	began := time.Now()
	scaling, err := o.Scaling.Defaults(runtime.NumCPU())
	if err != nil {
		return err
	}
	dir, err := openDataDir(cmp.Or(o.DataDir, defaultDataDir(os.Getuid(), o.Getenv)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	listener, err := listenGateway(ctx, o.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	metrics, err := listenMetrics(ctx, o.MetricsListen)
	if err != nil {
		return err
	}
	if metrics != nil {
		defer metrics.Close()
	}
	proxies, err := o.Proxies()
	if err != nil {
		return err
	}
	encrypted, tlsConfig, err := o.Encrypted(o.Log)
	if err != nil {
		return err
	}
	if encrypted != nil {
		defer encrypted.Close()
	}
	tracer, err := trace.Open(ctx, o.Settings, "graphene", o.Version.Release, o.Log)
	if err != nil {
		return err
	}
	defer func() { _ = tracer.Close(ctx) }() // the log has said what was lost
	counted := gatewaymetrics.NewQueue()
	calls, err := openQueue(ctx, dir.join("queue"), o, counted)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, calls.Close()) }()
	user, password, created, err := auth.EnsureCredentials(dir.join("auth"))
	if err != nil {
		return err
	}
	url := address(listener)
	public, err := gateway.ParsePublicURL(cmp.Or(o.PublicURL, url))
	if err != nil {
		return fault.Invalid.Errorf("--public-url: %w", err)
	}
	signing := &signkey.File{Path: dir.join("auth/issuer.key")}
	keys, err := auth.OpenSigningKeys(auth.SigningKeysOptions{File: signing, MaxAge: signingKeyAge, Log: o.Log})
	if err != nil {
		return err
	}
	var tokens *auth.Tokens
	identity := gatewaymetrics.NewIdentity()
	if o.AuthConfig != "" {
		if tokens, err = auth.OpenTokens(auth.TokensOptions{File: o.AuthConfig, Keys: keys, URL: public.String(), Meter: identity, Log: o.Log}); err != nil {
			return fmt.Errorf("--auth-config: %w", err)
		}
	}
	usage, err := quota.NewBucket(calls.conn, 1)
	if err != nil {
		return err
	}
	limits, account, err := o.Metering(o.AuthConfig != "", usage, nil, o.Log)
	if err != nil {
		return err
	}
	var audited slog.Handler
	if file, err := o.Audit(); err != nil {
		return err
	} else if file != nil {
		defer file.Close()
		audited = file.Handler()
	}
	registry, err := newRegistry(ctx, registryOptions{dir: dir.join("registry"), maxBlob: int64(o.MaxUpload), log: o.Log})
	if err != nil {
		return err
	}
	sockets, err := socketDir(dir.path, o.Getenv)
	if err != nil {
		return err
	}
	defer os.Remove(sockets) // fails, and may, while a replica that would not end has its socket there
	python := &pythonFinder{}
	calling := &traffic{}
	functions, err := local.New(local.Options{
		Dir:       dir.join("runtime"),
		SocketDir: sockets,
		Images:    registry,
		Watchdog:  []string{o.Executable, watchdogRole},
		Helper:    []string{o.Executable, helperRole},
		Python:    python.find,
		Traffic:   calling,
		Keep:      local.Keep{Frozen: o.KeepFrozen.Std(), Zygote: o.KeepZygote.Std()},
		MaxMemory: int64(o.Memory),
		Log:       o.Log,
	})
	if err != nil {
		return err
	}
	python.look = choosePython(functions.ReachesClosed()) // nobody asks before something is deployed
	apiKeys, err := local.OpenAPIKeys(dir.join("auth/api-keys.json"))
	if err != nil {
		return err
	}
	janitor := newJanitor(functions, registry, o.Log)
	functionsAPI := provider.New(provider.Options{
		Runtime:     janitor,
		Secrets:     functions,
		Logs:        functions,
		Namespaces:  functions,
		APIKeys:     apiKeys,
		SigningKeys: signing,
		Objects:     apiKeys,
		Info:        types.ProviderInfo{Name: "graphene-local", Orchestration: "process", Version: &o.Version},
		Log:         o.Log,
	})
	front := gateway.New(gateway.Options{
		Listener:        listener,
		MetricsListener: metrics,
		TLSListener:     encrypted,
		TLS:             tlsConfig,
		Proxies:         proxies,
		Provider:        web.InProcess(functionsAPI.Handler()),
		Authenticator:   auth.NewBasic(user, password),
		Tokens:          tokens,
		Keys:            keys,
		PublicURL:       public,
		SessionMaxAge:   o.SessionMaxAge.Std(),

		TrustFunctionPages: o.TrustFunctionPages,

		IdentityMetrics: identity,
		Limits:          limits,
		Account:         account,
		Audit:           audited,
		Registry:        registry,
		Queue:           calls.Queue,
		QueueMetrics:    counted,
		Tracer:          tracer,
		Version:         o.Version,
		Target:          python.target,
		ReadTimeout:     o.ReadTimeout.Std(),
		WriteTimeout:    o.WriteTimeout.Std(),
		Drain:           o.Drain.Std(),
		MaxHeaderBytes:  int(o.MaxHeader),
		MaxBody:         int64(o.MaxBody),
		MaxWaiting:      o.MaxWaiting,
		WakeTimeout:     o.WakeTimeout.Std(),
		Scaling:         scaling,
		ScalingOff:      !o.Autoscale,
		Log:             o.Log,
	})
	calling.Traffic = front.Table()
	// The worker's calls were allowed when they were accepted, which it proves.
	toFront := &auth.Transport{Header: "Proxy-Authorization", User: user, Password: password, Next: web.InProcess(front.Handler())}
	worker, err := calls.worker(o, toFront, url, tracer)
	if err != nil {
		return err
	}

	if o.Login && o.LogIn != nil {
		if err := o.LogIn(url, user, password); err != nil {
			o.Log.Warn("the command line could not be logged in", "gateway", url, "err", err)
		}
	}
	if created {
		o.Log.Info("administrator created", "user", user, "password_file", dir.join("auth/basic-auth-password"))
	}
	if encrypted != nil {
		o.Log.Info("the gateway answers over TLS too", "address", encrypted.Addr())
	}
	if metrics != nil {
		o.Log.Info("metrics are served", "address", metrics.Addr())
	}
	o.Log.Info("replicas are isolated as far as this machine allows", "isolation", functions.Isolation())

	group, ctx := errgroup.WithContext(ctx)
	// Calls in flight need their replicas: what is behind the gateway stops
	// after it.
	behind, stopBehind := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBehind()
	group.Go(func() error { return functions.Run(behind) })
	group.Go(func() error { return functionsAPI.Run(behind) })
	group.Go(func() error { return janitor.run(behind) })
	// The worker's calls need the gateway, which therefore stops after it; what
	// is submitted meanwhile is kept for the next start.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	group.Go(func() error {
		defer stopServing()
		return worker.Run(ctx)
	})
	group.Go(func() error {
		defer stopBehind()
		return front.Run(serving)
	})
	group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-time.After(settling):
			if err := trim(); err != nil {
				o.Log.Debug("the program stays in memory as a whole", "err", err)
			}
		}
		return nil
	})
	fmt.Fprintf(o.Stdout, "Graphene %s is ready at %s after %d ms; data in %s\n", o.Version.Release, url, time.Since(began).Milliseconds(), dir.path)
	err = group.Wait()
	o.Log.Info("platform stopped")
	return err
}

// signingKeyAge is how old a key becomes that signs the platform's own tokens.
const signingKeyAge = 90 * 24 * time.Hour

// traffic is the gateway's table of calls, which the runtime asks and which
// there is only after it.
type traffic struct{ local.Traffic }

// settling is how long the parts go on starting after the platform is ready.
const settling = 2 * time.Second

// listenGateway opens the gateway's port, or takes the one that systemd has
// opened, which callers reach also while no platform runs.
func listenGateway(ctx context.Context, addr string) (net.Listener, error) {
	if addr != "systemd" {
		return listen(ctx, addr, "--listen")
	}
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fault.Invalid.Errorf("--listen systemd: %w", err)
	}
	if len(passed) != 1 {
		return nil, fault.Invalid.Errorf("--listen systemd: systemd passes %d sockets, want one: a .socket unit of the same name with one ListenStream", len(passed))
	}
	if passed[0] == nil || passed[0].Addr().Network() != "tcp" {
		return nil, fault.Invalid.Errorf("--listen systemd: the socket is not one of TCP: ListenStream needs ADDRESS:PORT")
	}
	return passed[0], nil
}

// listen opens a port, or says which flag chooses another.
func listen(ctx context.Context, addr, flag string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fault.Exists.Errorf("%w: another program has the port, choose one with %s (port 0 takes a free one)", err, flag)
	}
	if err != nil {
		return nil, fault.Invalid.Errorf("%w: choose another address with %s", err, flag)
	}
	return l, nil
}

func listenMetrics(ctx context.Context, addr string) (net.Listener, error) {
	if addr == "off" {
		return nil, nil
	}
	return listen(ctx, addr, "--metrics-listen")
}

// address returns the URL at which programs of this machine reach l.
func address(l net.Listener) string {
	tcp := l.Addr().(*net.TCPAddr)
	host := tcp.IP.String()
	if tcp.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, fmt.Sprint(tcp.Port))
}

// socketDir makes the directory for replicas' sockets: outside the data
// directory, whose path may be too long for them, but always the same for the
// same data, so that what a killed platform left is found again. A directory
// of that name that somebody else made is refused.
func socketDir(data string, getenv func(string) string) (string, error) {
	parent := "/run"
	if os.Getuid() != 0 || !isDir(parent) {
		if parent = getenv("XDG_RUNTIME_DIR"); !filepath.IsAbs(parent) || !isDir(parent) {
			parent = os.TempDir()
		}
	}
	real, err := filepath.Abs(data)
	if err != nil {
		return "", err
	}
	hash := fnv.New32a()
	fmt.Fprintf(hash, "%d %s", os.Getuid(), real)
	dir := filepath.Join(parent, fmt.Sprintf("graphene-%08x", hash.Sum32()))
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("directory for sockets: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("directory for sockets: %w", err)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || ok && int(owner.Uid) != os.Getuid() {
		return "", fault.Denied.Errorf("%s was not made by this user: remove it, or set XDG_RUNTIME_DIR to a directory of your own", dir)
	}
	return dir, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// host is what images without Python must be built for.
func host() function.Target { return function.Target{OS: runtime.GOOS, Arch: runtime.GOARCH} }

// newLog returns the logger that configuration asks for.
func newLog(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fault.Invalid.Errorf("log level is %q, want debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: l}
	switch strings.ToLower(format) {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fault.Invalid.Errorf("log format is %q, want text or json", format)
}

var _ http.Handler = (*registry)(nil)

package auth

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/cli/browser"
	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/cli/signin"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/openid"
)

const (
	// maxPassword bounds what is read as a password or a client's secret, in
	// bytes.
	maxPassword = 4096
	// maxToken bounds what is read as a token.
	maxToken = 64 << 10
)

type loginOptions struct {
	f *command.Factory

	username      string
	password      string
	passwordStdin bool
	tokenStdin    bool

	issuer      string
	clientID    string
	secretFile  string
	secretStdin bool
	scopes      []string
	audiences   []string
	device      bool
	noBrowser   bool
	port        int
	noExchange  bool

	timeout time.Duration
	wait    time.Duration
}

func loginCommand(f *command.Factory) *cobra.Command {
	o := &loginOptions{f: f}
	cmd := &cobra.Command{
		Use:     "login",
		Short:   "Log in to a gateway",
		GroupID: "platform",
		Long: `Proves to a gateway who you are, and keeps the proof for the commands that
follow, in the file that faas-cli uses too: ~/.openfaas/config.yml, or what
$OPENFAAS_CONFIG names.

How you log in is up to the gateway. If it trusts an issuer, such as Keycloak or
Entra ID, your browser opens and you log in there. Without a browser on this
machine you get an address and a code to enter it with on another (--device).
If it trusts none, you are asked for the password of a user.

Programs log in with --client-id and --client-secret-file, or with --token-stdin.

Logins by an issuer are prolonged by themselves as long as the issuer allows.
"graphene whoami" says who you are, "graphene logout" ends a login.

"graphene serve" logs its own user in when it starts.`,
		Example: `  graphene login --gateway https://functions.example.com
  graphene login --gateway https://functions.example.com --device
  graphene login --client-id pipeline --client-secret-file secret.txt
  cat password.txt | graphene login --username admin --password-stdin
  cat token.txt | graphene login --token-stdin`,
		Args: command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.username, "username", "u", "admin", "user, to log in with a password")
	flags.StringVarP(&o.password, "password", "p", "", "password; others on this machine can see it in the list of processes")
	flags.BoolVarP(&o.passwordStdin, "password-stdin", "s", false, "read the password from standard input")
	flags.BoolVar(&o.tokenStdin, "token-stdin", false, "read a bearer token from standard input, and keep it")
	flags.StringVar(&o.issuer, "issuer", "", "issuer to log in with: its URL, or its name at the gateway (default: the gateway's only one)")
	flags.StringVar(&o.clientID, "client-id", "", "client to log in by (default: the one that the gateway names)")
	flags.StringVar(&o.secretFile, "client-secret-file", "", "log in as a program, with the client's secret in this file")
	flags.BoolVar(&o.secretStdin, "client-secret-stdin", false, "log in as a program, with the client's secret from standard input; it is not kept")
	flags.StringSliceVar(&o.scopes, "scope", nil, "scopes to ask for besides openid (default: the gateway's)")
	flags.StringSliceVar(&o.audiences, "audience", nil, "audiences of tokens for the gateway, one of which is enough (default: the gateway's)")
	flags.BoolVar(&o.device, "device", false, "log in on another machine, with a code")
	flags.BoolVar(&o.noBrowser, "no-browser", false, "print the address to log in at, and open no browser")
	flags.IntVar(&o.port, "redirect-port", 0, "port of this machine that the browser comes back to (default: the gateway's, or a free one)")
	flags.BoolVar(&o.noExchange, "no-exchange", false, "keep the issuer's token, also if the gateway makes tokens of its own")
	flags.DurationVar(&o.timeout, "timeout", 5*time.Second, "longest time the gateway may take")
	flags.DurationVar(&o.wait, "wait", 10*time.Minute, "longest time that you may take to log in elsewhere")
	return cmd
}

func (o *loginOptions) run(cmd *cobra.Command) error {
	ctx := cmd.Context()
	if err := oneOf(cmd, "password", "password-stdin", "token-stdin", "client-secret-file", "client-secret-stdin", "device", "no-browser"); err != nil {
		return err
	}
	gateway, err := o.f.Gateway(ctx)
	if err != nil {
		return err
	}
	o.f.WarnInsecure(gateway)
	switch changed := cmd.Flags().Changed; {
	case o.f.Flags.Token != "" || o.tokenStdin:
		return o.byToken(ctx, gateway)
	case changed("username") || changed("password") || o.passwordStdin:
		return o.byPassword(ctx, gateway)
	}
	session, err := o.session(ctx, gateway)
	if err != nil {
		return err
	}
	if session == nil {
		return o.byPassword(ctx, gateway)
	}
	if err := o.flow(ctx, gateway, session); err != nil {
		return err
	}
	return o.keep(ctx, gateway, session.Login())
}

// oneOf refuses flags that say different things about how to log in.
func oneOf(cmd *cobra.Command, names ...string) error {
	var given []string
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			given = append(given, "--"+name)
		}
	}
	if len(given) > 1 {
		return command.Usagef("%s exclude each other", strings.Join(given, " and "))
	}
	return nil
}

func (o *loginOptions) byToken(ctx context.Context, gateway string) error {
	token := o.f.Flags.Token
	if o.tokenStdin {
		var err error
		if token, err = o.readStdin("token", maxToken); err != nil {
			return err
		}
	}
	return o.keep(ctx, gateway, (&signin.Session{Flow: signin.Given, Token: token}).Login())
}

func (o *loginOptions) byPassword(ctx context.Context, gateway string) error {
	password, err := o.readPassword()
	if err != nil {
		return err
	}
	if o.username == "" || strings.Contains(o.username, ":") {
		return command.Usagef("--username is %q; it must not be empty, or have a colon", o.username)
	}
	return o.keep(ctx, gateway, logins.NewBasic(o.username, password))
}

// keep keeps a login that the gateway accepts.
func (o *loginOptions) keep(ctx context.Context, gateway string, login logins.Login) error {
	c, err := o.f.ClientWith(gateway, login)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if _, err := c.Functions(ctx, ""); errors.Is(err, fault.Unauthenticated) {
		return fault.Denied.Errorf("log in to %s: the gateway refuses these credentials%s", gateway, because(err, login))
	} else if err != nil && !errors.Is(err, fault.Denied) { // who may not list may still be who they say
		return err
	}
	file, err := o.f.Logins()
	if err != nil {
		return err
	}
	if err := file.Save(gateway, login); err != nil {
		return err
	}
	o.f.Streams.Printf("logged in to %s%s; the login is kept in %s\n", gateway, as(login), file.Path)
	return nil
}

// because says why a gateway refuses a token, if it says so: of a password
// there is nothing to say.
func because(err error, login logins.Login) string {
	said, ok := errors.AsType[*client.Error](err)
	if !ok || login.Kind != logins.Bearer || said.Text == "" || said.Text == "invalid credentials" {
		return ""
	}
	return ": " + said.Text
}

// as says who a login is, if it says so itself.
func as(login logins.Login) string {
	claims, err := openid.Read(login.Token)
	if err != nil || claims.Who() == "" {
		return ""
	}
	return " as " + term.Clean(claims.Who())
}

// session returns what is to be logged in with; nil is a password.
func (o *loginOptions) session(ctx context.Context, gateway string) (*signin.Session, error) {
	program := o.secretFile != "" || o.secretStdin
	s := &signin.Session{
		Issuer:    o.issuer,
		Client:    openid.Client{ID: o.clientID, Scopes: o.scopes},
		Audiences: o.audiences,
	}
	known, err := o.known(ctx, gateway)
	if err != nil {
		return nil, err
	}
	s.Exchange = known.TokenExchange && !o.noExchange
	if len(known.Issuers) == 0 && o.issuer == "" {
		if program || o.clientID != "" || o.device || o.noBrowser {
			return nil, command.Usagef("the gateway %s names no issuer to log in with; name one with --issuer URL", gateway)
		}
		return nil, nil
	}
	if !isURL(o.issuer) {
		// A program has a client of its own, so any issuer will do for it.
		issuer, err := choose(known.Issuers, o.issuer, program || o.clientID != "")
		if err != nil {
			return nil, err
		}
		s.Issuer = issuer
	}
	for _, i := range known.Issuers {
		if i.Issuer != s.Issuer {
			continue
		}
		if len(s.Audiences) == 0 {
			s.Audiences = i.Audiences
		}
		if s.Client.ID == "" && !program {
			s.Client.ID, s.Client.Parameters = i.ClientID, i.Parameters
			if len(s.Client.Scopes) == 0 {
				s.Client.Scopes = i.Scopes
			}
			if o.port == 0 {
				o.port = i.RedirectPort
			}
		}
	}
	if s.Client.ID == "" {
		return nil, command.Usagef("the gateway names no client of %s to log in by; name one with --client-id", s.Issuer)
	}
	if program {
		return s, o.readSecret(s)
	}
	return s, nil
}

// known asks the gateway how people log in.
func (o *loginOptions) known(ctx context.Context, gateway string) (client.LoginConfig, error) {
	c, err := o.f.ClientWith(gateway, logins.Login{})
	if err != nil {
		return client.LoginConfig{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	return c.LoginConfig(ctx)
}

func isURL(text string) bool {
	return strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://")
}

// choose returns the issuer of a name, or the only one there is to log in
// with. Without hasClient it must be one for which the gateway names a client.
func choose(all []client.LoginIssuer, name string, hasClient bool) (string, error) {
	var names []string
	var fit []client.LoginIssuer
	for _, i := range all {
		if i.Name == name {
			return i.Issuer, nil
		}
		if hasClient || i.ClientID != "" {
			fit, names = append(fit, i), append(names, i.Name)
		}
	}
	switch {
	case name != "":
		return "", command.Usagef("--issuer is %q, and the gateway trusts none of that name; it has %s", name, strings.Join(namesOf(all), ", "))
	case len(fit) == 1:
		return fit[0].Issuer, nil
	case len(fit) == 0:
		return "", command.Usagef("the gateway trusts %s, and names no client to log in by; name one with --client-id", strings.Join(namesOf(all), ", "))
	}
	slices.Sort(names)
	return "", command.Usagef("the gateway trusts several issuers; choose one with --issuer: %s", strings.Join(names, ", "))
}

func namesOf(all []client.LoginIssuer) []string {
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	return names
}

// readSecret reads the secret of a program.
func (o *loginOptions) readSecret(s *signin.Session) (err error) {
	if o.secretFile != "" {
		s.SecretFile = o.f.Path(o.secretFile)
		return nil // read when it is used
	}
	s.Client.Secret, err = o.readStdin("secret", maxPassword)
	return err
}

// flow logs in.
func (o *loginOptions) flow(ctx context.Context, gateway string, s *signin.Session) error {
	w := o.f.World(gateway)
	if o.secretFile != "" || o.secretStdin {
		return s.Program(ctx, w)
	}
	ctx, cancel := context.WithTimeout(ctx, o.wait)
	defer cancel()
	open := o.opener()
	device := o.device
	if !device && open == nil && !o.noBrowser {
		if device = s.HasDevice(ctx, w); device {
			o.f.Streams.Notef("there is no browser on this machine; log in on another\n")
		}
	}
	var err error
	if device {
		err = s.Device(ctx, w, o.show)
	} else {
		err = s.Browser(ctx, w, signin.BrowserOptions{Port: o.port, Open: func(url string) { o.open(open, url) }})
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		return fault.Timeout.Errorf("nobody has logged in within %v; allow more time with --wait", o.wait)
	}
	return err
}

// opener returns what opens the browser of this machine; nil if it seems to
// have none.
func (o *loginOptions) opener() func(url string) error {
	if o.noBrowser {
		return nil
	}
	if program := o.f.Getenv("BROWSER"); program != "" {
		return func(url string) error {
			cmd := exec.Command(program, url) //nolint:gosec // it is the person's own
			cmd.Env = o.f.Environ
			if err := cmd.Start(); err != nil {
				return err
			}
			go func() { _ = cmd.Wait() }() // it may stay open longer than this program
			return nil
		}
	}
	remote := o.f.Getenv("SSH_CONNECTION") != ""
	if runtime.GOOS == "linux" && (remote || o.f.Getenv("DISPLAY") == "" && o.f.Getenv("WAYLAND_DISPLAY") == "") {
		return nil
	}
	return browser.OpenURL
}

// open opens a browser, or says where to go with one.
func (o *loginOptions) open(opener func(string) error, url string) {
	if opener != nil {
		o.f.Streams.Notef("your browser opens; if it does not, log in at\n\n  %s\n\n", url)
		if err := opener(url); err == nil {
			return
		}
	}
	o.f.Streams.Notef("log in with a browser of this machine at\n\n  %s\n\n", url)
	if opener == nil {
		o.f.Streams.Notef("with a browser of another machine, use --device; or have ssh forward the port: ssh -L PORT:127.0.0.1:PORT, and --redirect-port PORT\n")
	}
}

// show tells a person how to log in elsewhere.
func (o *loginOptions) show(code openid.DeviceCode) {
	o.f.Streams.Notef("log in at\n\n  %s\n\nwith the code\n\n  %s\n\n", term.Clean(code.URL), term.Clean(code.Code))
	if code.Complete != "" {
		o.f.Streams.Notef("or, with the code in it, at\n\n  %s\n\n", term.Clean(code.Complete))
	}
	o.f.Streams.Notef("waiting for you to log in …\n")
}

// readStdin reads a secret of a kind from standard input.
func (o *loginOptions) readStdin(kind string, longest int64) (string, error) {
	text, err := io.ReadAll(io.LimitReader(o.f.Streams.In, longest+1))
	if err != nil {
		return "", err
	}
	secret := strings.Trim(string(text), " \t\r\n")
	if secret == "" || int64(len(secret)) > longest {
		return "", command.Usagef("standard input holds no %s: it has %d bytes", kind, len(text))
	}
	return secret, nil
}

func (o *loginOptions) readPassword() (string, error) {
	switch {
	case o.passwordStdin:
		return o.readPasswordStdin()
	case o.password != "":
		return o.password, nil
	case o.f.Streams.InTTY:
		password, err := o.f.Streams.ReadPassword("password of " + o.username + ": ")
		if err == nil && password == "" {
			err = command.Usagef("the password is empty")
		}
		return password, err
	}
	return "", command.Usagef("give the password with --password-stdin, or --password")
}

// readPasswordStdin reads a password, of which spaces are a part.
func (o *loginOptions) readPasswordStdin() (string, error) {
	text, err := io.ReadAll(io.LimitReader(o.f.Streams.In, maxPassword+1))
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" || len(password) > maxPassword {
		return "", command.Usagef("standard input holds no password: it has %d bytes", len(text))
	}
	return password, nil
}

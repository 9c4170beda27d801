package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
)

const (
	// maxToken is the longest token that is looked at, in bytes. Those of
	// people in hundreds of groups stay below it.
	maxToken = 16 << 10
	// cacheSize is how many verified tokens are remembered at least.
	cacheSize = 10_000
	// rulesPoll is how often the file of rules is looked at. A new text counts
	// when it is there twice in a row: one that is being written is not whole,
	// and what is missing from it may be the condition of a right.
	rulesPoll = time.Second
	// tokenUser is the user name whose password is a token, for clients that
	// know only basic authentication, such as those of registries.
	tokenUser = "token"
)

// TokensOptions are what [Tokens] need.
type TokensOptions struct {
	// File is where the rules are; "" is nowhere, if Told.
	File string
	// Told says that there are rules besides those in the file, which are told
	// by [Tokens.SetObject]. Until all of them are, nobody is known.
	Told bool
	// Keys sign the platform's own tokens; nil makes none, and believes none.
	Keys *SigningKeys
	// URL is where callers reach the platform, without a slash at the end: the
	// issuer and the audience of its own tokens.
	URL string
	// Transport carries requests to issuers; nil is a transport over the
	// network that trusts what the rules say.
	Transport http.RoundTripper
	Meter     Meter        // nil counts nothing
	Log       *slog.Logger // nil logs nothing
}

// A Meter is told how identity is doing. It is safe for concurrent use.
type Meter interface {
	// Rules tells whether the file of rules could be read the last time it
	// changed.
	Rules(valid bool)
	// Issuer tells whether an issuer answered when it was last asked.
	Issuer(name string, answers bool)
	// IssuerGone tells that an issuer is not trusted any more.
	IssuerGone(name string)
	// Refused counts a token that was refused. The issuer is "" if it is none
	// of the trusted ones.
	Refused(issuer string)
}

type noMeter struct{}

func (noMeter) Rules(bool)          {}
func (noMeter) Issuer(string, bool) {}
func (noMeter) IssuerGone(string)   {}
func (noMeter) Refused(string)      {}

// Tokens knows the bearers of tokens of trusted issuers, by a file of rules
// that may change while it is used. It is safe for concurrent use.
//
// Its tokens are JWTs in the header Authorization, with the scheme Bearer or as
// the password of the user "token". A token that was verified is remembered
// until it ends or its issuer's keys change.
type Tokens struct {
	o     TokensOptions
	own   *issuer // the platform itself; nil without Options.Keys
	state atomic.Pointer[state]

	known atomic.Bool // all rules have been told

	mu      sync.Mutex // guards what follows, and that state fits to it
	text    []byte     // of the file
	file    *iam.Rules // what it says
	told    told
	changed chan struct{} // says that there is another state
}

// told are rules that were told one by one.
type told struct {
	synced   bool // all of them
	issuers  map[string]*iam.Issuer
	policies map[string]*iam.Policy
	roles    map[string]*iam.Role
	keySets  map[string]*keys // by iss
}

// A state is one version of the rules and what follows from it. It is
// replaced, never changed.
type state struct {
	rules   *iam.Rules
	issuers map[string]*issuer // by iss
	cache   cache
}

// OpenTokens reads the rules. Errors are fault.Invalid and say what is wrong
// with the file. Tokens are refused as unverifiable until [Tokens.Run] runs.
func OpenTokens(o TokensOptions) (*Tokens, error) {
	if o.Meter == nil {
		o.Meter = noMeter{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tokens{o: o}
	if o.Keys != nil {
		t.own = newTold(iam.Issuer{Name: ownIssuer, Iss: o.URL, Aud: iam.List{o.URL}, Algorithms: iam.List{"ES256"}}, o)
		o.Keys.follow(t.own.tell)
	}
	t.file, t.changed = new(iam.Rules), make(chan struct{}, 1)
	t.told = told{issuers: map[string]*iam.Issuer{}, policies: map[string]*iam.Policy{}, roles: map[string]*iam.Role{}, keySets: map[string]*keys{}}
	var text []byte
	if o.File != "" || !o.Told {
		var err error
		if text, err = os.ReadFile(o.File); err != nil {
			return nil, fault.Invalid.Errorf("read the rules of identity: %w", err)
		}
		if err := t.setFile(text); err != nil {
			return nil, fault.Invalid.Errorf("%s: %w", o.File, err)
		}
	} else if err := t.renew(t.file); err != nil {
		return nil, err
	}
	o.Meter.Rules(true)
	return t, nil
}

// setFile puts the rules of a file in force, or says what is wrong with them.
func (t *Tokens) setFile(text []byte) error {
	rules, err := iam.ParseRules(text)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.renew(rules); err != nil {
		return err
	}
	t.text, t.file = text, rules
	return nil
}

// SetObject takes an issuer, a policy, a role or an issuer's keys, which are in
// force when it returns, or that one of them is gone. One that is wrong changes
// nothing but the log. Objects of other kinds are not for this.
func (t *Tokens) SetObject(o function.Object) {
	if !t.o.Told || o.Kind == iam.KindAPIKey {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.told.set(o); err != nil {
		t.o.Log.Error("a rule of identity is wrong; what was said before stays in force", "kind", o.Kind, "name", o.Name, "err", err)
		return
	}
	if t.told.synced {
		t.renewLogged()
	}
}

// ObjectsSynced says that all objects there are have been told.
func (t *Tokens) ObjectsSynced() {
	if !t.o.Told {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.told.synced {
		return
	}
	t.told.synced = true
	t.renewLogged()
	t.known.Store(true)
}

func (t *Tokens) renewLogged() {
	if err := t.renew(t.file); err != nil {
		t.o.Log.Error("the rules of identity are wrong; those from before stay in force", "err", err)
	}
}

func (d *told) set(o function.Object) error {
	if o.Content == nil {
		switch o.Kind {
		case iam.KindIssuer:
			delete(d.issuers, o.Name)
		case iam.KindPolicy:
			delete(d.policies, o.Name)
		case iam.KindRole:
			delete(d.roles, o.Name)
		case iam.KindKeySet:
			delete(d.keySets, o.Name)
		}
		return nil
	}
	if o.Kind == iam.KindKeySet {
		k, err := parseKeys(o.Content)
		if err == nil {
			d.keySets[o.Name] = k
		}
		return err
	}
	v, err := iam.ReadObject(o.Kind, o.Name, o.Content)
	switch v := v.(type) {
	case *iam.Issuer:
		d.issuers[o.Name] = v
	case *iam.Policy:
		d.policies[o.Name] = v
	case *iam.Role:
		d.roles[o.Name] = v
	}
	return err
}

// join returns the rules of a file together with those that were told. What has
// a name, or an iss, that is taken already is left out: the file's are first.
func (d *told) join(file *iam.Rules, left func(kind, name string)) *iam.Rules {
	all := &iam.Rules{Issuers: slices.Clone(file.Issuers), Policies: slices.Clone(file.Policies), Roles: slices.Clone(file.Roles)}
	for _, name := range slices.Sorted(maps.Keys(d.issuers)) {
		i := d.issuers[name]
		if slices.ContainsFunc(all.Issuers, func(o iam.Issuer) bool { return o.Name == name || o.Iss == i.Iss }) {
			left(iam.KindIssuer, name)
			continue
		}
		all.Issuers = append(all.Issuers, *i)
	}
	for _, name := range slices.Sorted(maps.Keys(d.policies)) {
		if slices.ContainsFunc(all.Policies, func(o iam.Policy) bool { return o.Name == name }) {
			left(iam.KindPolicy, name)
			continue
		}
		all.Policies = append(all.Policies, *d.policies[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.roles)) {
		if slices.ContainsFunc(all.Roles, func(o iam.Role) bool { return o.Name == name }) {
			left(iam.KindRole, name)
			continue
		}
		all.Roles = append(all.Roles, *d.roles[name])
	}
	return all
}

// renew puts the rules of a file in force together with those that were told.
// Issuers that are as before keep their keys. mu is held, or nobody else knows
// t yet.
func (t *Tokens) renew(file *iam.Rules) error {
	old := t.state.Load()
	s := &state{issuers: map[string]*issuer{}}
	s.rules = t.told.join(file, func(kind, name string) {
		t.o.Log.Warn("a rule of identity counts for nothing: there is another of its name or iss", "kind", kind, "name", name)
	})
	for _, spec := range s.rules.Issuers {
		given := t.told.keySets[spec.Iss]
		if spec.JWKSFile != "" {
			given = nil
		}
		if old != nil {
			if had := old.issuers[spec.Iss]; had != nil && reflect.DeepEqual(had.Issuer, spec) && had.told == (given != nil) {
				s.issuers[spec.Iss] = had
			}
		}
		var err error
		switch i := s.issuers[spec.Iss]; {
		case i == nil && given != nil:
			i = newTold(spec, t.o)
			i.tell(given)
			s.issuers[spec.Iss] = i
		case i == nil:
			if s.issuers[spec.Iss], err = newIssuer(spec, t.o); err != nil {
				return err
			}
		case given != nil && i.keys.Load() != given:
			i.tell(given)
		}
	}
	t.state.Store(s)
	t.report(s)
	select {
	case t.changed <- struct{}{}:
	default:
	}
	return nil
}

// Issuers returns the issuers that are trusted now. They are not to be changed.
func (t *Tokens) Issuers() []iam.Issuer { return t.state.Load().rules.Issuers }

func (t *Tokens) report(s *state) {
	t.o.Log.Info("rules of identity are in force", "file", t.o.File, "issuers", len(s.rules.Issuers), "policies", len(s.rules.Policies), "roles", len(s.rules.Roles))
	for _, role := range s.rules.Open() {
		t.o.Log.Warn("a role can be had by callers of every issuer, who may share names: give it the condition jwt:iss", "role", role)
	}
	for _, i := range s.rules.Issuers {
		if strings.HasPrefix(i.Iss, "http://") && i.JWKSFile == "" {
			t.o.Log.Warn("an issuer is asked for its keys without TLS: whoever is on the way can be anybody", "issuer", i.Name)
		}
	}
}

// Run fetches the issuers' keys and reads the rules again when their file
// changes, until ctx ends; then it returns nil. A file that is wrong changes
// nothing but the log and the metrics.
func (t *Tokens) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	stops := map[*issuer]context.CancelFunc{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // every issuer's with it
	start := func(s *state) {
		for i, stop := range stops {
			if s.issuers[i.Iss] != i {
				stop()
				delete(stops, i)
				if s.issuers[i.Iss] == nil {
					t.o.Meter.IssuerGone(i.Name)
				}
			}
		}
		for _, i := range s.issuers {
			if stops[i] == nil && !i.told {
				var own context.Context
				own, stops[i] = context.WithCancel(ctx)
				running.Go(func() { i.run(own) })
			}
		}
	}
	tick := time.NewTicker(rulesPoll)
	defer tick.Stop()
	t.mu.Lock()
	last := t.text // as it was read last
	t.mu.Unlock()
	settled := true // and what it means is known
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.changed:
			start(t.state.Load())
			continue
		case <-tick.C:
		}
		if t.o.File == "" {
			continue
		}
		text, err := os.ReadFile(t.o.File)
		if !bytes.Equal(text, last) {
			last, settled = text, false
			continue
		}
		if settled {
			continue
		}
		settled = true
		if err == nil {
			err = t.setFile(text)
		}
		t.o.Meter.Rules(err == nil)
		if err != nil {
			t.o.Log.Error("the rules of identity are wrong; those from before stay in force", "file", t.o.File, "err", err)
		}
	}
}

// Authenticate implements [Authenticator].
func (t *Tokens) Authenticate(r *http.Request) (Caller, error) {
	raw, err := bearer(r)
	if err != nil {
		return Caller{}, err
	}
	return t.Verify(r.Context(), raw)
}

// bearer returns the token that r carries, or ErrNone.
func bearer(r *http.Request) (string, error) {
	headers := r.Header["Authorization"]
	if len(headers) == 0 {
		return "", ErrNone
	}
	if len(headers) > 1 {
		return "", fault.Unauthenticated.Errorf("the request has several Authorization headers")
	}
	scheme, raw, _ := strings.Cut(headers[0], " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(raw), nil
	}
	if user, password, ok := r.BasicAuth(); ok && user == tokenUser && strings.Count(password, ".") == 2 {
		return password, nil
	}
	return "", ErrNone
}

// Verify returns the bearer of a token. Errors are fault.Unauthenticated, or
// fault.Unavailable if the issuer's keys are not known.
func (t *Tokens) Verify(ctx context.Context, raw string) (Caller, error) {
	s := t.state.Load()
	if t.o.Told && !t.known.Load() {
		return Caller{}, fault.Unavailable.Errorf("the gateway does not know yet whom to believe: the provider has not said it")
	}
	if len(raw) > maxToken {
		t.o.Meter.Refused("")
		return Caller{}, fault.Unauthenticated.Errorf("the token has %d bytes, at most %d are taken", len(raw), maxToken)
	}
	key, now := sha256.Sum256([]byte(raw)), time.Now()
	if known := s.cache.get(key); known != nil && now.Before(known.until) && known.issuer.keys.Load() == known.keys {
		return known.caller, nil
	}
	i, err := t.issuerOf(s, raw)
	if err != nil {
		t.o.Meter.Refused("")
		return Caller{}, err
	}
	claims, used, err := i.verify(ctx, raw, now)
	if err != nil {
		t.o.Meter.Refused(i.Name)
		return Caller{}, err
	}
	end, err := number(claims["exp"])
	if err != nil {
		return Caller{}, errMalformed
	}
	expires := time.Unix(end, 0)
	var caller Caller
	if i == t.own {
		if caller, err = s.ownCaller(claims, expires); err != nil {
			t.o.Meter.Refused(i.Name)
			return Caller{}, err
		}
	} else {
		caller = s.caller(i.Issuer, claims)
	}
	s.cache.put(key, &verified{caller: caller, until: expires.Add(i.skew), issuer: i, keys: used})
	return caller, nil
}

// caller returns whom an issuer vouches for by these claims.
func (s *state) caller(i iam.Issuer, claims iam.Claims) Caller {
	return Caller{Subject: claims.Text("sub"), Issuer: i.Name, known: &known{claims: claims, rights: s.rules.Rights(claims), expiry: i.Expiry()}}
}

// issuerOf returns the trusted issuer that a token claims to be from.
func (t *Tokens) issuerOf(s *state, raw string) (*issuer, error) {
	switch strings.Count(raw, ".") {
	case 2:
	case 4:
		return nil, fault.Unauthenticated.Errorf("the token is encrypted; one that is only signed is needed")
	default:
		return nil, fault.Unauthenticated.Errorf("the token is not a JWT: what it means is known to its issuer alone; have the issuer make JWTs")
	}
	_, rest, _ := strings.Cut(raw, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return nil, errMalformed
	}
	var claims struct {
		Iss string `json:"iss"`
	}
	if json.Unmarshal(text, &claims) != nil {
		return nil, errMalformed
	}
	i := s.issuers[claims.Iss]
	if t.own != nil && claims.Iss == t.own.Iss {
		i = t.own
	}
	if i == nil {
		return nil, fault.Unauthenticated.Errorf("the token's issuer is not trusted here")
	}
	return i, nil
}

// A cache remembers verified tokens, by their hash, so that none lies around
// in memory. It has two generations: when the young one is full it becomes the
// old one, and what is not asked for until the next time is forgotten.
type cache struct {
	mu         sync.RWMutex
	young, old map[[sha256.Size]byte]*verified
}

// verified is a token that was verified.
type verified struct {
	caller Caller
	until  time.Time
	issuer *issuer
	keys   *keys // that proved it
}

// get returns what is remembered of a token, or nil.
func (c *cache) get(key [sha256.Size]byte) *verified {
	c.mu.RLock()
	v, young := c.young[key]
	if !young {
		v = c.old[key]
	}
	c.mu.RUnlock()
	if v != nil && !young {
		c.put(key, v)
	}
	return v
}

func (c *cache) put(key [sha256.Size]byte, v *verified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.young == nil || len(c.young) >= cacheSize {
		c.young, c.old = make(map[[sha256.Size]byte]*verified), c.young
	}
	c.young[key] = v
}

package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"hash/crc32"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
)

// An API key is gpk_ID_SECRETCHECK: a prefix that scanners of leaked secrets
// can look for, a name that is no secret, 256 random bits, and a checksum by
// which a scanner, and a gateway, tells a key from what only looks like one.
const (
	apiKeyID     = 10 // characters of the ID
	apiKeySecret = 43 // and of the secret: 62^43 is more than 2^256
	apiKeyCheck  = 6  // and of the checksum

	idAlphabet  = "0123456789abcdefghijklmnopqrstuvwxyz"
	keyAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

	// apiKeyHeader takes an API key where Authorization is taken.
	apiKeyHeader = "X-Api-Key" // as package http writes it
	// apiKeyIssuer is the issuer of callers with API keys.
	apiKeyIssuer = "api-key"
)

// NewAPIKey makes an API key, and what is to be kept of it: its ID and hash.
func NewAPIKey() (key, id, hash string) {
	id = random(idAlphabet, apiKeyID)
	key = iam.APIKeyPrefix + id + "_" + random(keyAlphabet, apiKeySecret)
	key += checksum(key)
	sum := sha256.Sum256([]byte(key))
	return key, id, hex.EncodeToString(sum[:])
}

// random returns a text of n letters of an alphabet, each as likely as any other.
func random(alphabet string, n int) string {
	text := make([]byte, 0, n)
	limit := 256 - 256%len(alphabet)
	for buf := make([]byte, 64); len(text) < n; {
		_, _ = rand.Read(buf) // never fails
		for _, b := range buf {
			if int(b) < limit && len(text) < n {
				text = append(text, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(text)
}

func checksum(text string) string {
	sum := crc32.ChecksumIEEE([]byte(text))
	check := make([]byte, apiKeyCheck)
	for i := range check {
		check[len(check)-1-i] = keyAlphabet[sum%uint32(len(keyAlphabet))]
		sum /= uint32(len(keyAlphabet))
	}
	return string(check)
}

// APIKeys knows the bearers of API keys. What is kept of the keys is told by
// SetObject. The zero APIKeys knows none, and is ready for use. It is safe for
// concurrent use.
type APIKeys struct {
	Log *slog.Logger // nil logs nothing

	synced atomic.Bool // everything there is has been told
	all    sync.Map    // *apiKey, by ID
}

type apiKey struct {
	hash   [sha256.Size]byte
	until  time.Time // zero is for ever
	caller Caller
	used   atomic.Int64 // seconds since 1970
}

// SetObject takes what is kept of a key, or that it is gone, from when on it is
// refused. Objects of other kinds are not for this.
func (k *APIKeys) SetObject(o function.Object) {
	if o.Kind != iam.KindAPIKey {
		return
	}
	if o.Content == nil {
		k.all.Delete(o.Name)
		return
	}
	var kept iam.APIKey
	err := json.Unmarshal(o.Content, &kept)
	key := &apiKey{}
	n, hexErr := hex.Decode(key.hash[:], []byte(kept.Hash))
	if err != nil || hexErr != nil || n != sha256.Size {
		k.all.Delete(o.Name)
		if k.Log != nil {
			k.Log.Error("what is kept of an API key cannot be read, so it is refused", "api_key", o.Name)
		}
		return
	}
	if kept.Expires != nil {
		key.until = *kept.Expires
	}
	key.caller = Caller{Subject: o.Name, Issuer: apiKeyIssuer, known: &known{
		claims: iam.Claims{"sub": o.Name, "name": kept.Name},
		rights: iam.Grant(kept.Statement(), "API key "+o.Name),
	}}
	if had, ok := k.all.Load(o.Name); ok {
		key.used.Store(had.(*apiKey).used.Load())
	}
	k.all.Store(o.Name, key)
}

// ObjectsSynced notes that everything there is has been told.
func (k *APIKeys) ObjectsSynced() { k.synced.Store(true) }

// LastUsed returns when a key was seen here last; zero is never.
func (k *APIKeys) LastUsed(id string) time.Time {
	if key, ok := k.all.Load(id); ok {
		if at := key.(*apiKey).used.Load(); at != 0 {
			return time.Unix(at, 0)
		}
	}
	return time.Time{}
}

// Authenticate implements [Authenticator]. Keys are in the header X-API-Key, or
// in Authorization, with the scheme Bearer or as the password of the user
// "token".
func (k *APIKeys) Authenticate(r *http.Request) (Caller, error) {
	if values := r.Header[apiKeyHeader]; len(values) == 1 && IsAPIKey(values[0]) {
		return k.Verify(values[0])
	}
	if raw := bearerKey(r); raw != "" {
		return k.Verify(raw)
	}
	return Caller{}, ErrNone
}

// bearerKey returns the key in the header Authorization, or "".
func bearerKey(r *http.Request) string {
	headers := r.Header["Authorization"]
	if len(headers) != 1 {
		return ""
	}
	scheme, raw, _ := strings.Cut(headers[0], " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		raw = strings.TrimSpace(raw)
	case strings.EqualFold(scheme, "Basic"):
		user, password, _ := r.BasicAuth()
		if raw = password; user != tokenUser {
			return ""
		}
	}
	if !IsAPIKey(raw) {
		return ""
	}
	return raw
}

// IsAPIKey reports whether a text means to be an API key.
func IsAPIKey(text string) bool { return strings.HasPrefix(text, iam.APIKeyPrefix) }

// Verify returns the bearer of a key. Errors are fault.Unauthenticated, or
// fault.Unavailable while it is not known which keys there are.
func (k *APIKeys) Verify(raw string) (Caller, error) {
	if len(raw) != len(iam.APIKeyPrefix)+apiKeyID+1+apiKeySecret+apiKeyCheck ||
		raw[len(iam.APIKeyPrefix)+apiKeyID] != '_' || checksum(raw[:len(raw)-apiKeyCheck]) != raw[len(raw)-apiKeyCheck:] {
		return Caller{}, fault.Unauthenticated.Errorf("the API key is damaged: some of it is missing or another")
	}
	found, ok := k.all.Load(raw[len(iam.APIKeyPrefix) : len(iam.APIKeyPrefix)+apiKeyID])
	if !ok && !k.synced.Load() {
		return Caller{}, fault.Unavailable.Errorf("the gateway does not know the API keys yet: the provider has not listed them")
	}
	hash := sha256.Sum256([]byte(raw))
	key, _ := found.(*apiKey)
	if key == nil || subtle.ConstantTimeCompare(hash[:], key.hash[:]) != 1 {
		return Caller{}, fault.Unauthenticated.Errorf("the API key is not known, or was revoked")
	}
	now := time.Now()
	if !key.until.IsZero() && !now.Before(key.until) {
		return Caller{}, fault.Unauthenticated.Errorf("the API key has expired")
	}
	if at := now.Unix(); key.used.Load() != at { // one write a second, however many callers
		key.used.Store(at)
	}
	return key.caller, nil
}

// HideAPIKey takes API keys out of the headers of a request that goes to a
// function: whoever wrote it must not be able to use them.
func HideAPIKey(r *http.Request) {
	if slices.ContainsFunc(r.Header[apiKeyHeader], IsAPIKey) {
		delete(r.Header, apiKeyHeader)
	}
	if bearerKey(r) != "" {
		delete(r.Header, "Authorization")
	}
}

// Covers reports whether everything that a statement allows is allowed to c
// already, who therefore may pass it on.
func Covers(c Caller, s iam.Statement) bool {
	return c.Admin || c.known != nil && c.known.rights.Cover(s)
}

package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/graphene-faas/graphene/internal/atomicfile"
	"github.com/graphene-faas/graphene/internal/fault"
)

// Names of the files that hold the administrator's credentials, as OpenFaaS
// names the keys of its secret.
const (
	userFile     = "basic-auth-user"
	passwordFile = "basic-auth-password"
)

// defaultUser is whom [EnsureCredentials] makes the administrator.
const defaultUser = "admin"

// Basic knows one administrator by user name and password.
type Basic struct {
	user                   string
	userHash, passwordHash [sha256.Size]byte
}

// NewBasic returns an authenticator for one user name and password.
func NewBasic(user, password string) *Basic {
	return &Basic{user: user, userHash: sha256.Sum256([]byte(user)), passwordHash: sha256.Sum256([]byte(password))}
}

// Authenticate implements [Authenticator]. It takes the same time for every
// wrong user name and password: both are hashed, so that their lengths do not
// show, and both are compared.
func (b *Basic) Authenticate(r *http.Request) (Caller, error) {
	user, password, ok := r.BasicAuth()
	if !ok {
		return Caller{}, ErrNone
	}
	userHash, passwordHash := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
	right := subtle.ConstantTimeCompare(userHash[:], b.userHash[:]) &
		subtle.ConstantTimeCompare(passwordHash[:], b.passwordHash[:])
	if right != 1 {
		return Caller{}, fault.Unauthenticated.Errorf("invalid credentials")
	}
	return Caller{Subject: b.user, Admin: true}, nil
}

// ReadCredentials reads the files basic-auth-user and basic-auth-password in
// dir. White space around either is not part of it.
func ReadCredentials(dir string) (user, password string, err error) {
	if user, err = readCredential(dir, userFile); err != nil {
		return "", "", err
	}
	if password, err = readCredential(dir, passwordFile); err != nil {
		return "", "", err
	}
	return user, password, nil
}

func readCredential(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read credentials: %w", err)
	}
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		// An empty password must not be one that everybody knows.
		return "", fault.Invalid.Errorf("read credentials: %s is empty", path)
	}
	return string(text), nil
}

// EnsureCredentials reads the credentials in dir, or makes them where there are
// none: user admin with a random password, in files only their owner can read,
// in a directory only its owner can enter. It reports whether it made a
// password. One file without the other keeps the one there is.
func EnsureCredentials(dir string) (user, password string, created bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", false, fmt.Errorf("make directory for credentials: %w", err)
	}
	if _, err := ensureCredential(dir, userFile, defaultUser); err != nil {
		return "", "", false, err
	}
	created, err = ensureCredential(dir, passwordFile, rand.Text())
	if err != nil {
		return "", "", false, err
	}
	user, password, err = ReadCredentials(dir)
	return user, password, created, err
}

// ensureCredential writes value to the file called name unless there is one.
// The file appears whole or not at all, so a crash cannot leave an empty
// password behind.
func ensureCredential(dir, name, value string) (created bool, err error) {
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	switch err := atomicfile.Create(path, []byte(value+"\n"), 0o600); {
	case errors.Is(err, fs.ErrExist): // another process was faster
		return false, nil
	case err != nil:
		return false, fmt.Errorf("write credentials: %w", err)
	}
	return true, nil
}

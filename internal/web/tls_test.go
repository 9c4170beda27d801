package web_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/web"
)

// An authority signs certificates for one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.key, a.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

func (a *authority) sign(template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, cert
}

// issue makes a certificate of the name for both ends, in PEM.
func (a *authority) issue(name string) (cert, key []byte) {
	a.t.Helper()
	private, signed := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed.Raw}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func write(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// files writes a certificate of the name, as a server's files.
func (a *authority) files(name string) web.TLSFiles {
	dir := a.t.TempDir()
	f := web.TLSFiles{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	cert, key := a.issue(name)
	write(a.t, f.Cert, cert)
	write(a.t, f.Key, key)
	return f
}

// ask calls the server on a connection of its own.
func ask(address string, c *tls.Config, http2 bool) (*http.Response, error) {
	transport := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: http2, DisableKeepAlives: true}
	return (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get("https://" + address)
}

func serveTLS(t *testing.T, f web.TLSFiles, log *slog.Logger) *server {
	t.Helper()
	config, err := f.Config(log)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto)
		if len(r.TLS.PeerCertificates) > 0 {
			io.WriteString(w, " "+r.TLS.PeerCertificates[0].Subject.CommonName)
		}
	}, web.ServeOptions{TLS: config, Log: log})
}

// A buffer may be written and read by several goroutines.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func eventually(t *testing.T, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !happened(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}

func TestServeSpeaksBothVersionsOverTLS(t *testing.T) {
	a := newAuthority(t)
	s := serveTLS(t, a.files("first"), testkit.Log(t))
	for http2, want := range map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"} {
		resp, err := ask(s.address, &tls.Config{RootCAs: a.pool()}, http2)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); string(body) != want {
			t.Errorf("asked with HTTP/2 %v, the server spoke %q, want %q", http2, body, want)
		}
	}
}

func TestANewCertificateNeedsNoRestartAndABrokenOneChangesNothing(t *testing.T) {
	a := newAuthority(t)
	f := a.files("first")
	var log buffer
	s := serveTLS(t, f, slog.New(slog.NewTextHandler(&log, nil)))
	name := func() string {
		resp, err := ask(s.address, &tls.Config{RootCAs: a.pool()}, false)
		if err != nil {
			t.Fatal(err)
		}
		return resp.TLS.PeerCertificates[0].Subject.CommonName
	}
	if got := name(); got != "first" {
		t.Fatalf("the server is %q", got)
	}
	write(t, f.Cert, []byte("no certificate"))
	eventually(t, func() bool { return name() == "first" && strings.Contains(log.String(), "TLS files are broken") })
	cert, key := a.issue("second")
	write(t, f.Cert, cert)
	write(t, f.Key, key)
	eventually(t, func() bool { return name() == "second" })
	if strings.Contains(log.String(), string(bytes.TrimSpace(key))) {
		t.Error("the log holds the key")
	}
}

func TestCallersWithoutACertificateAreTurnedAwayWhereOneIsRequired(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	pair := func(of *authority) []tls.Certificate {
		cert, key := of.issue("caller")
		p, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{p}
	}
	for _, required := range []bool{false, true} {
		f := a.files("server")
		f.ClientCA, f.RequireClient = filepath.Join(t.TempDir(), "ca.crt"), required
		write(t, f.ClientCA, a.pem())
		s := serveTLS(t, f, testkit.Log(t))
		for _, c := range []struct {
			who   string
			shows []tls.Certificate
			want  string // "" is refused
		}{
			{who: "somebody who is vouched for", shows: pair(a), want: "HTTP/1.1 caller"},
			{who: "somebody of another authority", shows: pair(stranger)},
			{who: "nobody", want: map[bool]string{false: "HTTP/1.1", true: ""}[required]},
		} {
			resp, err := ask(s.address, &tls.Config{RootCAs: a.pool(), Certificates: c.shows}, false)
			got := ""
			if err == nil {
				body, _ := io.ReadAll(resp.Body)
				got = string(body)
			}
			if got != c.want {
				t.Errorf("required %v: %s got %q, %v, want %q", required, c.who, got, err, c.want)
			}
		}
	}
}

func TestTLSFilesThatCannotWorkAreAnErrorAtOnce(t *testing.T) {
	a := newAuthority(t)
	good, other := a.files("one"), a.files("other")
	for why, f := range map[string]web.TLSFiles{
		"no key":                      {Cert: good.Cert},
		"a file that is not there":    {Cert: good.Cert, Key: good.Key + "x"},
		"the key of another":          {Cert: good.Cert, Key: other.Key},
		"authorities that are a key":  {Cert: good.Cert, Key: good.Key, ClientCA: good.Key},
		"required, but by whom":       {Cert: good.Cert, Key: good.Key, RequireClient: true},
		"a key where the cert should": {Cert: good.Key, Key: good.Key},
	} {
		if _, err := f.Config(testkit.Log(t)); err == nil {
			t.Errorf("%s is taken", why)
		}
	}
}

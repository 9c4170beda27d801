package web

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
)

// TLSFiles name what a server proves itself by and whom it believes, in PEM.
type TLSFiles struct {
	Cert, Key string
	// ClientCA holds the authorities that vouch for callers; "" asks callers
	// for no certificate.
	ClientCA string
	// RequireClient turns callers away who show no certificate; else only those
	// whose certificate nobody vouches for.
	RequireClient bool
}

// reloadPause is how often the files are looked at, at most.
const reloadPause = time.Second

// Config returns a server's configuration made of the files, which are read
// again when they change: a handshake looks, at most once a second, so a new
// certificate needs no restart. Files that are broken then are logged and
// change nothing; at first they are an error of kind fault.Invalid.
func (f TLSFiles) Config(log *slog.Logger) (*tls.Config, error) {
	if f.Cert == "" || f.Key == "" {
		return nil, fault.Invalid.Errorf("TLS needs a certificate and its key: one of the two files is not named")
	}
	if f.RequireClient && f.ClientCA == "" {
		return nil, fault.Invalid.Errorf("callers must show a certificate, but no file names the authorities that vouch for them")
	}
	k := &keptTLS{files: f, log: log}
	if err := k.read(); err != nil {
		return nil, fault.Invalid.Errorf("%w", err)
	}
	k.looked = time.Now()
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return k.fresh(), nil },
		// The server wants to see a certificate here; handshakes ask above.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &k.now.Load().Certificates[0], nil },
	}, nil
}

// keptTLS is a configuration that follows its files.
type keptTLS struct {
	files TLSFiles
	log   *slog.Logger
	now   atomic.Pointer[tls.Config]

	mu     sync.Mutex // guards what follows; held by whoever looks
	looked time.Time
	had    [3][]byte // what the files held when they were read last
}

// fresh returns the configuration for a handshake. Whoever comes while
// somebody looks takes what there is.
func (k *keptTLS) fresh() *tls.Config {
	if k.mu.TryLock() {
		if now := time.Now(); now.Sub(k.looked) >= reloadPause {
			k.looked = now
			if err := k.read(); err != nil {
				k.log.Error("TLS files are broken; the ones before stay in use", "err", err)
			}
		}
		k.mu.Unlock()
	}
	return k.now.Load()
}

// read takes the files over if they changed. The caller holds k.mu, or is the
// only one to know k.
func (k *keptTLS) read() error {
	var have [3][]byte
	for i, name := range []string{k.files.Cert, k.files.Key, k.files.ClientCA} {
		if name == "" {
			continue
		}
		var err error
		if have[i], err = os.ReadFile(name); err != nil {
			return fmt.Errorf("read the TLS files: %w", err)
		}
	}
	if k.now.Load() != nil && bytes.Equal(have[0], k.had[0]) && bytes.Equal(have[1], k.had[1]) && bytes.Equal(have[2], k.had[2]) {
		return nil
	}
	again := k.now.Load() != nil
	k.had = have // a broken set is complained of once
	cert, err := tls.X509KeyPair(have[0], have[1])
	if err != nil {
		return fmt.Errorf("read certificate %s and key %s: %w", k.files.Cert, k.files.Key, err)
	}
	c := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if k.files.ClientCA != "" {
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(have[2]) {
			return fmt.Errorf("read the authorities of callers: %s holds no certificate", k.files.ClientCA)
		}
		c.ClientAuth = tls.VerifyClientCertIfGiven
		if k.files.RequireClient {
			c.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	k.now.Store(c)
	if again {
		k.log.Info("TLS certificate read again", "subject", cert.Leaf.Subject.String(), "expires", cert.Leaf.NotAfter)
	}
	return nil
}

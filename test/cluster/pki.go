//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// An authority is a key with a certificate that others are signed with.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

// writeKeys makes the cluster's authority, the API server's certificate and
// the key that signs service accounts' tokens.
func (c *cluster) writeKeys() (*authority, error) {
	dir := c.run("pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ca := &authority{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "cluster-ca"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IsCA:         true, BasicConstraintsValid: true,
	}
	var err error
	if ca.key, ca.pem, err = c.issue("ca", template, nil); err != nil {
		return nil, err
	}
	block, _ := pem.Decode(ca.pem)
	if ca.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, err
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "kube-apiserver"},
		NotBefore:    template.NotBefore,
		NotAfter:     template.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"},
		IPAddresses:  []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(c.NodeIP), net.ParseIP(c.APIService)},
	}
	if _, _, err = c.issue("apiserver", server, ca); err != nil {
		return nil, err
	}
	return ca, c.writeServiceAccountKey(dir)
}

// issue makes a key and a certificate, signed by itself without an authority.
func (c *cluster) issue(name string, template *x509.Certificate, by *authority) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the certificate of %s: %w", name, err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(c.run("pki"), name+".crt"), cert, 0o644); err != nil {
		return nil, nil, err
	}
	return key, cert, writeKey(filepath.Join(c.run("pki"), name+".key"), key)
}

func writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func (c *cluster) writeServiceAccountKey(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "sa.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644); err != nil {
		return err
	}
	return writeKey(filepath.Join(dir, "sa.key"), key)
}

// A user of the API server has a token, and a kubeconfig that holds it.
type user struct{ file, name, group string }

var users = []user{
	{"admin", "admin", "system:masters"},
	{"controller-manager", "system:kube-controller-manager", "system:masters"},
	{"scheduler", "system:kube-scheduler", "system:masters"},
	{"proxy", "system:kube-proxy", "system:masters"},
	{"kubelet", "system:node:node1", "system:nodes"},
	{"coredns", "coredns", "system:masters"},
}

// writeUsers writes the API server's list of tokens and everyone's
// kubeconfig.
func (c *cluster) writeUsers(server string, ca []byte) error {
	var tokens strings.Builder
	for _, u := range users {
		token := rand.Text()
		fmt.Fprintf(&tokens, "%s,%s,%s,%q\n", token, u.name, u.file, u.group)
		if err := writeKubeconfig(c.config(u.file), server, ca, token); err != nil {
			return err
		}
		if u.file == "admin" {
			if err := os.WriteFile(c.run("admin.token"), []byte(token), 0o600); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(c.run("tokens.csv"), []byte(tokens.String()), 0o600)
}

func writeKubeconfig(file, server string, ca []byte, token string) error {
	return os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %q}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`, server, base64.StdEncoding.EncodeToString(ca), token), 0o600)
}

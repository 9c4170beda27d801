package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// TestBehindNginxWithTLS puts a real nginx before the platform, configured as
// the guide says, and talks to functions through it.
func TestBehindNginxWithTLS(t *testing.T) {
	program, err := exec.LookPath("nginx")
	if err != nil {
		t.Skip("SKIPPED: nginx is not installed (apt-get install nginx-light)")
	}
	p := start(t)
	p.deployWire()
	front := p.behindNginx(program)
	for _, sub := range []struct {
		name string
		test func(*platform)
	}{
		{"server-sent events arrive one by one", testServerSentEvents},
		{"lines are answered while the request goes on", testDuplex},
		{"a large upload of known length", func(p *platform) { testUpload(p, true) }},
		{"a large upload of unknown length", func(p *platform) { testUpload(p, false) }},
		{"a large download", testDownload},
		{"a broken answer is seen to be broken", testTruncation},
		{"WebSocket", testWebSocket},
		{"answers without a body", testNoBody},
		{"redirects are the caller's to follow", testRedirect},
		{"a caller who leaves is noticed by the handler", testCancellation},
		{"paths arrive as they were written", testPathsThroughNginx},
		{"functions know who called and how", testForwarded},
		{"the command line deploys and calls", testCommandsThroughNginx},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.test(front.in(t)) })
	}
}

func testPathsThroughNginx(p *platform) {
	for path, want := range map[string]string{
		"/a//b":      "/a//b",
		"/a%2Fb":     "/a%2Fb",
		"/x?a=%26":   "/x?a=%26",
		"/a/./b/c":   "/a/./b/c",
		"/%20%C3%A9": "/%20%C3%A9",
	} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(p.url, "https://"), http.DefaultTransport.(*http.Transport).TLSClientConfig)
		if err != nil {
			p.t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /function/wire%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			p.t.Fatal(err)
		}
		var got struct{ URI string }
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || got.URI != want {
			p.t.Errorf("%q reached the function as %q, %v", path, got.URI, err)
		}
		conn.Close()
	}
}

func testForwarded(p *platform) {
	a := p.call(200, "GET", "/function/wire/x", "", "X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "gopher")
	var got struct {
		Host   string
		Header http.Header
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		p.t.Fatal(err)
	}
	host := strings.TrimPrefix(p.url, "https://")
	for name, want := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": host} {
		if got.Header.Get(name) != want {
			p.t.Errorf("%s is %q, want %q", name, got.Header.Get(name), want)
		}
	}
}

func testCommandsThroughNginx(p *platform) {
	if stdout, stderr, code := p.try(p.password(), "login", "-g", p.url, "--password-stdin"); code != 0 {
		p.t.Fatalf("login: exit %d\n%s%s", code, stdout, stderr)
	}
	p.cli("up", "-g", p.url, "-f", "wire.yml")
	if out := p.cli("describe", "-g", p.url, "wire"); !strings.Contains(out, p.url+"/function/wire") {
		p.t.Errorf("describe does not name the address that was used:\n%s", out)
	}
	if a := p.call(403, "POST", "/system/functions", "{}", "Origin", "https://evil.example.com", "Sec-Fetch-Site", "cross-site", "Content-Type", "application/json"); a.body == "" {
		p.t.Error("another site's page is refused without a word")
	}
}

// behindNginx starts nginx before the platform and returns the platform as it
// is reached then. Whoever the test's programs are trusts its certificate.
func (p *platform) behindNginx(program string) *platform {
	p.t.Helper()
	dir := filepath.Join(p.dir, "nginx")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	certificate, key := selfSigned(p.t, dir)
	address := freeAddress(p.t)
	config := filepath.Join(dir, "nginx.conf")
	text := "daemon off;\npid " + dir + "/pid;\nerror_log " + dir + "/error.log;\nevents {}\nhttp {\naccess_log off;\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		text += kind + "_temp_path " + filepath.Join(dir, kind) + ";\n"
	}
	text += strings.NewReplacer(
		"server 127.0.0.1:8080;", "server "+strings.TrimPrefix(p.url, "http://")+";",
		"listen 443 ssl;", "listen "+address+" ssl;",
		"/etc/ssl/functions.example.com.pem", certificate,
		"/etc/ssl/functions.example.com.key", key,
	).Replace(guideBlock(p.t, "operating.md", "nginx")) + "\n}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}

	cmd := exec.Command(program, "-p", dir, "-c", config, "-e", dir+"/error.log")
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // its log says how it ended
	}()
	p.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
		<-done
		if log, err := os.ReadFile(dir + "/error.log"); p.t.Failed() && err == nil {
			p.t.Logf("nginx's log:\n%s", log)
		}
	})
	testkit.Eventually(p.t, "nginx listens", func() bool {
		select {
		case <-done:
			log, _ := os.ReadFile(dir + "/error.log") // empty if it cannot be read
			p.t.Fatalf("nginx ended:\n%s", log)
		default:
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})

	q := *p
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		p.t.Fatal(err)
	}
	q.url = "https://localhost:" + port
	return &q
}

// guideBlock returns the first block of a guide in the given language.
func guideBlock(t *testing.T, page, language string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "guide", page))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(string(text))
	if m == nil {
		t.Fatalf("%s has no block of %s", page, language)
	}
	return m[1]
}

// freeAddress returns an address of this machine on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// selfSigned writes a certificate for localhost and its key, and has this
// process and the programs it starts trust it until the test ends.
func selfSigned(t *testing.T, dir string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(certificate, public, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", certificate)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(public)
	usual := http.DefaultTransport
	trusting := usual.(*http.Transport).Clone()
	trusting.TLSClientConfig = &tls.Config{RootCAs: roots}
	http.DefaultTransport = trusting
	t.Cleanup(func() {
		trusting.CloseIdleConnections()
		http.DefaultTransport = usual
	})
	return certificate, key
}

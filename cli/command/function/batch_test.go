package function

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/internal/fault"
)

func TestALineThatIsNotWholeDoesNotCount(t *testing.T) {
	long := strings.Repeat("x", 2<<20)
	for text, want := range map[string]string{
		"":              "",
		"a\nb\n":        "a\nb\n",
		"a\nb":          "a\n",
		"b":             "",
		long + "\nb\nc": long + "\nb\n",
		"a\n" + long:    "a\n",
	} {
		path := filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		n, err := wholeLines(path)
		if err != nil || n != strings.Count(want, "\n") {
			t.Errorf("%.20q has %d lines, %v", text, n, err)
		}
		if left, err := os.ReadFile(path); err != nil || string(left) != want {
			t.Errorf("%.20q is cut to %.20q, %v", text, left, err)
		}
	}
}

func TestSkippedDocumentsAreLinesThatSaySomething(t *testing.T) {
	in := bufio.NewReader(strings.NewReader("1\n\n \n2\n3\n4"))
	if n, err := skipDocuments(in, 2); n != 2 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if rest, _ := io.ReadAll(in); string(rest) != "3\n4" {
		t.Errorf("what is left is %q", rest)
	}
	if n, err := skipDocuments(bufio.NewReader(strings.NewReader("1\n2")), 7); n != 2 || err != nil {
		t.Errorf("of two documents: %d, %v", n, err)
	}
}

func TestABatchDoesNotWaitForACertificateToBeTrusted(t *testing.T) {
	untrusted := fault.Unavailable.Errorf("ask: %w", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}})
	asked := 0
	err := new(batchRun).patient(t.Context(), func() error { asked++; return untrusted })
	if !errors.Is(err, untrusted) || asked != 1 {
		t.Errorf("asked %d times, then %v; want once, and %v", asked, err, untrusted)
	}
}

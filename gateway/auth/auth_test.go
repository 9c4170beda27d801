package auth_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
)

func request(user, password string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/system/functions", nil)
	if user != "" || password != "" {
		r.SetBasicAuth(user, password)
	}
	return r
}

func TestBasicKnowsItsUserAndNobodyElse(t *testing.T) {
	basic := auth.NewBasic("admin", "s3cret")
	caller, err := basic.Authenticate(request("admin", "s3cret"))
	if err != nil || caller != (auth.Caller{Subject: "admin", Admin: true}) {
		t.Errorf("right credentials: %+v, %v", caller, err)
	}
	for _, wrong := range [][2]string{
		{"admin", ""}, {"", "s3cret"}, {"admin", "s3cre"}, {"admin", "s3crets"}, {"Admin", "s3cret"}, {"s3cret", "admin"},
	} {
		caller, err := basic.Authenticate(request(wrong[0], wrong[1]))
		if caller != (auth.Caller{}) || !errors.Is(err, fault.Unauthenticated) || errors.Is(err, auth.ErrNone) {
			t.Errorf("%q: %+v, %v; want nobody, and an error that ends the chain", wrong, caller, err)
		}
	}
	if _, err := basic.Authenticate(request("", "")); !errors.Is(err, auth.ErrNone) {
		t.Errorf("no credentials: %v, want ErrNone", err)
	}
	bearer := request("", "")
	bearer.Header.Set("Authorization", "Bearer abc")
	if _, err := basic.Authenticate(bearer); !errors.Is(err, auth.ErrNone) {
		t.Errorf("credentials of another kind: %v, want ErrNone", err)
	}
}

func TestAChainStopsAtTheFirstMemberThatUnderstandsTheCredentials(t *testing.T) {
	first, second := auth.NewBasic("a", "1"), auth.NewBasic("b", "2")
	chain := auth.Chain{first, second}
	if _, err := chain.Authenticate(request("b", "2")); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("wrong for the first member: %v, want fault.Unauthenticated", err)
	}
	if c, err := (auth.Chain{auth.Chain{}, second}).Authenticate(request("b", "2")); err != nil || c.Subject != "b" {
		t.Errorf("second member: %+v, %v", c, err)
	}
	if _, err := (auth.Chain{}).Authenticate(request("a", "1")); !errors.Is(err, auth.ErrNone) {
		t.Errorf("empty chain: %v, want ErrNone", err)
	}
}

func TestNobodyMayDoAnythingAndOnlyAdministratorsMayDoAll(t *testing.T) {
	resource := iam.Resource{Namespace: "fn", Name: "echo"}
	if err := auth.May(auth.Caller{}, iam.FunctionList, resource); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("nobody: %v, want fault.Unauthenticated", err)
	}
	err := auth.May(auth.Caller{Subject: "eve"}, iam.FunctionDelete, resource)
	if !errors.Is(err, fault.Denied) || err.Error() != "eve may not do Function:Delete on fn:echo" {
		t.Errorf("somebody: %v, want fault.Denied with the action and the resource", err)
	}
	if err := auth.May(auth.Caller{Subject: "admin", Admin: true}, iam.FunctionDelete, resource); err != nil {
		t.Errorf("administrator: %v", err)
	}
	if err := auth.May(auth.Caller{Subject: "admin", Admin: true}, "Function:Typo", resource); !errors.Is(err, fault.Denied) {
		t.Errorf("an action that is none: %v, want fault.Denied", err)
	}
	if c := auth.CallerOf(t.Context()); c != (auth.Caller{}) {
		t.Errorf("a context without a caller holds %+v", c)
	}
}

func TestResourcesAreWrittenAsInPolicies(t *testing.T) {
	for want, r := range map[string]iam.Resource{
		"*": {}, "fn:*": {Namespace: "fn"}, "fn:echo": {Namespace: "fn", Name: "echo"},
	} {
		if got := r.String(); got != want {
			t.Errorf("%+v = %q, want %q", r, got, want)
		}
	}
}

func TestCredentialsAreMadeOnceAndOnlyTheirOwnerReadsThem(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "auth")
	user, password, created, err := auth.EnsureCredentials(dir)
	if err != nil || !created || user != "admin" || len(password) < 20 {
		t.Fatalf("first start: %q, %q, %v, %v", user, password, created, err)
	}
	for name, want := range map[string]os.FileMode{"": 0o700, "basic-auth-user": 0o600, "basic-auth-password": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: mode %v, %v; want %v", name, info.Mode().Perm(), err, want)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("directory holds %v, want two files", left)
	}
	again, samePassword, created, err := auth.EnsureCredentials(dir)
	if err != nil || created || again != user || samePassword != password {
		t.Errorf("second start: %q, %q, %v, %v; want the same credentials", again, samePassword, created, err)
	}
}

func TestTwoFirstStartsAtOnceAgreeOnOnePassword(t *testing.T) {
	dir := t.TempDir()
	var passwords [8]string
	var wg sync.WaitGroup
	for i := range passwords {
		wg.Go(func() {
			_, password, _, err := auth.EnsureCredentials(dir)
			if err != nil {
				t.Error(err)
			}
			passwords[i] = password
		})
	}
	wg.Wait()
	for _, p := range passwords {
		if p != passwords[0] {
			t.Fatalf("passwords differ: %q", passwords)
		}
	}
}

func TestWhiteSpaceAroundCredentialsIsNotPartOfThem(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "basic-auth-user", "root\n")
	write(t, dir, "basic-auth-password", "  pass word \r\n")
	user, password, err := auth.ReadCredentials(dir)
	if err != nil || user != "root" || password != "pass word" {
		t.Errorf("got %q, %q, %v", user, password, err)
	}
}

func TestAnEmptyPasswordIsRefused(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "basic-auth-user", "root")
	write(t, dir, "basic-auth-password", " \n")
	if _, _, err := auth.ReadCredentials(dir); !errors.Is(err, fault.Invalid) {
		t.Errorf("ReadCredentials = %v, want fault.Invalid", err)
	}
	if _, _, _, err := auth.EnsureCredentials(dir); !errors.Is(err, fault.Invalid) {
		t.Errorf("EnsureCredentials = %v, want fault.Invalid", err)
	}
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/signkey"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/provider/kube"
)

// await waits until f returns nil, and reports what it said last if it never
// does.
func await(t *testing.T, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// TestIdentityOnAnAPIServer has a provider follow real resources, a real secret
// and the real issuer of service accounts' tokens, and tokens verified by what
// it says of them. An API server alone is enough of a cluster.
func TestIdentityOnAnAPIServer(t *testing.T) {
	kubeconfig := os.Getenv("GRAPHENE_TEST_KUBECONFIG")
	if kubeconfig == "" {
		t.Skip("SKIPPED: the variable GRAPHENE_TEST_KUBECONFIG names no cluster")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	kube.InstallCRDsForTest(t, config)
	k := kube.ClientsForTest(t, config)
	const namespace = "iam-test"
	if _, err := k.CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		kube.CreateNamespaceForTest(t, config, namespace)
	}
	_ = k.CoreV1().Secrets(namespace).Delete(t.Context(), "api-keys", metav1.DeleteOptions{}) // of a run before
	if _, err := k.CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "api-keys"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	first, _, err := signkey.Rotate(nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_ = k.CoreV1().Secrets(namespace).Delete(t.Context(), "issuer-key", metav1.DeleteOptions{}) // of a run before
	signing := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "issuer-key"}, Data: map[string][]byte{"issuer.key": first}}
	if _, err := k.CoreV1().Secrets(namespace).Create(t.Context(), signing, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{iam.KindIssuer, iam.KindPolicy, iam.KindRole} {
		kube.DeleteIAMForTest(t, config, kind, namespace)
	}
	apply := func(kind, name, spec string) error {
		return kube.ApplyIAMForTest(t, config, kind, namespace, name, spec)
	}

	tokens, err := auth.OpenTokens(auth.TokensOptions{Told: true, Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	keys := &auth.APIKeys{Log: testkit.Log(t)}
	var following sync.WaitGroup
	defer following.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	following.Go(func() { _ = tokens.Run(ctx) })
	var providers []*kube.Runtime
	for range 2 { // the second tells of what the first has written
		providers = append(providers, running(t, kube.Options{
			Client: config, DefaultNamespace: namespace, ProfilesNamespace: namespace, IAM: true, ServiceAccounts: []string{"graphene"}, APIKeySecret: true, SigningKeySecret: true,
		}))
	}
	var mu sync.Mutex
	issuers := map[string]bool{} // that are told
	following.Go(func() {
		_ = providers[1].WatchObjects(ctx, func(e function.Event) {
			if e.Object != nil && e.Object.Kind == iam.KindIssuer {
				mu.Lock()
				issuers[e.Object.Name] = e.Object.Content != nil
				mu.Unlock()
			}
			if e.Synced {
				tokens.ObjectsSynced()
				keys.ObjectsSynced()
				return
			}
			tokens.SetObject(*e.Object)
			keys.SetObject(*e.Object)
		})
	})

	beginsWhole(t, config, namespace)

	for kind, spec := range map[string]string{
		iam.KindPolicy: `{"statement":[{"sid":"s","effect":"Allow","action":["Function:Invoke"],"resource":["acme:*"],"condition":{"StringLike":{"jwt:sub":"system:*"}}}]}`,
		iam.KindRole:   `{"policy":["it"],"principal":{"jwt:sub":["system:serviceaccount:iam-test:default"]}}`,
	} {
		if err := apply(kind, "it", spec); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"graphene"}}}
	answer, err := k.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), "default", request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	resource := iam.Resource{Namespace: "acme", Name: "echo"}
	may := func() error {
		caller, err := tokens.Verify(t.Context(), answer.Status.Token)
		if err != nil {
			return err
		}
		if got := caller.Claim("kubernetes.io.namespace"); len(got) != 1 || got[0] != namespace {
			t.Errorf("the pod's namespace is %q", got)
		}
		return auth.May(caller, iam.FunctionInvoke, resource)
	}
	await(t, "a service account calls, without a JwtIssuer", may)
	told := func(name, instead string) func() error {
		return func() error {
			mu.Lock()
			defer mu.Unlock()
			if !issuers[name] || issuers[instead] {
				return fmt.Errorf("told are %v, want %s and not %s", issuers, name, instead)
			}
			return nil
		}
	}
	if err := apply(iam.KindIssuer, "it", `{"iss":"https://kubernetes.default.svc.cluster.local","aud":["graphene"],"tokenExpiry":"2h"}`); err != nil {
		t.Fatal(err)
	}
	await(t, "a resource takes the cluster's own place", told("it", "kubernetes"))
	await(t, "a service account calls, by the resource", may)
	kube.DeleteIAMForTest(t, config, iam.KindIssuer, namespace)
	await(t, "the cluster's own is back", told("kubernetes", "it"))
	await(t, "a service account calls again", may)

	// A resource that is wrong leaves in force what it said, and says so.
	if err := apply(iam.KindRole, "it", `{"policy":["it"],"principal":{"sub":["x"]}}`); err != nil {
		t.Fatal(err)
	}
	ready := func(kind, want string) func() error {
		return func() error {
			conditions := kube.IAMConditionsForTest(t, config, kind, namespace, "it")
			for _, c := range conditions {
				if c.Type == "Ready" && strings.Contains(string(c.Status)+" "+c.Reason+" "+c.Message, want) {
					return nil
				}
			}
			return errors.New("conditions are " + text(conditions))
		}
	}
	await(t, "a role that is wrong says so", ready(iam.KindRole, `False Invalid principal: key is "sub", want jwt:CLAIM; what it said before stays in force`))
	if err := may(); err != nil {
		t.Errorf("after a role became wrong: %v", err)
	}
	await(t, "a policy that is right says so", ready(iam.KindPolicy, "True InForce"))
	if err := apply(iam.KindRole, "it", `{"policy":["it","gone"]}`); err != nil {
		t.Fatal(err)
	}
	await(t, "a role without one of its policies says so", ready(iam.KindRole, "False Incomplete there is no policy gone"))
	if err := may(); err != nil {
		t.Errorf("what the role's other policy allows: %v", err)
	}
	if err := apply(iam.KindPolicy, "denial", `{"statement":[{"effect":"Deny","action":["*"],"resource":["*"]}]}`); !apierrors.IsInvalid(err) {
		t.Errorf("a denial: %v, want that the API server refuses it", err)
	}
	kube.DeleteIAMForTest(t, config, iam.KindPolicy, namespace)
	await(t, "without its policy the role gives nothing", func() error {
		if err := may(); !errors.Is(err, fault.Denied) {
			return errors.Join(errors.New("want fault.Denied"), err)
		}
		return nil
	})

	rotateSigningKeys(t, providers, func() []byte {
		s, err := k.CoreV1().Secrets(namespace).Get(t.Context(), "issuer-key", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s.Data["issuer.key"]
	})

	// Keys are made by one provider, and known through the other.
	key, id, hash := auth.NewAPIKey()
	made := iam.APIKey{ID: id, Hash: hash, Action: iam.List{"Function:Invoke"}, Resource: iam.List{"*"}, Created: time.Now()}
	if err := providers[0].CreateAPIKey(t.Context(), made); err != nil {
		t.Fatal(err)
	}
	if err := providers[1].CreateAPIKey(t.Context(), made); !errors.Is(err, fault.Exists) {
		t.Errorf("made twice: %v", err)
	}
	await(t, "a key is known", func() error { _, err := keys.Verify(key); return err })
	if list, err := providers[1].APIKeys(t.Context()); err != nil || len(list) != 1 || list[0].ID != id {
		t.Errorf("%v, %v", list, err)
	}
	if err := providers[0].DeleteAPIKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	await(t, "a revoked key is refused", func() error {
		if _, err := keys.Verify(key); !errors.Is(err, fault.Unauthenticated) {
			return errors.Join(errors.New("want fault.Unauthenticated"), err)
		}
		return nil
	})
	if err := providers[0].DeleteAPIKey(t.Context(), id); !errors.Is(err, fault.NotFound) {
		t.Errorf("revoked twice: %v", err)
	}
}

// beginsWhole has a provider start whose cluster takes its time to say who signs
// for service accounts: gateways forget what is not in what they are told first.
func beginsWhole(t *testing.T, config *rest.Config, namespace string) {
	t.Helper()
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return slowKeys{next} })
	p := running(t, kube.Options{Client: config, DefaultNamespace: namespace, ProfilesNamespace: namespace, IAM: true, ServiceAccounts: []string{"graphene"}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	kinds := map[string]bool{}
	err := p.WatchObjects(ctx, func(e function.Event) {
		if e.Synced {
			cancel()
		} else if ctx.Err() == nil {
			kinds[e.Object.Kind] = true
		}
	})
	if err != nil || !kinds[iam.KindIssuer] || !kinds[iam.KindKeySet] {
		t.Errorf("a provider begins with %v, want an issuer and its keys; %v", kinds, err)
	}
}

// slowKeys carries requests to an API server, those for the keys of service
// accounts later than all others.
type slowKeys struct{ http.RoundTripper }

func (s slowKeys) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == "/openid/v1/jwks" {
		time.Sleep(time.Second)
	}
	return s.RoundTripper.RoundTrip(r)
}

// rotateSigningKeys has two providers make a new key at the same time.
func rotateSigningKeys(t *testing.T, providers []*kube.Runtime, read func() []byte) {
	t.Helper()
	before, err := signkey.Parse(read())
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]string, len(providers))
	errs := make([]error, len(providers))
	var all sync.WaitGroup
	for n, p := range providers {
		all.Go(func() { ids[n], errs[n] = p.RotateSigningKeys(t.Context()) })
	}
	all.Wait()
	made := ""
	for n, err := range errs {
		switch {
		case err == nil && made == "":
			made = ids[n]
		case !errors.Is(err, fault.Exists):
			t.Errorf("provider %d made %s: %v, after %s", n, ids[n], err, made)
		}
	}
	after, err := signkey.Parse(read())
	if err != nil || len(after) != 2 || after[0].ID != made || after[1].ID != before[0].ID {
		t.Errorf("the secret holds %d keys, %v", len(after), err)
	}
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

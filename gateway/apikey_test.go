package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/provider"
	"github.com/graphene-faas/graphene/provider/local"
)

// fleet is several gateways of one provider, with the network between them.
type fleet struct {
	urls []string
	file string // of API keys
}

func startFleet(t *testing.T, gateways int, adjust ...func(*gateway.Options)) *fleet {
	t.Helper()
	f := &fleet{file: filepath.Join(t.TempDir(), "api-keys.json")}
	replica := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "called with ", r.Header.Get("Authorization"), r.Header.Get("X-API-Key"))
	}))
	t.Cleanup(replica.Close)
	runtime := newRuntime("tcp:" + strings.TrimPrefix(replica.URL, "http://"))
	for _, name := range []string{"echo", "other"} {
		if err := runtime.Deploy(t.Context(), types.FunctionDeployment{Service: name, Namespace: "openfaas-fn", Image: "i"}); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := local.OpenAPIKeys(f.file)
	if err != nil {
		t.Fatal(err)
	}
	server := provider.New(provider.Options{Runtime: runtime, APIKeys: keys, Objects: keys, Log: testkit.Log(t)})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	run := func(f func(context.Context) error) {
		running.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	run(server.Run)
	front := httptest.NewServer(server.Handler())
	at, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	for range gateways {
		o := gateway.Options{
			Listener: listen(t), Provider: http.DefaultTransport, ProviderURL: at,
			Authenticator: auth.NewBasic("admin", "s3cret"), Log: testkit.Log(t),
		}
		for _, a := range adjust {
			a(&o)
		}
		f.urls = append(f.urls, "http://"+o.Listener.Addr().String())
		run(gateway.New(o).Run)
	}
	t.Cleanup(func() {
		cancel()
		front.CloseClientConnections()
		running.Wait()
		front.Close()
	})
	for i := range f.urls {
		for {
			if status, _ := f.ask(t, i, "GET", "/healthz", "", nil); status == 200 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	return f
}

// ask sends a request to one of the gateways. credential is that of the
// administrator, or an API key.
func (f *fleet) ask(t *testing.T, gateway int, method, path, credential string, body any) (int, string) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, f.urls[gateway]+path, strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case credential == "admin":
		r.SetBasicAuth("admin", "s3cret")
	case credential != "":
		r.Header.Set("X-API-Key", credential)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

// until asks until the answer has a status, and returns how long that took.
func (f *fleet) until(t *testing.T, gateway int, status int, path, key string) time.Duration {
	t.Helper()
	for began := time.Now(); ; time.Sleep(100 * time.Microsecond) {
		if got, _ := f.ask(t, gateway, "GET", path, key, nil); got == status {
			return time.Since(began)
		}
		if t.Context().Err() != nil {
			t.Fatalf("gateway %d does not answer %d", gateway, status)
		}
	}
}

func TestARevokedAPIKeyIsRefusedByAllGatewaysAtOnce(t *testing.T) {
	i := startIssuer(t)
	f := startFleet(t, 2, guard(t, i))
	status, text := f.ask(t, 0, "POST", "/system/api-keys", "admin", map[string]any{
		"name": "etl", "action": []string{"Function:Invoke", "Function:List"}, "resource": []string{"openfaas-fn:echo", "openfaas-fn:*"}, "expires_in": 3600,
	})
	var made struct{ Key, ID, Hash, Created_By string }
	if err := json.Unmarshal([]byte(text), &made); err != nil || status != 200 || !strings.HasPrefix(made.Key, "gpk_"+made.ID) || made.Hash != "" {
		t.Fatalf("%d %s, %v", status, text, err)
	}
	for g := range f.urls {
		f.until(t, g, 200, "/function/echo", made.Key)
		if status, text := f.ask(t, g, "GET", "/function/echo", made.Key, nil); status != 200 || text != "called with " {
			t.Errorf("gateway %d: %d %q; the function must not see the key", g, status, text)
		}
		for path, want := range map[string]int{"/system/functions": 200, "/system/secrets": 403, "/system/api-keys": 403, "/system/info": 403} {
			if status, text := f.ask(t, g, "GET", path, made.Key, nil); status != want {
				t.Errorf("gateway %d, %s: %d %s, want %d", g, path, status, text, want)
			}
		}
	}
	status, text = f.ask(t, 1, "GET", "/system/api-keys", "admin", nil)
	if status != 200 || strings.Contains(text, made.Key) || strings.Contains(text, "hash") || !strings.Contains(text, `"created_by":"admin"`) || !strings.Contains(text, `"last_used"`) {
		t.Errorf("the list: %d %s", status, text)
	}
	if status, text := f.ask(t, 0, "DELETE", "/system/api-keys/"+made.ID, "admin", nil); status != 202 {
		t.Fatalf("%d %s", status, text)
	}
	for g := range f.urls {
		t.Logf("gateway %d refuses the key %v after it was revoked", g, f.until(t, g, 401, "/function/echo", made.Key))
	}
	if status, _ := f.ask(t, 0, "DELETE", "/system/api-keys/"+made.ID, "admin", nil); status != 404 {
		t.Errorf("revoked twice: %d", status)
	}
	// What is kept does not give the key away.
	keys, err := local.OpenAPIKeys(f.file)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := keys.APIKeys(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestAPIKeysAreMadeOnlyForWhatTheirMakerMay(t *testing.T) {
	i := startIssuer(t)
	f := startFleet(t, 1, guard(t, i))
	for name, tt := range map[string]struct {
		body   any
		status int
		text   string
	}{
		"good":               {map[string]any{"action": "Key:Create", "resource": "*"}, 200, "gpk_"},
		"no action":          {map[string]any{"resource": "*"}, 400, "action is empty"},
		"no such action":     {map[string]any{"action": "Function:Fly", "resource": "*"}, 400, "Function:Fly"},
		"no resource":        {map[string]any{"action": "*"}, 400, "resource is empty"},
		"not so long":        {map[string]any{"action": "*", "resource": "*", "expires_in": -1}, 400, "expires_in"},
		"a very long name":   {map[string]any{"action": "*", "resource": "*", "name": strings.Repeat("n", 201)}, 400, "name"},
		"not even an object": {"x", 400, ""},
	} {
		if status, text := f.ask(t, 0, "POST", "/system/api-keys", "admin", tt.body); status != tt.status || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %d %s, want %d and %q", name, status, text, tt.status, tt.text)
		}
	}
	_, text := f.ask(t, 0, "POST", "/system/api-keys", "admin", map[string]any{"action": "Key:Create", "resource": "*"})
	var made struct{ Key string }
	if err := json.Unmarshal([]byte(text), &made); err != nil {
		t.Fatal(err)
	}
	f.until(t, 0, 403, "/system/api-keys", made.Key)
	if status, text := f.ask(t, 0, "POST", "/system/api-keys", made.Key, map[string]any{"action": "*", "resource": "*"}); status != 403 || !strings.Contains(text, "give away more") {
		t.Errorf("a key makes a mightier one: %d %s", status, text)
	}
	if status, text := f.ask(t, 0, "POST", "/system/api-keys", made.Key, map[string]any{"action": "Key:Create", "resource": "*"}); status != 200 {
		t.Errorf("a key makes its like: %d %s", status, text)
	}
	if status, _ := f.ask(t, 0, "POST", "/system/api-keys", "", map[string]any{"action": "*", "resource": "*"}); status != 401 {
		t.Errorf("nobody makes a key: %d", status)
	}
}

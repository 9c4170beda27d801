package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/mux"
	"github.com/openfaas/faas-provider/auth"

	"github.com/graphene-faas/graphene/provider"
)

// TestEveryRouteButHealthRefusesCallersNobodyKnows walks every route there is.
func TestEveryRouteButHealthRefusesCallersNobodyKnows(t *testing.T) {
	api := provider.New(provider.Options{}).Handler()
	guarded := routes(api, always(true), &auth.BasicAuthCredentials{User: "admin", Password: "s3cret"})
	credentials := map[string]func(*http.Request){
		"none":                  func(*http.Request) {},
		"a wrong password":      func(r *http.Request) { r.SetBasicAuth("admin", "wrong") },
		"an empty password":     func(r *http.Request) { r.SetBasicAuth("admin", "") },
		"another kind of token": func(r *http.Request) { r.Header.Set("Authorization", "Bearer s3cret") },
	}
	seen := 0
	err := api.(*mux.Router).Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := route.GetPathTemplate()
		if err != nil {
			return err
		}
		methods, err := route.GetMethods()
		if err != nil || path == "/healthz" {
			return err
		}
		if before, _, ok := strings.Cut(path, "{name"); ok {
			path = before + "echo"
		}
		for _, method := range methods {
			for name, set := range credentials {
				r := httptest.NewRequest(method, path, strings.NewReader("{}"))
				set(r)
				w := httptest.NewRecorder()
				if guarded.ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
					t.Errorf("%s %s with %s: %d", method, path, name, w.Code)
				}
			}
			seen++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 20 {
		t.Errorf("only %d routes were found", seen)
	}
}

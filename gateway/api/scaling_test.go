package api_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/gateway/api"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// unasked is a provider that nobody may ask.
func unasked(t *testing.T) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) { t.Errorf("the provider was asked %s", r.RequestURI) }
}

func TestScalingIsExplainedToWhoeverMaySeeTheFunction(t *testing.T) {
	s := newStage(t, unasked(t), func(o *api.Options) {
		o.Scaling = func(ref function.Ref) (any, bool) {
			return map[string]string{"function": ref.String()}, ref.Name == "wine"
		}
	})
	for uri, want := range map[string]string{
		"/system/function/wine/scaling":                  "200 {\"function\":\"wine.openfaas-fn\"}\n",
		"/system/function/wine/scaling?namespace=lab":    "200 {\"function\":\"wine.lab\"}\n",
		"/system/function/wine.lab/scaling":              "200 {\"function\":\"wine.lab\"}\n",
		"/system/function/beer/scaling":                  "404 function beer.openfaas-fn is not deployed\n",
		"/system/function/wine.lab/scaling?namespace=ab": "400 the request names two namespaces, \"lab\" and \"ab\"\n",
		"/system/function/Wine/scaling":                  "400",
	} {
		got := s.do("GET", uri, "")
		if text := fmt.Sprintf("%d %s", got.Code, got.Body); text != want && fmt.Sprint(got.Code) != want {
			t.Errorf("%s answers %q, want %q", uri, text, want)
		}
	}
	s.allowed, s.denied = nil, true
	if got := s.do("GET", "/system/function/wine.lab/scaling", ""); got.Code != 403 {
		t.Errorf("whoever may not gets %d", got.Code)
	}
	if diff := cmp.Diff([]string{"Function:Get lab:wine"}, s.allowed); diff != "" {
		t.Errorf("asked for the right (-want +got):\n%s", diff)
	}
}

func TestEveryAlertOfAGroupIsFollowed(t *testing.T) {
	var heard []string
	s := newStage(t, unasked(t), func(o *api.Options) {
		o.Alert = func(_ context.Context, ref function.Ref, firing bool) error {
			heard = append(heard, fmt.Sprint(ref, " ", firing))
			if ref.Name == "gone" {
				return fault.NotFound.Errorf("function %s is not deployed", ref)
			}
			return nil
		}
	})
	alert := func(status, name string) string {
		return fmt.Sprintf(`{"status":%q,"labels":{"alertname":"APIHighInvocationRate","function_name":%q,"severity":"major"},"startsAt":"2026-01-02T15:04:05Z"}`, status, name)
	}
	group := func(status string, alerts ...string) string {
		all := ""
		for i, a := range alerts {
			if i > 0 {
				all += ","
			}
			all += a
		}
		return fmt.Sprintf(`{"receiver":"scale-up","status":%q,"alerts":[%s],"groupLabels":{},"commonLabels":{},"externalURL":"http://am:9093","version":"4"}`, status, all)
	}
	for _, tt := range []struct {
		name, body string
		status     int
		heard      []string
	}{
		{"one that fires", group("firing", alert("firing", "wine.lab")), 200, []string{"wine.lab true"}},
		{"one that is resolved", group("resolved", alert("resolved", "wine")), 200, []string{"wine.openfaas-fn false"}},
		{"some of each", group("firing", alert("firing", "a"), alert("resolved", "b")), 200, []string{"a.openfaas-fn true", "b.openfaas-fn false"}},
		{"the status of the group alone", group("firing", alert("", "a")), 200, []string{"a.openfaas-fn true"}},
		{"one in vain among others", group("firing", alert("firing", "gone"), alert("firing", "a")), 404, []string{"gone.openfaas-fn true", "a.openfaas-fn true"}},
		{"none", group("firing"), 400, nil},
		{"a state nobody knows", group("firing", alert("burning", "a")), 400, nil},
		{"no function", `{"status":"firing","alerts":[{"status":"firing","labels":{}}]}`, 400, nil},
		{"a name that is none", group("firing", alert("firing", "../a")), 400, nil},
		{"no document", `firing!`, 400, nil},
		{"nothing", ``, 400, nil},
	} {
		heard = nil
		if got := s.do("POST", "/system/alert", tt.body); got.Code != tt.status {
			t.Errorf("%s: answered %d %q, want %d", tt.name, got.Code, got.Body, tt.status)
		}
		if diff := cmp.Diff(tt.heard, heard); diff != "" {
			t.Errorf("%s: heard (-want +got):\n%s", tt.name, diff)
		}
	}
	heard, s.allowed, s.denied = nil, nil, true
	if got := s.do("POST", "/system/alert", group("firing", alert("firing", "wine.lab"))); got.Code != 403 || heard != nil {
		t.Errorf("whoever may not scale gets %d, and %v was heard", got.Code, heard)
	}
	if diff := cmp.Diff([]string{"Function:Scale lab:wine"}, s.allowed); diff != "" {
		t.Errorf("asked for the right (-want +got):\n%s", diff)
	}
}

func FuzzAlert(f *testing.F) {
	f.Add(`{"status":"firing","alerts":[{"labels":{"function_name":"a.b"}}]}`)
	f.Add(`{"alerts":[null]}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, body string) {
		s := newStage(t, unasked(t), func(o *api.Options) {
			o.Alert = func(_ context.Context, ref function.Ref, _ bool) error { return ref.Validate() }
		})
		if got := s.do("POST", "/system/alert", body); got.Code != 200 && got.Code != 400 {
			t.Errorf("%q is answered %d", body, got.Code)
		}
	})
}

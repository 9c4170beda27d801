package api

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// named is for requests about a function that the gateway answers by itself.
func (a *API) named(_ http.ResponseWriter, r *http.Request) (subject, error) {
	s := subject{path: r.URL.Path, query: r.URL.Query()}
	ref, err := a.parse(mux.Vars(r)["name"])
	if err != nil {
		return s, err
	}
	s.name = ref.Name
	return s, a.settle(&s, ref.Namespace)
}

// scaling says why a function has as many replicas as it has.
func (a *API) scaling(w http.ResponseWriter, _ *http.Request, s subject) error {
	ref := function.Ref{Name: s.name, Namespace: s.namespace}
	answer, ok := a.o.Scaling(ref)
	if !ok {
		return fault.NotFound.Errorf("function %s is not deployed", ref)
	}
	web.WriteJSON(w, http.StatusOK, answer)
	return nil
}

// An alertGroup is what Alertmanager sends to a webhook, as far as it matters.
type alertGroup struct {
	Status string `json:"status"`
	Alerts []struct {
		Status string            `json:"status"` // firing or resolved; older versions tell only that of the group
		Labels map[string]string `json:"labels"`
	} `json:"alerts"`
}

// alert scales functions as alerts ask for. An alert that cannot be followed
// does not keep the others from being; Alertmanager sends all of them again
// when one failed.
func (a *API) alert(w http.ResponseWriter, r *http.Request) error {
	body, err := web.ReadBody(w, r, a.o.MaxBody)
	if err != nil {
		return err
	}
	var group alertGroup
	if err := web.Unmarshal(body, &group); err != nil {
		return err
	}
	if len(group.Alerts) == 0 {
		return fault.Invalid.Errorf("alerts is missing: it says which functions are to be scaled")
	}
	var problems []error
	for _, alert := range group.Alerts {
		if err := a.follow(r, cmp.Or(alert.Status, group.Status), alert.Labels["function_name"]); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...) // without one, status 200 and nothing to say
}

func (a *API) follow(r *http.Request, status, name string) error {
	if name == "" {
		return fault.Invalid.Errorf("an alert has no label function_name")
	}
	if status != "firing" && status != "resolved" {
		return fault.Invalid.Errorf("the alert for %s is %q, want firing or resolved", name, status)
	}
	ref, err := function.ParseRef(name, a.o.Namespace)
	if err != nil {
		return err
	}
	if err := a.o.May(r.Context(), "Function:Scale", ref.Namespace, ref.Name); err != nil {
		return err
	}
	return a.o.Alert(r.Context(), ref, status == "firing")
}

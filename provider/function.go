package provider

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"

	"github.com/gorilla/mux"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// maxReplicas bounds what one request can ask for: a slip of the finger must
// not fill the machine.
const maxReplicas = 1000

func (s *Server) listFunctions(w http.ResponseWriter, r *http.Request) error {
	namespace := namespaceOf(r)
	if err := function.ValidNamespace(namespace); err != nil {
		return err
	}
	list, err := s.Runtime.List(r.Context(), namespace)
	if err != nil {
		return fmt.Errorf("list functions of %s: %w", namespace, err)
	}
	all := make([]listedStatus, len(list)) // [] and not null when there are none
	for i, f := range list {
		all[i].FunctionStatus = present(f)
		if !asksFor(r, "details") {
			continue
		}
		if e, ok := s.hub.endpoints(function.Ref{Name: f.Name, Namespace: f.Namespace}); ok {
			all[i].Tier = e.Tier().String()
		}
	}
	web.WriteJSON(w, http.StatusOK, all)
	return nil
}

func (s *Server) createFunction(w http.ResponseWriter, r *http.Request) error {
	return s.deploy(w, r, func(ref function.Ref, exists bool) error {
		if exists {
			return fault.Exists.Errorf("function %s exists already: update it with PUT, or remove it first", ref)
		}
		return nil
	})
}

func (s *Server) updateFunction(w http.ResponseWriter, r *http.Request) error {
	return s.deploy(w, r, func(ref function.Ref, exists bool) error {
		if !exists {
			return fault.NotFound.Errorf("function %s is not deployed: create it with POST", ref)
		}
		return nil
	})
}

// deploy checks a deployment and hands it to the runtime, unless accept
// refuses because the function exists, or because it does not.
func (s *Server) deploy(w http.ResponseWriter, r *http.Request, accept func(ref function.Ref, exists bool) error) error {
	var spec types.FunctionDeployment
	if err := web.Decode(w, r, s.MaxBody, &spec); err != nil {
		return err
	}
	spec.Namespace = namespaceOf(r, spec.Namespace)
	if err := validate(spec); err != nil {
		return err
	}
	ref := function.Ref{Name: spec.Service, Namespace: spec.Namespace}
	_, err := s.Runtime.Status(r.Context(), ref)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return fmt.Errorf("look for %s: %w", ref, err)
	}
	if err := accept(ref, err == nil); err != nil {
		return err
	}
	if err := s.checkSurroundings(r, spec); err != nil {
		return err
	}
	if err := s.Runtime.Deploy(r.Context(), spec); err != nil {
		return fmt.Errorf("deploy %s: %w", ref, err)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// checkSurroundings checks that what spec refers to is there.
func (s *Server) checkSurroundings(r *http.Request, spec types.FunctionDeployment) error {
	if s.Namespaces != nil {
		if _, err := s.Namespaces.Namespace(r.Context(), spec.Namespace); errors.Is(err, fault.NotFound) {
			return fault.Invalid.Errorf("namespace %q does not exist: create it first", spec.Namespace)
		} else if err != nil {
			return fmt.Errorf("look for namespace %s: %w", spec.Namespace, err)
		}
	} else if spec.Namespace != function.DefaultNamespace {
		return fault.Invalid.Errorf("namespace must be: %s", function.DefaultNamespace)
	}
	if len(spec.Secrets) == 0 {
		return nil
	}
	if s.Secrets == nil {
		return fault.Invalid.Errorf("this installation keeps no secrets")
	}
	if finder, ok := s.Secrets.(SecretFinder); ok {
		missing, err := finder.FindSecrets(r.Context(), spec.Namespace, spec.Secrets)
		if err != nil {
			return fmt.Errorf("look for secrets of %s: %w", spec.Namespace, err)
		}
		return noneMissing(missing, spec.Namespace)
	}
	known, err := s.Secrets.ListSecrets(r.Context(), spec.Namespace)
	if err != nil {
		return fmt.Errorf("list secrets of %s: %w", spec.Namespace, err)
	}
	return missingSecrets(spec, known)
}

func (s *Server) deleteFunction(w http.ResponseWriter, r *http.Request) error {
	var body types.DeleteFunctionRequest
	if err := web.Decode(w, r, s.MaxBody, &body); err != nil {
		return err
	}
	ref, err := function.ParseRef(body.FunctionName, namespaceOf(r, body.Namespace))
	if err != nil {
		return err
	}
	if err := s.Runtime.Remove(r.Context(), ref); err != nil {
		return fmt.Errorf("remove %s: %w", ref, err)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// A listedStatus is a function's status in a list. The tier is there for those
// who ask for details.
type listedStatus struct {
	types.FunctionStatus
	Tier string `json:"tier,omitempty"`
}

// A detailedStatus is a function's status with what OpenFaaS has no field for.
// It is given to those who ask for it.
type detailedStatus struct {
	types.FunctionStatus
	// Revision counts the function's deploys. The latest one is in effect when
	// an instance of that revision is ready.
	Revision  int64              `json:"revision"`
	Failure   string             `json:"failure,omitempty"`
	Waiting   string             `json:"waiting,omitempty"`
	Note      string             `json:"note,omitempty"`
	Tier      string             `json:"tier,omitempty"`
	Rest      *function.Rest     `json:"rest,omitempty"`
	Room      *function.Room     `json:"room,omitempty"`
	Instances []function.Replica `json:"instances,omitempty"`
	Settings  function.Settings  `json:"settings"`
}

func (s *Server) functionStatus(w http.ResponseWriter, r *http.Request) error {
	ref, err := function.ParseRef(mux.Vars(r)["name"], namespaceOf(r))
	if err != nil {
		return err
	}
	status, err := s.Runtime.Status(r.Context(), ref)
	if err != nil {
		return fmt.Errorf("look up %s: %w", ref, err)
	}
	if asksFor(r, "usage") {
		usage, err := s.Runtime.Usage(r.Context(), ref)
		if err != nil {
			return fmt.Errorf("measure %s: %w", ref, err)
		}
		status.Usage = &usage
	}
	status = present(status)
	if !asksFor(r, "details") {
		web.WriteJSON(w, http.StatusOK, status)
		return nil
	}
	detailed := detailedStatus{FunctionStatus: status}
	if e, ok := s.hub.endpoints(ref); ok {
		detailed.Revision, detailed.Failure, detailed.Waiting, detailed.Note = e.Revision, e.Failure, e.Waiting, e.Note
		detailed.Tier, detailed.Rest, detailed.Room = e.Tier().String(), e.Rest, e.Room
		detailed.Instances, detailed.Settings = e.Replicas, e.Settings
	}
	web.WriteJSON(w, http.StatusOK, detailed)
	return nil
}

func asksFor(r *http.Request, parameter string) bool {
	yes, err := strconv.ParseBool(r.URL.Query().Get(parameter))
	return err == nil && yes
}

func (s *Server) scaleFunction(w http.ResponseWriter, r *http.Request) error {
	var body types.ScaleServiceRequest
	if err := web.Decode(w, r, s.MaxBody, &body); err != nil {
		return fault.Invalid.Errorf("Cannot parse request. Please pass valid JSON. %w", err)
	}
	// The path says which function is meant, whatever the body says.
	ref, err := function.ParseRef(mux.Vars(r)["name"], namespaceOf(r, body.Namespace))
	if err != nil {
		return err
	}
	if body.Replicas > maxReplicas {
		return fault.Invalid.Errorf("scale %s: %d replicas are more than the %d allowed", ref, body.Replicas, maxReplicas)
	}
	if err := s.Runtime.Scale(r.Context(), ref, int(body.Replicas)); err != nil {
		return fmt.Errorf("scale %s to %d: %w", ref, body.Replicas, err)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// present gives a status the form that clients rely on: the function's name
// among its labels, objects rather than null, and no environment when there
// is none.
func present(f types.FunctionStatus) types.FunctionStatus {
	labels := map[string]string{}
	if f.Labels != nil {
		maps.Copy(labels, *f.Labels)
	}
	labels[function.LabelName] = f.Name
	f.Labels = &labels
	if f.Annotations == nil {
		f.Annotations = &map[string]string{}
	}
	return f
}

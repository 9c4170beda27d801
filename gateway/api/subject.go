package api

import (
	"net/http"
	"net/url"

	"github.com/gorilla/mux"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// A subject is what a request is about, and what of the request goes on to the
// provider. Clients put the namespace in the query, in the body, or behind the
// function's name in the path. It is settled here, once, so that what is
// allowed is also what is done.
type subject struct {
	namespace string // "" for the platform
	name      string // of a function; "" for a namespace or the platform
	path      string // at the provider
	query     url.Values
	body      []byte
}

// A finder finds out what a request is about.
type finder func(w http.ResponseWriter, r *http.Request) (subject, error)

// everything is for requests about the platform as a whole.
func (a *API) everything(_ http.ResponseWriter, r *http.Request) (subject, error) {
	return subject{path: r.URL.Path, query: r.URL.Query()}, nil
}

// inNamespace is for listings.
func (a *API) inNamespace(_ http.ResponseWriter, r *http.Request) (subject, error) {
	s := subject{path: r.URL.Path, query: r.URL.Query()}
	return s, a.settle(&s)
}

// loggedFunction is for requests for logs, which name a function in the query.
func (a *API) loggedFunction(_ http.ResponseWriter, r *http.Request) (subject, error) {
	s := subject{path: r.URL.Path, query: r.URL.Query()}
	ref, err := a.parse(s.query.Get("name"))
	if err != nil {
		return s, fault.Unprocessable.Errorf("could not parse the log request: %w", err)
	}
	s.name = ref.Name
	s.query.Set("name", ref.Name)
	return s, a.settle(&s, ref.Namespace)
}

// inPath is for requests that name a function in the path.
func (a *API) inPath(w http.ResponseWriter, r *http.Request) (subject, error) {
	s := subject{query: r.URL.Query()}
	raw := mux.Vars(r)["name"]
	ref, err := a.parse(raw)
	if err != nil {
		return s, err
	}
	s.name = ref.Name
	// The route has no slash behind the name, so the name ends the path.
	s.path = r.URL.Path[:len(r.URL.Path)-len(raw)] + ref.Name
	var body struct {
		Namespace string `json:"namespace"`
	}
	if err := a.readBody(w, r, &s, &body); err != nil {
		return s, err
	}
	return s, a.settle(&s, ref.Namespace, body.Namespace)
}

// inBody is for requests that name a function in their body: deployments call
// the name service, removals functionName.
func (a *API) inBody(w http.ResponseWriter, r *http.Request) (subject, error) {
	s := subject{path: r.URL.Path, query: r.URL.Query()}
	var body struct {
		Service      string `json:"service"`
		FunctionName string `json:"functionName"`
		Namespace    string `json:"namespace"`
	}
	if err := a.needBody(w, r, &s, &body); err != nil {
		return s, err
	}
	field := "service"
	if s.name = body.Service; r.Method == http.MethodDelete {
		s.name, field = body.FunctionName, "functionName"
	}
	if s.name == "" {
		return s, fault.Invalid.Errorf("%s is missing: it names the function", field)
	}
	if err := a.settle(&s, body.Namespace); err != nil {
		return s, err
	}
	return s, function.Ref{Name: s.name, Namespace: s.namespace}.Validate()
}

// secretInBody is for requests about a secret, which is allowed by namespace.
func (a *API) secretInBody(w http.ResponseWriter, r *http.Request) (subject, error) {
	s := subject{path: r.URL.Path, query: r.URL.Query()}
	var body struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	}
	if err := a.needBody(w, r, &s, &body); err != nil {
		return s, err
	}
	if err := function.ValidSecretName(body.Name); err != nil {
		return s, err
	}
	return s, a.settle(&s, body.Namespace)
}

// namespaceInBody is for the creation of a namespace.
func (a *API) namespaceInBody(w http.ResponseWriter, r *http.Request) (subject, error) {
	s := subject{path: r.URL.Path, query: r.URL.Query()}
	var body struct {
		Name string `json:"name"`
	}
	if err := a.needBody(w, r, &s, &body); err != nil {
		return s, err
	}
	s.namespace = body.Name
	return s, function.ValidNamespace(s.namespace)
}

// namespaceInPath is for requests about a namespace that exists. Clients
// repeat the name in the body.
func (a *API) namespaceInPath(w http.ResponseWriter, r *http.Request) (subject, error) {
	s := subject{namespace: mux.Vars(r)["namespace"], query: r.URL.Query()}
	if err := function.ValidNamespace(s.namespace); err != nil {
		return s, err
	}
	s.path = "/system/namespace/" + s.namespace
	var body struct {
		Name string `json:"name"`
	}
	if err := a.readBody(w, r, &s, &body); err != nil {
		return s, err
	}
	if body.Name != "" && body.Name != s.namespace {
		return s, fault.Invalid.Errorf("namespace is %q in the path but %q in the body", s.namespace, body.Name)
	}
	return s, nil
}

// parse reads NAME or NAME.NAMESPACE. Without a namespace the result has none.
func (a *API) parse(name string) (function.Ref, error) {
	ref, err := function.ParseRef(name, a.o.Namespace)
	if err == nil && ref.Name == name {
		ref.Namespace = ""
	}
	return ref, err
}

// settle sets the namespace of s from the query and the other places the
// request could name it in. They must agree: of two different ones, either
// could be what the caller did not mean.
func (a *API) settle(s *subject, others ...string) error {
	for _, ns := range append(others, s.query["namespace"]...) {
		if ns == "" {
			continue
		}
		if s.namespace != "" && s.namespace != ns {
			return fault.Invalid.Errorf("the request names two namespaces, %q and %q", s.namespace, ns)
		}
		s.namespace = ns
	}
	if s.namespace == "" {
		s.namespace = a.o.Namespace
	}
	s.query.Set("namespace", s.namespace)
	return function.ValidNamespace(s.namespace)
}

// readBody keeps r's body in s and reads it into v, if there is one.
func (a *API) readBody(w http.ResponseWriter, r *http.Request, s *subject, v any) error {
	var err error
	if s.body, err = web.ReadBody(w, r, a.o.MaxBody); err != nil || len(s.body) == 0 {
		return err
	}
	return web.Unmarshal(s.body, v)
}

// needBody is readBody for requests that mean nothing without one.
func (a *API) needBody(w http.ResponseWriter, r *http.Request, s *subject, v any) error {
	var err error
	if s.body, err = web.ReadBody(w, r, a.o.MaxBody); err != nil {
		return err
	}
	return web.Unmarshal(s.body, v)
}

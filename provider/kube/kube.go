// Package kube runs functions in a Kubernetes cluster: the runtime of the
// cluster size.
//
// A deploy writes one object, the custom resource [Function], and that is the
// only truth about the function. A controller, which runs in one of the
// providers, renders it into a Deployment and a Service, applies them, repairs
// what others change in them, and writes down in the resource's status what
// has become of it. How many replicas there should be belongs to the
// Deployment, where whoever scales sets it: the gateway through
// [Runtime.Scale], a HorizontalPodAutoscaler, a person.
//
// Everything that is read comes from memory, which informers keep equal to the
// API server's, and every provider does so: while the API server is away the
// stream of endpoints stands still and stays true of what was. The conditions
// of pods say who is ready; EndpointSlices are made from them, and come later.
//
// Start with [New], keep [Runtime.Run] running, and hand the Runtime to
// package provider, whose interfaces it satisfies.
package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// Options configure a Runtime. Client and DefaultNamespace are required.
type Options struct {
	Client *rest.Config
	// DefaultNamespace is where functions live that name no other.
	DefaultNamespace string
	// Namespaces are further ones for functions, when AllNamespaces is not set.
	Namespaces []string
	// AllNamespaces also uses every namespace that is marked openfaas=1. It
	// needs permissions for the whole cluster.
	AllNamespaces bool
	// ProfilesNamespace holds the profiles, the lease of the controller, and
	// what says who may do what; "" is DefaultNamespace.
	ProfilesNamespace string
	// IAM follows the resources JwtIssuer, Policy and Role, which the cluster
	// must know, and the keys that sign the tokens of service accounts.
	IAM bool
	// ServiceAccounts has the tokens of the cluster's service accounts believed
	// that are for one of these audiences, as a JwtIssuer called kubernetes
	// would. It needs IAM.
	ServiceAccounts []string
	// APIKeySecret keeps API keys, in a secret that there must be.
	APIKeySecret bool
	// SigningKeySecret has this make new keys for the platform's own tokens,
	// in a secret that there must be and that gateways have mounted.
	SigningKeySecret bool
	Pods             PodConfig
	// ThroughService has functions called through their Services and not by
	// the addresses of their pods, for service meshes.
	ThroughService bool
	// Identity names this process among those that may be the controller.
	// Empty: it is the only one, and always is.
	Identity string
	// Workers bounds how many functions the controller works on at once; 0 is 4.
	Workers int
	Log     *slog.Logger
}

// A Runtime runs functions. It implements the interfaces Runtime, Secrets,
// Logs and Namespaces of package provider.
type Runtime struct {
	Options
	clients    *clients
	seen       *observed
	profiles   *profiles
	namespaces *namespaces
	secrets    *secretKinds
	loads      *loads
	identity   *identity
	synced     chan struct{} // closed when everything has been seen once

	mu      sync.Mutex
	control *controller // nil while another process is the controller
}

// New returns a Runtime. It asks the API server nothing yet.
func New(o Options) (*Runtime, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.ProfilesNamespace = cmp.Or(o.ProfilesNamespace, o.DefaultNamespace)
	o.Pods.ImagePullPolicy = cmp.Or(o.Pods.ImagePullPolicy, PullAuto)
	o.Workers = cmp.Or(o.Workers, 4)
	for _, ns := range append(slices.Clone(o.Namespaces), o.DefaultNamespace) {
		if err := function.ValidNamespace(ns); err != nil {
			return nil, err
		}
	}
	c, err := newClients(o.Client)
	if err != nil {
		return nil, err
	}
	r := &Runtime{
		Options:  o,
		clients:  c,
		secrets:  newSecretKinds(c),
		loads:    newLoads(),
		identity: newIdentity(o.Log),
		synced:   make(chan struct{}),
	}
	r.namespaces = newNamespaces(o, func(ns string) { r.seen.reconsider(ns) })
	r.profiles = newProfiles(r.profileChanged)
	r.seen = newObserved(o.ThroughService, r.namespaces.usable, r.changed)
	return r, nil
}

// Run watches the cluster, and controls it while this process is the one that
// should, until ctx ends. It is called once.
func (r *Runtime) Run(ctx context.Context) error {
	watched := []string{""}
	if !r.AllNamespaces {
		watched = sortedUnique(append(slices.Clone(r.Namespaces), r.DefaultNamespace))
	}
	informers, err := r.informers(watched)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ready []cache.InformerSynced
	for _, i := range informers {
		group.Go(func() { i.run(ctx) })
		ready = append(ready, i.synced)
	}
	asked := make(chan struct{})
	group.Go(func() { r.followKeySet(ctx, asked) })
	if !cache.WaitForCacheSync(ctx.Done(), ready...) {
		return nil
	}
	// What gateways hear first must be whole: they forget what is not in it, and
	// would refuse every service account until its keys are known.
	select {
	case <-asked:
	case <-ctx.Done():
		return nil
	}
	close(r.synced)
	r.Log.Info("the cluster is known", "functions", len(r.seen.refs()))
	group.Go(func() { r.keepCosts(ctx) })
	return r.lead(ctx)
}

// Ready reports whether everything has been seen once.
func (r *Runtime) Ready() bool {
	select {
	case <-r.synced:
		return true
	default:
		return false
	}
}

// whenSynced waits until everything has been seen once.
func (r *Runtime) whenSynced(ctx context.Context) error {
	select {
	case <-r.synced:
		return nil
	case <-ctx.Done():
		return fault.Unavailable.Errorf("the Kubernetes API has not been read yet: %w", context.Cause(ctx))
	}
}

// Watch implements package provider's Runtime. It begins when everything has
// been seen once.
func (r *Runtime) Watch(ctx context.Context, report func(function.Event)) error {
	if err := r.whenSynced(ctx); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil
		}
		return fmt.Errorf("watch endpoints: %w", err)
	}
	w := &watcher{report}
	r.seen.watch(w)
	<-ctx.Done()
	r.seen.unwatch(w)
	return nil
}

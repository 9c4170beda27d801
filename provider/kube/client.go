package kube

import (
	"context"
	"fmt"
	"net/http"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/graphene-faas/graphene/internal/function"
)

// clients speak to the API server.
type clients struct {
	kubernetes.Interface
	metadata metadata.Interface
	custom   rest.Interface
	iamGroup rest.Interface
	codec    runtime.ParameterCodec
}

// newClients returns clients that share one connection. They ask as often as
// they need to: how many requests there are at once is bounded by who asks,
// and the API server defends itself.
func newClients(c *rest.Config) (*clients, error) {
	c = rest.CopyConfig(c)
	c.QPS = -1
	shared, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("connect to the Kubernetes API: %w", err)
	}
	k := &clients{}
	builtin := rest.CopyConfig(c)
	builtin.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	builtin.ContentType = "application/vnd.kubernetes.protobuf"
	if k.Interface, err = kubernetes.NewForConfigAndClient(builtin, shared); err != nil {
		return nil, fmt.Errorf("connect to the Kubernetes API: %w", err)
	}
	if k.metadata, err = metadata.NewForConfigAndClient(c, shared); err != nil {
		return nil, fmt.Errorf("connect to the Kubernetes API: %w", err)
	}
	if k.custom, k.codec, err = newCustomClient(c, shared, groupVersion); err != nil {
		return nil, fmt.Errorf("connect to the Kubernetes API: %w", err)
	}
	if k.iamGroup, _, err = newCustomClient(c, shared, iamGroupVersion); err != nil {
		return nil, fmt.Errorf("connect to the Kubernetes API: %w", err)
	}
	return k, nil
}

func newCustomClient(c *rest.Config, shared *http.Client, group schema.GroupVersion) (rest.Interface, runtime.ParameterCodec, error) {
	scheme := newScheme()
	c = rest.CopyConfig(c)
	c.GroupVersion = &group
	c.APIPath = "/apis"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientForConfigAndClient(c, shared)
	return client, runtime.NewParameterCodec(scheme), err
}

func (k *clients) functions(namespace string) *gentype.ClientWithList[*Function, *FunctionList] {
	return gentype.NewClientWithList("functions", k.custom, k.codec, namespace,
		func() *Function { return &Function{} }, func() *FunctionList { return &FunctionList{} })
}

func (k *clients) profiles(namespace string) *gentype.ClientWithList[*Profile, *ProfileList] {
	return gentype.NewClientWithList("profiles", k.custom, k.codec, namespace,
		func() *Profile { return &Profile{} }, func() *ProfileList { return &ProfileList{} })
}

// A lister is a client of one kind of resource.
type lister[L runtime.Object] interface {
	List(ctx context.Context, o metav1.ListOptions) (L, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// An informer keeps a handler informed of one kind of resource.
type informer struct {
	run    func(context.Context)
	synced cache.InformerSynced // the handler has been told of everything there was
}

// newInformer keeps what from lists, cut down by trim, and tells h of it.
// selector restricts it by labels.
func newInformer[L runtime.Object](from lister[L], example runtime.Object, selector string, trim cache.TransformFunc, h cache.ResourceEventHandler) (informer, error) {
	return informerOf(from, example, metav1.ListOptions{LabelSelector: selector}, trim, h)
}

// informerOf is newInformer for what is selected in other ways.
func informerOf[L runtime.Object](from lister[L], example runtime.Object, which metav1.ListOptions, trim cache.TransformFunc, h cache.ResourceEventHandler) (informer, error) {
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector, o.FieldSelector = which.LabelSelector, which.FieldSelector
			return from.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector, o.FieldSelector = which.LabelSelector, which.FieldSelector
			return from.Watch(ctx, o)
		},
	}
	shared := cache.NewSharedIndexInformer(source, example, 0, cache.Indexers{})
	if err := shared.SetTransform(trim); err != nil {
		return informer{}, err
	}
	handled, err := shared.AddEventHandler(h)
	if err != nil {
		return informer{}, err
	}
	return informer{run: shared.RunWithContext, synced: handled.HasSynced}, nil
}

// on returns a handler that does not tell additions from changes.
func on[T any](set func(T), drop func(T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { set(obj.(T)) },
		UpdateFunc: func(_, obj any) { set(obj.(T)) },
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if last, ok := obj.(T); ok {
				drop(last)
			}
		},
	}
}

// informers are all that a provider watches: what functions consist of, in
// each of namespaces ("" is all), and the profiles.
func (r *Runtime) informers(namespaces []string) ([]informer, error) {
	var all []informer
	var problem error
	add := func(i informer, err error) {
		all = append(all, i)
		if err != nil {
			problem = fmt.Errorf("watch: %w", err)
		}
	}
	for _, ns := range namespaces {
		add(newInformer(r.clients.functions(ns), &Function{}, "", trimFunction, on(r.seen.setFunction, func(f *Function) {
			r.seen.dropFunction(function.Ref{Name: f.Name, Namespace: f.Namespace}, f.UID, false)
		})))
		add(newInformer(r.clients.AppsV1().Deployments(ns), &appsv1.Deployment{}, function.LabelName, trimDeployment, on(
			func(d *appsv1.Deployment) { r.seen.setWorkload(refOf(d), newWorkload(d)) },
			func(d *appsv1.Deployment) { r.seen.dropWorkload(refOf(d), d.UID) })))
		add(newInformer(r.clients.CoreV1().Services(ns), &corev1.Service{}, function.LabelName, trimService, on(
			func(s *corev1.Service) { r.seen.setService(refOf(s), s.Annotations[annotationSpec]) },
			func(s *corev1.Service) { r.seen.setService(refOf(s), "") })))
		add(newInformer(r.clients.CoreV1().Pods(ns), &corev1.Pod{}, function.LabelName, trimPod, on(r.seen.setPod, r.seen.dropPod)))
		pulls, err := informerOf(r.clients.CoreV1().Events(ns), &corev1.Event{}, metav1.ListOptions{FieldSelector: "reason=" + reasonPulled}, trimPull, on(
			func(e *corev1.Event) {
				r.seen.pulled(e.InvolvedObject.Namespace, e.InvolvedObject.Name, pullTime(e.Message))
			},
			func(*corev1.Event) {}))
		// Nothing waits for what only tells where the time went.
		pulls.synced = func() bool { return true }
		add(pulls, err)
	}
	if r.AllNamespaces {
		add(newInformer(r.clients.CoreV1().Namespaces(), &corev1.Namespace{}, "", trimNamespace, on(r.namespaces.set, r.namespaces.drop)))
	}
	r.identityInformers(add)
	add(newInformer(r.clients.profiles(r.ProfilesNamespace), &Profile{}, "", nil, on(r.profiles.set, r.profiles.drop)))
	return all, problem
}

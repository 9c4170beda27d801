package kube

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/openfaas/faas-provider/types"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/graphene-faas/graphene/internal/fault"
)

// namespaces are those that exist, where all may be used; otherwise only the
// configured ones are known.
type namespaces struct {
	fixed   []string // usable in any case
	dynamic bool     // those that are marked are usable too
	changed func(namespace string)

	mu  sync.Mutex
	all map[string]types.FunctionNamespace // usable ones, when dynamic
}

func newNamespaces(o Options, changed func(string)) *namespaces {
	fixed := []string{o.DefaultNamespace}
	if !o.AllNamespaces {
		fixed = sortedUnique(append(fixed, o.Namespaces...))
	}
	return &namespaces{fixed: fixed, dynamic: o.AllNamespaces, changed: changed, all: map[string]types.FunctionNamespace{}}
}

func trimNamespace(obj any) (any, error) {
	n, ok := obj.(*corev1.Namespace)
	if !ok {
		return obj, nil
	}
	kept := &corev1.Namespace{ObjectMeta: trimMeta(&n.ObjectMeta)}
	kept.Labels, kept.Annotations = n.Labels, n.Annotations
	return kept, nil
}

// usable reports whether functions may be in a namespace.
func (n *namespaces) usable(name string) bool {
	if slices.Contains(n.fixed, name) {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.all[name]
	return ok
}

func (n *namespaces) set(ns *corev1.Namespace) {
	marked := ns.Labels[namespaceMark] == "1" || ns.Annotations[namespaceMark] == "1" || slices.Contains(n.fixed, ns.Name)
	if ns.DeletionTimestamp != nil || !marked {
		n.drop(ns)
		return
	}
	n.mu.Lock()
	_, known := n.all[ns.Name]
	n.all[ns.Name] = types.FunctionNamespace{Name: ns.Name, Labels: shown(ns.Labels), Annotations: shown(ns.Annotations)}
	n.mu.Unlock()
	if !known {
		n.changed(ns.Name)
	}
}

func (n *namespaces) drop(ns *corev1.Namespace) {
	n.mu.Lock()
	_, known := n.all[ns.Name]
	delete(n.all, ns.Name)
	n.mu.Unlock()
	if known {
		n.changed(ns.Name)
	}
}

// kubernetesOwn reports whether a label or annotation is Kubernetes' own: those
// are not shown, and stay when others are replaced.
func kubernetesOwn(key string) bool {
	domain, _, _ := strings.Cut(key, "/")
	return domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io")
}

func shown(all map[string]string) map[string]string {
	kept := maps.Clone(all)
	maps.DeleteFunc(kept, func(k, _ string) bool { return kubernetesOwn(k) })
	return kept
}

// replaced returns what is Kubernetes' own of old, and all of with.
func replaced(old, with map[string]string) map[string]string {
	all := maps.Clone(old)
	maps.DeleteFunc(all, func(k, _ string) bool { return !kubernetesOwn(k) })
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, with)
	return all
}

// ListNamespaces implements package provider's Namespaces.
func (r *Runtime) ListNamespaces(ctx context.Context) ([]string, error) {
	if err := r.whenSynced(ctx); err != nil {
		return nil, err
	}
	n := r.namespaces
	n.mu.Lock()
	defer n.mu.Unlock()
	return sortedUnique(slices.AppendSeq(slices.Clone(n.fixed), maps.Keys(n.all))), nil
}

// Namespace implements package provider's Namespaces.
func (r *Runtime) Namespace(ctx context.Context, name string) (types.FunctionNamespace, error) {
	if err := r.whenSynced(ctx); err != nil {
		return types.FunctionNamespace{}, err
	}
	n := r.namespaces
	n.mu.Lock()
	defer n.mu.Unlock()
	if found, ok := n.all[name]; ok {
		return found, nil
	}
	if slices.Contains(n.fixed, name) && !n.dynamic {
		return types.FunctionNamespace{Name: name, Annotations: map[string]string{namespaceMark: "1"}}, nil
	}
	return types.FunctionNamespace{}, fault.NotFound.Errorf("namespace %s does not exist, or is not marked %s=1", name, namespaceMark)
}

// mayChange returns why namespaces cannot be changed, if that is so.
func (n *namespaces) mayChange() error {
	if n.dynamic {
		return nil
	}
	return fault.Unsupported.Errorf("this installation uses fixed namespaces: %s", strings.Join(n.fixed, ", "))
}

// CreateNamespace implements package provider's Namespaces.
func (r *Runtime) CreateNamespace(ctx context.Context, n types.FunctionNamespace) error {
	if err := r.namespaces.mayChange(); err != nil {
		return err
	}
	made, err := r.clients.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels, Annotations: n.Annotations},
	}, metav1.CreateOptions{FieldManager: managerApply})
	if apierrors.IsAlreadyExists(err) {
		return fault.Exists.Errorf("namespace %s exists already; the annotation %s=1 makes it one for functions", n.Name, namespaceMark)
	}
	if err != nil {
		return kind(err)
	}
	r.namespaces.set(made)
	return nil
}

// UpdateNamespace implements package provider's Namespaces.
func (r *Runtime) UpdateNamespace(ctx context.Context, n types.FunctionNamespace) error {
	if err := r.namespaces.mayChange(); err != nil {
		return err
	}
	if _, err := r.Namespace(ctx, n.Name); err != nil {
		return err
	}
	current, err := r.clients.CoreV1().Namespaces().Get(ctx, n.Name, metav1.GetOptions{})
	if err != nil {
		return kind(err)
	}
	current.Labels, current.Annotations = replaced(current.Labels, n.Labels), replaced(current.Annotations, n.Annotations)
	changed, err := r.clients.CoreV1().Namespaces().Update(ctx, current, metav1.UpdateOptions{FieldManager: managerApply})
	if err != nil {
		return kind(err)
	}
	r.namespaces.set(changed)
	return nil
}

// DeleteNamespace implements package provider's Namespaces.
func (r *Runtime) DeleteNamespace(ctx context.Context, name string) error {
	if err := r.namespaces.mayChange(); err != nil {
		return err
	}
	if name == r.DefaultNamespace {
		return fault.Invalid.Errorf("namespace %s is the default one and stays", name)
	}
	if _, err := r.Namespace(ctx, name); err != nil {
		return err
	}
	if all := r.seen.list(name); len(all) > 0 {
		return fault.Invalid.Errorf("namespace %s has %d functions, such as %s: remove them first", name, len(all), all[0].function.Name)
	}
	if err := r.clients.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return kind(err)
	}
	r.namespaces.drop(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return nil
}

package kube

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openfaas/faas-provider/types"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8stypes "k8s.io/apimachinery/pkg/types"

	"github.com/graphene-faas/graphene/internal/fault"
)

// ListSecrets implements package provider's Secrets. It returns those that
// were made through this API; functions can use others too.
func (r *Runtime) ListSecrets(ctx context.Context, namespace string) ([]types.Secret, error) {
	// Only their metadata is asked for: values stay where they are.
	found, err := r.clients.metadata.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(namespace).
		List(ctx, metav1.ListOptions{LabelSelector: labelManagedBy + "=" + managedBy})
	if err != nil {
		return nil, kind(err)
	}
	var list []types.Secret
	for _, s := range found.Items {
		list = append(list, types.Secret{Name: s.Name, Namespace: s.Namespace})
	}
	slices.SortFunc(list, func(a, b types.Secret) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// FindSecrets returns those of names that functions of a namespace cannot use,
// because they do not exist.
func (r *Runtime) FindSecrets(ctx context.Context, namespace string, names []string) (missing []string, err error) {
	for _, name := range names {
		if _, err := r.secrets.isPullSecret(ctx, namespace, name); apierrors.IsNotFound(err) {
			missing = append(missing, name)
		} else if err != nil {
			return nil, kind(err)
		}
	}
	return missing, nil
}

// CreateSecret implements package provider's Secrets.
func (r *Runtime) CreateSecret(ctx context.Context, s types.Secret) error {
	_, err := r.clients.CoreV1().Secrets(s.Namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace, Labels: map[string]string{labelManagedBy: managedBy}},
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{s.Name: secretValue(s)},
	}, metav1.CreateOptions{FieldManager: managerApply})
	if apierrors.IsAlreadyExists(err) {
		return fault.Exists.Errorf("secret %s exists already in namespace %s", s.Name, s.Namespace)
	}
	return kind(err)
}

// UpdateSecret implements package provider's Secrets. The kubelet brings the
// new value into running pods within about a minute.
func (r *Runtime) UpdateSecret(ctx context.Context, s types.Secret) error {
	current, err := r.ours(ctx, s.Namespace, s.Name)
	if err != nil {
		return err
	}
	current.Data = map[string][]byte{s.Name: secretValue(s)}
	_, err = r.clients.CoreV1().Secrets(s.Namespace).Update(ctx, current, metav1.UpdateOptions{FieldManager: managerApply})
	return kind(err)
}

// DeleteSecret implements package provider's Secrets.
func (r *Runtime) DeleteSecret(ctx context.Context, namespace, name string) error {
	current, err := r.ours(ctx, namespace, name)
	if err != nil {
		return err
	}
	return kind(r.clients.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &current.UID}}))
}

// ours returns a secret that was made through this API. Others are treated as
// if they did not exist: who may manage functions may not change them.
func (r *Runtime) ours(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	s, err := r.clients.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && s.Labels[labelManagedBy] != managedBy {
		return nil, fault.NotFound.Errorf("secret %s does not exist in namespace %s", name, namespace)
	}
	return s, kind(err)
}

func secretValue(s types.Secret) []byte {
	if len(s.RawValue) > 0 {
		return s.RawValue
	}
	return []byte(s.Value)
}

// secretKinds remembers for a moment which secrets hold credentials of
// registries, since a function is looked at several times while it starts.
type secretKinds struct {
	clients *clients

	mu    sync.Mutex
	known map[k8stypes.NamespacedName]secretKind
}

type secretKind struct {
	pull  bool
	until time.Time
}

const secretKindFor = 10 * time.Second

func newSecretKinds(c *clients) *secretKinds {
	return &secretKinds{clients: c, known: map[k8stypes.NamespacedName]secretKind{}}
}

// isPullSecret reports whether a secret holds the credentials of a registry.
// Its error is the API server's.
func (k *secretKinds) isPullSecret(ctx context.Context, namespace, name string) (bool, error) {
	key := k8stypes.NamespacedName{Namespace: namespace, Name: name}
	now := time.Now()
	k.mu.Lock()
	known, ok := k.known[key]
	k.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.pull, nil
	}
	s, err := k.clients.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	k.mu.Lock()
	defer k.mu.Unlock()
	for other, kind := range k.known {
		if now.After(kind.until) {
			delete(k.known, other)
		}
	}
	if err != nil {
		return false, err
	}
	pull := s.Type == corev1.SecretTypeDockercfg || s.Type == corev1.SecretTypeDockerConfigJson
	k.known[key] = secretKind{pull, now.Add(secretKindFor)}
	return pull, nil
}

// pullSecrets returns those of names that hold credentials of registries, or
// fault.Invalid if one is missing.
func (k *secretKinds) pullSecrets(ctx context.Context, namespace string, names []string) ([]string, error) {
	var pull []string
	for _, name := range names {
		is, err := k.isPullSecret(ctx, namespace, name)
		if apierrors.IsNotFound(err) {
			return nil, fault.Invalid.Errorf("secret %q does not exist in namespace %s: create it first", name, namespace)
		}
		if err != nil {
			return nil, kind(err)
		}
		if is {
			pull = append(pull, name)
		}
	}
	return pull, nil
}

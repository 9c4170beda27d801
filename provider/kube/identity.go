package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	k8stypes "k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/util/retry"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/signkey"
)

// iamGroupVersion is that of the resources that say who may do what, as with
// OpenFaaS.
var iamGroupVersion = schema.GroupVersion{Group: "iam.openfaas.com", Version: "v1"}

// iamKinds are their kinds, with the names by which the API server lists them.
var iamKinds = map[string]string{iam.KindIssuer: "jwtissuers", iam.KindPolicy: "policies", iam.KindRole: "roles"}

const (
	// apiKeysSecret holds what is kept of API keys, one entry each. The chart
	// makes it, so that the provider needs rights to no other secret there.
	apiKeysSecret = "api-keys"
	// signingKeySecret holds the keys that sign the platform's own tokens, as a
	// file of that name.
	signingKeySecret, signingKeyFile = "issuer-key", "issuer.key"
	// maxAPIKeys is how many fit, with room to spare, into a secret of 1 MiB.
	maxAPIKeys = 1000

	// ownIssuer is the name of the issuer that the cluster itself is, where the
	// options have it believed and no resource does.
	ownIssuer = "kubernetes"

	// keySetPoll is how often the cluster is asked for the keys that sign the
	// tokens of service accounts, keySetRetry the pause after an answer that did
	// not come, keySetWait how long one may take.
	keySetPoll  = time.Minute
	keySetRetry = 5 * time.Second
	keySetWait  = 10 * time.Second
	// statusRetry is the pause after a status that could not be written.
	statusRetry = 5 * time.Second
)

// An IAMResource is a JwtIssuer, a Policy or a Role. What its spec means is the
// affair of package iam.
type IAMResource struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	Spec   json.RawMessage `json:"spec,omitempty"`
	Status IAMStatus       `json:"status,omitzero"`
}

// IAMStatus says whether a resource counts.
type IAMStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// IAMResourceList is a list of resources of one kind.
type IAMResourceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []IAMResource `json:"items"`
}

// DeepCopy returns a copy that shares nothing with r.
func (r *IAMResource) DeepCopy() *IAMResource {
	c := *r
	r.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Spec = slices.Clone(r.Spec)
	c.Status.Conditions = slices.Clone(r.Status.Conditions)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (r *IAMResource) DeepCopyObject() runtime.Object { return r.DeepCopy() }

// DeepCopyObject implements runtime.Object.
func (l *IAMResourceList) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = make([]IAMResource, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopy()
	}
	return &c
}

func addIAMTypes(s *runtime.Scheme) {
	for kind := range iamKinds {
		s.AddKnownTypeWithName(iamGroupVersion.WithKind(kind), &IAMResource{})
		s.AddKnownTypeWithName(iamGroupVersion.WithKind(kind+"List"), &IAMResourceList{})
	}
	metav1.AddToGroupVersion(s, iamGroupVersion)
}

func (k *clients) iam(kind, namespace string) *gentype.ClientWithList[*IAMResource, *IAMResourceList] {
	return gentype.NewClientWithList(iamKinds[kind], k.iamGroup, k.codec, namespace,
		func() *IAMResource { return &IAMResource{} }, func() *IAMResourceList { return &IAMResourceList{} })
}

// named is a client that sees one object.
type named[L runtime.Object] struct {
	lister[L]
	name string
}

func (n named[L]) List(ctx context.Context, o metav1.ListOptions) (L, error) {
	o.FieldSelector = "metadata.name=" + n.name
	return n.lister.List(ctx, o)
}

func (n named[L]) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.FieldSelector = "metadata.name=" + n.name
	return n.lister.Watch(ctx, o)
}

// identityInformers watch what gateways must know of identity.
func (r *Runtime) identityInformers(add func(informer, error)) {
	if r.IAM {
		for _, kind := range slices.Sorted(maps.Keys(iamKinds)) {
			add(newInformer(r.clients.iam(kind, r.ProfilesNamespace), &IAMResource{}, "", trimIAM, on(
				func(o *IAMResource) { r.identity.set(kind, o) },
				func(o *IAMResource) { r.identity.drop(kind, o.Name) })))
		}
	}
	if r.APIKeySecret {
		add(newInformer(named[*corev1.SecretList]{r.clients.CoreV1().Secrets(r.ProfilesNamespace), apiKeysSecret}, &corev1.Secret{}, "", nil, on(
			r.identity.setAPIKeys,
			func(s *corev1.Secret) {
				r.identity.setAPIKeys(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{ResourceVersion: s.ResourceVersion}})
			})))
	}
}

func trimIAM(obj any) (any, error) {
	if o, ok := obj.(*IAMResource); ok {
		o.ManagedFields = nil
	}
	return obj, nil
}

type objectKey struct{ kind, name string }

// identity is what is known of who may do what. A resource that is wrong leaves
// in force what it said before, for as long as this process lives.
type identity struct {
	log *slog.Logger

	mu        sync.Mutex // guards what follows, and the order of reports
	resources map[objectKey]*iamResource
	contents  map[objectKey]json.RawMessage // that are in force
	watchers  map[*watcher]struct{}
	changed   chan struct{} // says that statuses may have
	own       iam.Issuer    // who signs for service accounts, if they are believed

	keysVersion string // of the secret of API keys; "" before the first
}

// An iamResource is a resource as it is, and why it does not count.
type iamResource struct {
	*IAMResource
	problem string
}

func newIdentity(log *slog.Logger) *identity {
	return &identity{
		log: log, resources: map[objectKey]*iamResource{}, contents: map[objectKey]json.RawMessage{},
		watchers: map[*watcher]struct{}{}, changed: make(chan struct{}, 1),
	}
}

func (i *identity) set(kind string, o *IAMResource) {
	key, seen := objectKey{kind, o.Name}, &iamResource{IAMResource: o}
	_, err := iam.ReadObject(kind, o.Name, o.Spec)
	i.mu.Lock()
	defer i.mu.Unlock()
	had := i.resources[key]
	i.resources[key] = seen
	if err != nil {
		if seen.problem = err.Error(); had == nil || had.Generation != o.Generation {
			i.log.Error("a resource is wrong; what it said before stays in force", "kind", kind, "name", o.Name, "in_force", i.contents[key] != nil, "err", err)
		}
	} else {
		i.put(key, o.Spec)
	}
	i.putOwn()
	i.poke()
}

func (i *identity) drop(kind, name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	key := objectKey{kind, name}
	delete(i.resources, key)
	i.put(key, nil)
	i.putOwn()
	i.poke()
}

// put makes content what is in force, and tells of it if that is new. mu is
// held.
func (i *identity) put(key objectKey, content json.RawMessage) {
	had, known := i.contents[key]
	switch {
	case content == nil && !known, content != nil && bytes.Equal(had, content):
		return
	case content == nil:
		delete(i.contents, key)
	default:
		i.contents[key] = content
	}
	for w := range i.watchers {
		w.report(function.Event{Object: &function.Object{Kind: key.kind, Name: key.name, Content: content}})
	}
}

func (i *identity) poke() {
	select {
	case i.changed <- struct{}{}:
	default:
	}
}

// setAPIKeys takes the entries of the secret, unless a later version of it is
// known: what this process has written comes back from the API server, and a
// key that was revoked must not.
func (i *identity) setAPIKeys(s *corev1.Secret) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.keysVersion != "" && !newer(s.ResourceVersion, i.keysVersion) {
		return
	}
	i.keysVersion = s.ResourceVersion
	data := s.Data
	for key := range i.contents {
		if _, kept := data[key.name]; key.kind == iam.KindAPIKey && !kept {
			i.put(key, nil)
		}
	}
	for id, content := range data {
		if !json.Valid(content) {
			i.log.Error("an entry of the secret of API keys cannot be read, so the key is refused", "api_key", id)
			content = nil
		}
		i.put(objectKey{iam.KindAPIKey, id}, content)
	}
}

// putOwn has the cluster believed as an issuer, if that is wanted, unless a
// resource is in its place: one of that name, or of that iss. mu is held.
func (i *identity) putOwn() {
	key := objectKey{iam.KindIssuer, ownIssuer}
	if i.own.Iss == "" || i.resources[key] != nil {
		return
	}
	for other, content := range i.contents {
		if other.kind != iam.KindIssuer || other == key {
			continue
		}
		if o, err := iam.ReadObject(other.kind, other.name, content); err == nil && o.(*iam.Issuer).Iss == i.own.Iss {
			i.put(key, nil)
			return
		}
	}
	content, err := json.Marshal(i.own)
	if err != nil {
		i.log.Error("the issuer of service accounts' tokens cannot be told", "err", err)
		return
	}
	i.put(key, content)
}

// setKeySet takes the keys of the issuer of service accounts' tokens, which are
// believed if they are for one of these audiences.
func (i *identity) setKeySet(issuer string, keySet json.RawMessage, audience []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(audience) > 0 {
		i.own = iam.Issuer{Iss: issuer, Aud: audience}
	}
	for key := range i.contents {
		if key.kind == iam.KindKeySet && key.name != issuer {
			i.put(key, nil)
		}
	}
	i.put(objectKey{iam.KindKeySet, issuer}, keySet)
	i.putOwn()
}

// WatchObjects implements package provider's Objects.
func (r *Runtime) WatchObjects(ctx context.Context, report func(function.Event)) error {
	if r.whenSynced(ctx) != nil {
		return nil // ctx has ended
	}
	w := &watcher{report}
	i := r.identity
	i.mu.Lock()
	for key, content := range i.contents {
		report(function.Event{Object: &function.Object{Kind: key.kind, Name: key.name, Content: content}})
	}
	report(function.Event{Synced: true})
	i.watchers[w] = struct{}{}
	i.mu.Unlock()
	<-ctx.Done()
	i.mu.Lock()
	delete(i.watchers, w)
	i.mu.Unlock()
	return nil
}

// followKeySet asks the cluster again and again for the keys that sign the
// tokens of its service accounts, until ctx ends. It closes asked after the
// first answer, whatever that was.
func (r *Runtime) followKeySet(ctx context.Context, asked chan<- struct{}) {
	first := sync.OnceFunc(func() { close(asked) })
	defer first()
	if !r.IAM {
		return
	}
	for complained := false; ; {
		pause := keySetPoll
		issuer, keySet, err := r.keySet(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			r.identity.setKeySet(issuer, keySet, r.ServiceAccounts)
			complained = false
		default:
			pause = keySetRetry
			if !complained {
				r.Log.Warn("the keys of service accounts cannot be read; those that are known stay in force", "err", err)
			}
			complained = true
		}
		first()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// keySet returns who issues the tokens of service accounts, and the keys.
func (r *Runtime) keySet(ctx context.Context) (issuer string, keySet json.RawMessage, err error) {
	ctx, cancel := context.WithTimeout(ctx, keySetWait)
	defer cancel()
	get := func(path string) ([]byte, error) {
		return r.clients.Discovery().RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/jwk-set+json, application/json").DoRaw(ctx)
	}
	text, err := get("/.well-known/openid-configuration")
	if err != nil {
		return "", nil, fmt.Errorf("ask who issues the tokens of service accounts: %w", err)
	}
	var said struct{ Issuer string }
	if err := json.Unmarshal(text, &said); err != nil || said.Issuer == "" {
		return "", nil, fmt.Errorf("ask who issues the tokens of service accounts: the answer names nobody")
	}
	if keySet, err = get("/openid/v1/jwks"); err != nil {
		return "", nil, fmt.Errorf("ask for the keys of service accounts: %w", err)
	}
	if !json.Valid(keySet) {
		return "", nil, fmt.Errorf("ask for the keys of service accounts: the answer is no JSON")
	}
	return said.Issuer, keySet, nil
}

// keepStatuses writes into every resource whether it counts, until ctx ends.
func (r *Runtime) keepStatuses(ctx context.Context) {
	r.identity.poke()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.identity.changed:
		}
		for key, conditions := range r.identity.statuses(time.Now()) {
			body, err := json.Marshal(map[string]any{"status": IAMStatus{Conditions: conditions}})
			if err == nil {
				err = r.clients.iamGroup.Patch(k8stypes.MergePatchType).Namespace(r.ProfilesNamespace).
					Resource(iamKinds[key.kind]).Name(key.name).SubResource("status").
					VersionedParams(&metav1.PatchOptions{FieldManager: managerApply}, r.clients.codec).Body(body).Do(ctx).Error()
			}
			if err != nil && ctx.Err() == nil {
				r.Log.Warn("the status of a resource cannot be written", "kind", key.kind, "name", key.name, "err", err)
				time.AfterFunc(statusRetry, r.identity.poke)
			}
		}
	}
}

// statuses returns the conditions of those resources that do not have them yet.
func (i *identity) statuses(now time.Time) map[objectKey][]metav1.Condition {
	i.mu.Lock()
	defer i.mu.Unlock()
	changed := map[objectKey][]metav1.Condition{}
	for key, o := range i.resources {
		want := metav1.Condition{
			Type: conditionReady, Status: metav1.ConditionTrue, Reason: "InForce", Message: "it is in force",
			ObservedGeneration: o.Generation, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
		}
		if missing := i.missing(key, o); missing != nil {
			want.Status, want.Reason, want.Message = metav1.ConditionFalse, "Incomplete", "there is no policy "+strings.Join(missing, ", ")
		}
		if o.problem != "" {
			want.Status, want.Reason, want.Message = metav1.ConditionFalse, "Invalid", o.problem
			if i.contents[key] != nil {
				want.Message += "; what it said before stays in force"
			}
		}
		conditions := slices.Clone(o.Status.Conditions)
		if meta.SetStatusCondition(&conditions, want) {
			changed[key] = conditions
		}
	}
	return changed
}

// missing returns the policies that a role gives and that there are not. mu is
// held.
func (i *identity) missing(key objectKey, o *iamResource) []string {
	if key.kind != iam.KindRole || o.problem != "" {
		return nil
	}
	role, err := iam.ReadObject(key.kind, key.name, o.Spec)
	if err != nil {
		return nil
	}
	var names []string
	for _, name := range role.(*iam.Role).Policy {
		if i.contents[objectKey{iam.KindPolicy, name}] == nil {
			names = append(names, name)
		}
	}
	return names
}

// APIKeys implements package provider's APIKeys.
func (r *Runtime) APIKeys(ctx context.Context) ([]iam.APIKey, error) {
	s, err := r.apiKeys(ctx)
	if err != nil {
		return nil, err
	}
	var all []iam.APIKey
	for _, id := range slices.Sorted(maps.Keys(s.Data)) {
		key, err := iam.ReadObject(iam.KindAPIKey, id, s.Data[id])
		if err != nil {
			r.Log.Error("an entry of the secret of API keys cannot be read, so the key is refused", "api_key", id)
			continue
		}
		all = append(all, *key.(*iam.APIKey))
	}
	return all, nil
}

// CreateAPIKey implements package provider's APIKeys.
func (r *Runtime) CreateAPIKey(ctx context.Context, k iam.APIKey) error {
	content, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return r.changeAPIKeys(ctx, func(data map[string][]byte) error {
		if data[k.ID] != nil {
			return fault.Exists.Errorf("API key %s exists already", k.ID)
		}
		if len(data) >= maxAPIKeys {
			return fault.Invalid.Errorf("there are %d API keys already: revoke some", len(data))
		}
		data[k.ID] = content
		return nil
	})
}

// DeleteAPIKey implements package provider's APIKeys.
func (r *Runtime) DeleteAPIKey(ctx context.Context, id string) error {
	return r.changeAPIKeys(ctx, func(data map[string][]byte) error {
		if data[id] == nil {
			return fault.NotFound.Errorf("there is no API key %s", id)
		}
		delete(data, id)
		return nil
	})
}

func (r *Runtime) apiKeys(ctx context.Context) (*corev1.Secret, error) {
	if !r.APIKeySecret {
		return nil, fault.Unsupported.Errorf("this provider keeps no API keys")
	}
	s, err := r.clients.CoreV1().Secrets(r.ProfilesNamespace).Get(ctx, apiKeysSecret, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read secret %s: %w", apiKeysSecret, kind(err))
	}
	return s, nil
}

// changeAPIKeys changes the secret, again if somebody else was faster, and
// tells of it before it returns.
func (r *Runtime) changeAPIKeys(ctx context.Context, change func(map[string][]byte) error) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		s, err := r.apiKeys(ctx)
		if err != nil {
			return err
		}
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		if err := change(s.Data); err != nil {
			return err
		}
		s, err = r.clients.CoreV1().Secrets(s.Namespace).Update(ctx, s, metav1.UpdateOptions{FieldManager: managerApply})
		if err != nil {
			if apierrors.IsConflict(err) {
				return err
			}
			return kind(err)
		}
		r.identity.setAPIKeys(s)
		return nil
	})
}

// RotateSigningKeys implements package provider's SigningKeys. Gateways see the
// new key when their nodes have renewed what is mounted.
func (r *Runtime) RotateSigningKeys(ctx context.Context) (id string, err error) {
	if !r.SigningKeySecret {
		return "", fault.Unsupported.Errorf("this provider keeps no signing keys")
	}
	secrets := r.clients.CoreV1().Secrets(r.ProfilesNamespace)
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		s, err := secrets.Get(ctx, signingKeySecret, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read secret %s: %w", signingKeySecret, kind(err))
		}
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		if s.Data[signingKeyFile], id, err = signkey.Rotate(s.Data[signingKeyFile], time.Now()); err != nil {
			return err
		}
		_, err = secrets.Update(ctx, s, metav1.UpdateOptions{FieldManager: managerApply})
		if err != nil && !apierrors.IsConflict(err) {
			return fmt.Errorf("write secret %s: %w", signingKeySecret, kind(err))
		}
		return err
	})
	return id, err
}

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	k8stypes "k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/graphene-faas/graphene/provider/kube/crd"
)

// What follows lets tests outside the package prepare a cluster.

func ClientsForTest(t *testing.T, c *rest.Config) kubernetes.Interface {
	t.Helper()
	k, err := newClients(c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func CreateNamespaceForTest(t *testing.T, c *rest.Config, name string) {
	t.Helper()
	_, err := ClientsForTest(t, c).CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// DeleteAllForTest deletes the functions and secrets of a namespace.
func DeleteAllForTest(t *testing.T, c *rest.Config, namespace string) {
	t.Helper()
	k, err := newClients(c)
	if err != nil {
		t.Fatal(err)
	}
	list, err := k.functions(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list.Items {
		if err := k.functions(namespace).Delete(t.Context(), f.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.CoreV1().Secrets(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
}

// InstallCRDsForTest makes the custom resources known and waits until they are.
func InstallCRDsForTest(t *testing.T, c *rest.Config) {
	t.Helper()
	any, err := dynamic.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	crds := any.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	for name, text := range map[string][]byte{
		"functions.openfaas.com": crd.Functions, "profiles.openfaas.com": crd.Profiles,
		"jwtissuers.iam.openfaas.com": crd.JwtIssuers, "policies.iam.openfaas.com": crd.Policies, "roles.iam.openfaas.com": crd.Roles} {
		document, err := yaml.YAMLToJSON(bytes.TrimSpace(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := crds.Patch(t.Context(), name, k8stypes.ApplyPatchType, document, metav1.PatchOptions{FieldManager: "test", Force: new(true)}); err != nil {
			t.Fatal(err)
		}
	}
	k, err := newClients(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		_, first := k.functions("").List(ctx, metav1.ListOptions{})
		_, second := k.profiles("").List(ctx, metav1.ListOptions{})
		var third error
		for kind := range iamKinds {
			if _, err := k.iam(kind, "").List(ctx, metav1.ListOptions{}); err != nil {
				third = err
			}
		}
		if first == nil && second == nil && third == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("the custom resources are not served: %v, %v, %v", first, second, third)
		}
	}
}

// ApplyIAMForTest makes a resource that says who may do what as it should be.
func ApplyIAMForTest(t *testing.T, c *rest.Config, kind, namespace, name, spec string) error {
	t.Helper()
	k, err := newClients(c)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": iamGroupVersion.String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": json.RawMessage(spec),
	})
	if err != nil {
		t.Fatal(err)
	}
	return k.iamGroup.Patch(k8stypes.ApplyPatchType).Namespace(namespace).Resource(iamKinds[kind]).Name(name).
		VersionedParams(&metav1.PatchOptions{FieldManager: "test", Force: new(true)}, k.codec).Body(body).Do(t.Context()).Error()
}

// DeleteIAMForTest removes all resources of a kind.
func DeleteIAMForTest(t *testing.T, c *rest.Config, kind, namespace string) {
	t.Helper()
	k, err := newClients(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.iamGroup.Delete().Namespace(namespace).Resource(iamKinds[kind]).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
}

// IAMConditionsForTest returns the conditions of a resource.
func IAMConditionsForTest(t *testing.T, c *rest.Config, kind, namespace, name string) []metav1.Condition {
	t.Helper()
	k, err := newClients(c)
	if err != nil {
		t.Fatal(err)
	}
	o, err := k.iam(kind, namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o.Status.Conditions
}

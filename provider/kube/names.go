package kube

import (
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"

	"github.com/graphene-faas/graphene/internal/function"
)

// Field managers of server-side apply. What the controller applies and who
// scales are kept apart, so that applying a Deployment again leaves its number
// of replicas alone.
const (
	managerApply = "graphene"
	managerScale = "graphene-scale"
)

// Annotations that OpenFaaS gives a meaning in a cluster.
const (
	annotationProfile        = "com.openfaas.profile"
	annotationServiceAccount = "com.openfaas.serviceaccount"
	annotationHealth         = "com.openfaas.health.http." // begins those of the liveness probe
	annotationReady          = "com.openfaas.ready.http."  // begins those of the readiness probe
	annotationScrape         = "prometheus.io.scrape"
)

// Annotations and labels that this package writes and reads.
const (
	annotationRevision = "com.graphene.revision" // of a Deployment and its pods: the Function's generation
	annotationFunction = "com.graphene.function" // of pods: the Function's UID; one made anew has none of the old one's pods
	annotationSpec     = "com.graphene.spec"     // only in memory: what trim found a Deployment's or a Service's spec to be
	annotationCost     = "controller.kubernetes.io/pod-deletion-cost"

	labelManagedBy = "app.kubernetes.io/managed-by" // of secrets: made through the API
	managedBy      = "openfaas"

	// namespaceMark, "1" as an annotation or a label, makes a namespace one for functions.
	namespaceMark = "openfaas"
)

const (
	portName   = "http"
	port       = 8080
	secretsDir = "/var/openfaas/secrets"
	tempDir    = "/tmp"

	// nonRootUser runs functions, unless a profile says otherwise. OpenFaaS
	// uses the same number.
	nonRootUser = 12000
)

// podLabels returns those of a function's labels that Kubernetes can carry,
// and the one by which its pods are found. OpenFaaS allows any text.
func podLabels(name string, labels map[string]string) map[string]string {
	kept := map[string]string{}
	for k, v := range labels {
		if len(utilvalidation.IsQualifiedName(k)) == 0 && len(utilvalidation.IsValidLabelValue(v)) == 0 {
			kept[k] = v
		}
	}
	kept[function.LabelName] = name
	return kept
}

// keptAnnotations returns those of a function's annotations whose names
// Kubernetes allows.
func keptAnnotations(annotations map[string]string) map[string]string {
	kept := map[string]string{annotationScrape: "false"}
	for k, v := range annotations {
		if len(utilvalidation.IsQualifiedName(k)) == 0 {
			kept[k] = v
		}
	}
	return kept
}

// validServiceName reports why a Service cannot have this name, or nothing.
func validServiceName(name string) []string { return validation.NameIsDNS1035Label(name, false) }

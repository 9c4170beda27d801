// Package function is the vocabulary of the platform: what a function is
// called, which labels and annotations carry its settings, what machine it is
// built for, and where its replicas can be reached.
//
// It holds no technology: everything here is plain data and the rules for
// reading it, so that the gateway, the provider, the command line and the
// image builder mean the same thing by the same word. The wire types of the
// REST API are those of github.com/openfaas/faas-provider.
package function

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/graphene-faas/graphene/internal/fault"
)

// DefaultNamespace is where functions live unless a request says otherwise.
// OpenFaaS clients have this name built in.
const DefaultNamespace = "openfaas-fn"

// maxName is the longest DNS label.
const maxName = 63

// A Ref names a function: two strings that always travel together.
type Ref struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// String returns "name.namespace", the form used in metrics and in paths.
func (r Ref) String() string { return r.Name + "." + r.Namespace }

// LogValue makes a Ref one attribute in a log line.
func (r Ref) LogValue() slog.Value { return slog.StringValue(r.String()) }

// ParseRef reads NAME or NAME.NAMESPACE, split at the last dot, as it stands
// in the path of an invocation. Without a namespace it uses namespace. Errors
// are fault.Invalid.
func ParseRef(s, namespace string) (Ref, error) {
	ref := Ref{Name: s, Namespace: namespace}
	if i := strings.LastIndexByte(s, '.'); i >= 0 {
		ref = Ref{Name: s[:i], Namespace: s[i+1:]}
	}
	return ref, ref.Validate()
}

// Validate reports, as fault.Invalid, what is wrong with r's name or
// namespace. Both must be DNS labels.
func (r Ref) Validate() error {
	if err := validLabel("function name", r.Name); err != nil {
		return err
	}
	return ValidNamespace(r.Namespace)
}

// ValidNamespace reports, as fault.Invalid, why s cannot be a namespace.
func ValidNamespace(s string) error { return validLabel("namespace", s) }

func validLabel(what, s string) error {
	if s == "" {
		return fault.Invalid.Errorf("%s is empty", what)
	}
	if len(s) > maxName {
		return fault.Invalid.Errorf("%s %q has %d characters, at most %d are allowed", what, s[:maxName]+"…", len(s), maxName)
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		inner := c == '-' && 0 < i && i < len(s)-1
		if !letter && !inner {
			return fault.Invalid.Errorf("%s %q must be lower-case letters, digits and inner dashes", what, s)
		}
	}
	return nil
}

// ValidSecretName reports, as fault.Invalid, why s cannot name a secret:
// secrets become file names, so they follow the rule for DNS subdomains.
func ValidSecretName(s string) error {
	if s == "" {
		return fault.Invalid.Errorf("secret name is empty")
	}
	if len(s) > 253 {
		return fault.Invalid.Errorf("secret name has %d characters, at most 253 are allowed", len(s))
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" {
			return fault.Invalid.Errorf("secret name %q has an empty part", s)
		}
		if strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return fault.Invalid.Errorf("secret name %q must be lower-case letters, digits, dashes, underscores and dots", s)
		}
	}
	return nil
}

// Labels and annotations with a meaning to the platform. Their text is
// OpenFaaS's where OpenFaaS has one.
const (
	LabelName = "faas_function" // added to the labels of every function

	LabelScaleMin        = "com.openfaas.scale.min"
	LabelScaleMax        = "com.openfaas.scale.max"
	LabelScaleType       = "com.openfaas.scale.type"
	LabelScaleTarget     = "com.openfaas.scale.target"
	LabelScaleProportion = "com.openfaas.scale.target-proportion"
	LabelScaleZero       = "com.openfaas.scale.zero"
	LabelScaleZeroAfter  = "com.openfaas.scale.zero-duration"
	LabelScaleDownWindow = "com.openfaas.scale.down.window"
	LabelScaleFactor     = "com.openfaas.scale.factor"

	AnnotationQueue = "com.openfaas.queue"  // which queue asynchronous calls go through
	AnnotationRetry = "com.openfaas.retry." // begins those that say how asynchronous calls are tried again

	AnnotationPublic = annotationPrefix + "public" // "true": callers need no credentials, also where others do
)

// Public reports whether a function with these annotations can be called
// without credentials.
func Public(annotations map[string]string) bool { return annotations[AnnotationPublic] == "true" }

// Labels on the configuration of an image made by the layers builder.
const (
	ImageBuilder = "com.graphene.builder" // "layers"
	ImageLang    = "com.graphene.lang"    // the template's name
	ImageTarget  = "com.graphene.target"  // what [Target.String] returns

	// An image for a cluster has a base, which a platform with an interpreter
	// and a watchdog of its own has no use for: so many of the first layers,
	// and of the first variables of the environment.
	ImageBaseLayers = "com.graphene.base.layers"
	ImageBaseEnv    = "com.graphene.base.env"
)

var _ fmt.Stringer = Ref{}

package kube

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// groupVersion is that of the custom resources. It is OpenFaaS's, so that
// resources written for OpenFaaS can be applied.
var groupVersion = schema.GroupVersion{Group: "openfaas.com", Version: "v1"}

// A Function is the custom resource that says that a function should run. It
// is the truth about a function in a cluster: everything else is made from it.
type Function struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	Spec   FunctionSpec   `json:"spec"`
	Status FunctionStatus `json:"status,omitzero"`
}

// FunctionSpec says what should run. The API server counts its changes in
// metadata.generation, which is the function's revision: every change of a
// field replaces the pods. How many there should be is not part of it; that is
// the Deployment's.
type FunctionSpec struct {
	// Name repeats metadata.name.
	Name        string            `json:"name"`
	Image       string            `json:"image"`
	Handler     string            `json:"handler,omitempty"` // the watchdog's fprocess
	Environment map[string]string `json:"environment,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Constraints []string          `json:"constraints,omitempty"` // KEY=VALUE, labels of nodes
	Secrets     []string          `json:"secrets,omitempty"`
	Limits      *Resources        `json:"limits,omitempty"`
	Requests    *Resources        `json:"requests,omitempty"`

	ReadOnlyRootFilesystem bool `json:"readOnlyRootFilesystem,omitempty"`

	// Rollout is any text. A change of it replaces the pods though nothing
	// else has changed; the REST API writes the time of each deploy.
	Rollout string `json:"rollout,omitempty"`
}

// Resources are quantities as Kubernetes writes them; empty is not set.
type Resources struct {
	Memory    string `json:"memory,omitempty"`
	CPU       string `json:"cpu,omitempty"`
	NvidiaGPU string `json:"nvidia.com/gpu,omitempty"`
	AmdGPU    string `json:"amd.com/gpu,omitempty"`
	IntelGPU  string `json:"intel.com/gpu,omitempty"`
}

// FunctionStatus says what has become of a Function.
type FunctionStatus struct {
	// ObservedGeneration is the generation that the rest is about.
	ObservedGeneration  int64              `json:"observedGeneration,omitempty"`
	Conditions          []metav1.Condition `json:"conditions,omitempty"`
	Replicas            int32              `json:"replicas"` // that should run
	AvailableReplicas   int32              `json:"availableReplicas"`
	UnavailableReplicas int32              `json:"unavailableReplicas"`
	Profiles            []ProfileStatus    `json:"profiles,omitempty"`
	// Applied identifies what was applied last, and what the API server made
	// of it; while both are as they were there is nothing to do.
	Applied string `json:"applied,omitempty"`
}

// ProfileStatus names a profile that is in effect.
type ProfileStatus struct {
	ProfileRef         ProfileRef `json:"profileRef"`
	ObservedGeneration int64      `json:"observedGeneration,omitempty"`
}

// ProfileRef names a Profile.
type ProfileRef struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// FunctionList is a list of functions.
type FunctionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []Function `json:"items"`
}

// A Profile is what an operator lets functions ask for by name, in the
// annotation com.openfaas.profile.
type Profile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	Spec ProfileSpec `json:"spec"`
}

// ProfileSpec is merged into the pods of functions. The fields have the form
// they have in a pod.
type ProfileSpec struct {
	Tolerations               []corev1.Toleration               `json:"tolerations,omitempty"`
	NodeSelector              map[string]string                 `json:"nodeSelector,omitempty"`
	Affinity                  *corev1.Affinity                  `json:"affinity,omitempty"`
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`
	RuntimeClassName          string                            `json:"runtimeClassName,omitempty"`
	PriorityClassName         string                            `json:"priorityClassName,omitempty"`
	PodSecurityContext        *corev1.PodSecurityContext        `json:"podSecurityContext,omitempty"`
	DNSPolicy                 corev1.DNSPolicy                  `json:"dnsPolicy,omitempty"`
	DNSConfig                 *corev1.PodDNSConfig              `json:"dnsConfig,omitempty"`
	Resources                 *corev1.ResourceRequirements      `json:"resources,omitempty"`
	Strategy                  *appsv1.DeploymentStrategy        `json:"strategy,omitempty"`
	Volumes                   []corev1.Volume                   `json:"volumes,omitempty"`
	VolumeMounts              []corev1.VolumeMount              `json:"volumeMounts,omitempty"`
}

// ProfileList is a list of profiles.
type ProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []Profile `json:"items"`
}

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypes(groupVersion, &Function{}, &FunctionList{}, &Profile{}, &ProfileList{})
	metav1.AddToGroupVersion(s, groupVersion)
	addIAMTypes(s)
	return s
}

// DeepCopy returns a copy that shares nothing with f.
func (f *Function) DeepCopy() *Function {
	c := *f
	f.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Spec = f.Spec.clone()
	c.Status.Conditions = slices.Clone(f.Status.Conditions)
	c.Status.Profiles = slices.Clone(f.Status.Profiles)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (f *Function) DeepCopyObject() runtime.Object { return f.DeepCopy() }

func (s FunctionSpec) clone() FunctionSpec {
	s.Environment = maps.Clone(s.Environment)
	s.Labels = maps.Clone(s.Labels)
	s.Annotations = maps.Clone(s.Annotations)
	s.Constraints = slices.Clone(s.Constraints)
	s.Secrets = slices.Clone(s.Secrets)
	s.Limits = s.Limits.clone()
	s.Requests = s.Requests.clone()
	return s
}

func (r *Resources) clone() *Resources {
	if r == nil {
		return nil
	}
	return new(*r)
}

// DeepCopyObject implements runtime.Object.
func (l *FunctionList) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = make([]Function, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopy()
	}
	return &c
}

// DeepCopy returns a copy that shares nothing with p.
func (p *Profile) DeepCopy() *Profile {
	c := *p
	p.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Spec = p.Spec.clone()
	return &c
}

// DeepCopyObject implements runtime.Object.
func (p *Profile) DeepCopyObject() runtime.Object { return p.DeepCopy() }

func (s ProfileSpec) clone() ProfileSpec {
	s.Tolerations = cloneEach(s.Tolerations, (*corev1.Toleration).DeepCopyInto)
	s.NodeSelector = maps.Clone(s.NodeSelector)
	s.Affinity = s.Affinity.DeepCopy()
	s.TopologySpreadConstraints = cloneEach(s.TopologySpreadConstraints, (*corev1.TopologySpreadConstraint).DeepCopyInto)
	s.PodSecurityContext = s.PodSecurityContext.DeepCopy()
	s.DNSConfig = s.DNSConfig.DeepCopy()
	s.Resources = s.Resources.DeepCopy()
	s.Strategy = s.Strategy.DeepCopy()
	s.Volumes = cloneEach(s.Volumes, (*corev1.Volume).DeepCopyInto)
	s.VolumeMounts = cloneEach(s.VolumeMounts, (*corev1.VolumeMount).DeepCopyInto)
	return s
}

func cloneEach[T any](list []T, into func(in, out *T)) []T {
	if list == nil {
		return nil
	}
	c := make([]T, len(list))
	for i := range list {
		into(&list[i], &c[i])
	}
	return c
}

// DeepCopyObject implements runtime.Object.
func (l *ProfileList) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = make([]Profile, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopy()
	}
	return &c
}

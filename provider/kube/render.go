package kube

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// PodConfig is what an installation decides about all pods of functions.
type PodConfig struct {
	ImagePullPolicy string // Always, IfNotPresent, Never or PullAuto
	// ImageUser runs functions as the user that their image names, which must
	// not be root; otherwise they run as user 12000.
	ImageUser bool
	// Settle is how long a pod goes on serving after it was told to stop,
	// until nobody sends it anything new.
	Settle time.Duration
}

// PullAuto is the policy for pulling images that asks the registry only where
// its answer may have changed. Asking costs every start of a pod some tens of
// milliseconds, and all of them when the registry is away.
const PullAuto = "Auto"

func (c PodConfig) pullPolicy(image string) corev1.PullPolicy {
	switch {
	case c.ImagePullPolicy != PullAuto:
		return corev1.PullPolicy(c.ImagePullPolicy)
	case strings.Contains(image, "@sha256:"):
		return corev1.PullIfNotPresent
	}
	return corev1.PullAlways
}

// A source is all that a function's objects are made from.
type source struct {
	Function *Function
	Profiles []*Profile // in the order in which the function names them
	// PullSecrets are those of the function's secrets that hold the
	// credentials of a registry.
	PullSecrets []string
}

// objects are what the API server is asked to keep for a function.
type objects struct {
	Deployment *appsv1.Deployment // without replicas
	Service    *corev1.Service
}

// hash identifies o's content.
func (o objects) hash() string { return hashOf(o.Deployment, o.Service) }

func hashOf(parts ...any) string {
	h := sha256.New()
	for _, p := range parts {
		// What is hashed are values of Kubernetes' types, which all can be encoded.
		_ = json.NewEncoder(h).Encode(p)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// render returns the objects of a function. It depends on nothing but its
// arguments. Errors are fault.Invalid and say what to change in the Function
// or in one of its profiles.
func render(s source, c PodConfig) (objects, error) {
	f := s.Function
	settings, err := function.ReadSettings(f.Spec.Annotations, f.Spec.Environment)
	if err != nil {
		return objects{}, err
	}
	meta := metav1.ObjectMeta{
		Name:        f.Name,
		Namespace:   f.Namespace,
		Labels:      podLabels(f.Name, f.Spec.Labels),
		Annotations: keptAnnotations(f.Spec.Annotations),
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: groupVersion.String(), Kind: "Function", Name: f.Name, UID: f.UID, Controller: new(true),
		}},
	}
	pod, err := renderPod(s, settings, c)
	if err != nil {
		return objects{}, err
	}
	deployment := meta.DeepCopy()
	deployment.Annotations[annotationRevision] = strconv.FormatInt(f.Generation, 10)
	strategy := appsv1.DeploymentStrategy{
		Type: appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{
			MaxUnavailable: new(intstr.FromInt32(0)),
			MaxSurge:       new(intstr.FromString("25%")), // at least one
		},
	}
	for _, p := range s.Profiles {
		if p.Spec.Strategy != nil {
			strategy = *p.Spec.Strategy.DeepCopy()
		}
	}
	return objects{
		Deployment: &appsv1.Deployment{
			TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
			ObjectMeta: *deployment,
			Spec: appsv1.DeploymentSpec{
				Selector:                &metav1.LabelSelector{MatchLabels: map[string]string{function.LabelName: f.Name}},
				Strategy:                strategy,
				RevisionHistoryLimit:    new(int32(2)), // the Function is the history; its author keeps it
				ProgressDeadlineSeconds: new(max(1, seconds(settings.LoadTimeout.Std()))),
				Template:                pod,
			},
		},
		Service: &corev1.Service{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
			ObjectMeta: meta,
			Spec: corev1.ServiceSpec{
				Type:     corev1.ServiceTypeClusterIP,
				Selector: map[string]string{function.LabelName: f.Name},
				Ports:    []corev1.ServicePort{{Name: portName, Port: port, TargetPort: intstr.FromInt32(port), Protocol: corev1.ProtocolTCP}},
			},
		},
	}, nil
}

func renderPod(s source, settings function.Settings, c PodConfig) (corev1.PodTemplateSpec, error) {
	f := s.Function
	container, err := renderContainer(f, settings, c)
	if err != nil {
		return corev1.PodTemplateSpec{}, err
	}
	spec := corev1.PodSpec{
		// A mounted token costs every start 300 ms, and most functions have
		// nothing to say to the API server.
		AutomountServiceAccountToken: new(false),
		EnableServiceLinks:           new(false),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot:   new(true),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		TerminationGracePeriodSeconds: new(int64(seconds(c.Settle + gracePeriod(f, settings)))),
	}
	if !c.ImageUser {
		spec.SecurityContext.RunAsUser = new(int64(nonRootUser))
		spec.SecurityContext.RunAsGroup = new(int64(nonRootUser))
	}
	if account := f.Spec.Annotations[annotationServiceAccount]; account != "" {
		spec.ServiceAccountName, spec.AutomountServiceAccountToken = account, new(true)
	}
	if spec.NodeSelector, err = nodeSelector(f.Spec.Constraints); err != nil {
		return corev1.PodTemplateSpec{}, err
	}
	if f.Spec.ReadOnlyRootFilesystem {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: "temp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: "temp", MountPath: tempDir})
	}
	var files []corev1.VolumeProjection
	for _, name := range sortedUnique(f.Spec.Secrets) {
		if slices.Contains(s.PullSecrets, name) {
			spec.ImagePullSecrets = append(spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
			continue
		}
		files = append(files, corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: name}}})
	}
	if len(files) > 0 {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: "secrets", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: files}}})
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: "secrets", MountPath: secretsDir, ReadOnly: true})
	}
	for _, p := range s.Profiles {
		if err := p.apply(&spec, &container); err != nil {
			return corev1.PodTemplateSpec{}, err
		}
	}
	spec.Containers = []corev1.Container{container}
	annotations := keptAnnotations(f.Spec.Annotations)
	annotations[annotationRevision] = strconv.FormatInt(f.Generation, 10)
	annotations[annotationFunction] = string(f.UID)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: podLabels(f.Name, f.Spec.Labels), Annotations: annotations},
		Spec:       spec,
	}, nil
}

func renderContainer(f *Function, settings function.Settings, c PodConfig) (corev1.Container, error) {
	resources, err := renderResources(f.Spec.Limits, f.Spec.Requests)
	if err != nil {
		return corev1.Container{}, err
	}
	liveness, err := probe(f.Spec.Annotations, annotationHealth, probeDefaults{path: "/_/health", period: 10, timeout: 5, failures: 3})
	if err != nil {
		return corev1.Container{}, err
	}
	// Our watchdog answers this as it answers /_/ready; others do not know
	// /_/ready, or call the function for it, and take no notice of the query.
	// Who names a page for the liveness probe means this one too.
	path := cmp.Or(f.Spec.Annotations[annotationHealth+"path"], "/_/health?ready")
	readiness, err := probe(f.Spec.Annotations, annotationReady, probeDefaults{path: path, period: 1, timeout: 2, failures: 3})
	if err != nil {
		return corev1.Container{}, err
	}
	// Until the replica listens at all it has as long as it may take to load;
	// only then is it expected to answer.
	startup := liveness.DeepCopy()
	startup.InitialDelaySeconds, startup.PeriodSeconds = 0, 1
	startup.FailureThreshold = max(1, seconds(settings.LoadTimeout.Std()))
	container := corev1.Container{
		Name:            f.Name,
		Image:           f.Spec.Image,
		ImagePullPolicy: c.pullPolicy(f.Spec.Image),
		Ports:           []corev1.ContainerPort{{Name: portName, ContainerPort: port, Protocol: corev1.ProtocolTCP}},
		Env:             environment(f),
		Resources:       resources,
		StartupProbe:    startup,
		LivenessProbe:   liveness,
		ReadinessProbe:  readiness,
		// The last that a replica printed becomes part of why it failed.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			ReadOnlyRootFilesystem:   new(f.Spec.ReadOnlyRootFilesystem),
		},
	}
	if c.Settle > 0 {
		container.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: int64(seconds(c.Settle))}}}
	}
	return container, nil
}

// environment returns a container's variables in the order of their names:
// what was deployed, the settings that annotations carry, and what ties the
// function to the platform, which nobody overrides.
func environment(f *Function) []corev1.EnvVar {
	env := maps.Clone(f.Spec.Environment)
	if env == nil {
		env = map[string]string{}
	}
	if f.Spec.Handler != "" {
		env["fprocess"] = f.Spec.Handler
	}
	for _, s := range function.ListSettings() {
		if value := f.Spec.Annotations[s.Annotation]; value != "" {
			env[s.Name] = value
		}
	}
	env["OPENFAAS_NAME"], env["OPENFAAS_NAMESPACE"] = f.Name, f.Namespace
	if len(f.Spec.Secrets) > 0 {
		env["SECRETS_DIR"] = secretsDir // which is elsewhere in the embedded size
	}
	var list []corev1.EnvVar
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, corev1.EnvVar{Name: name, Value: env[name]})
	}
	return list
}

// stopMargin is what a watchdog gets to end in after the last call.
const stopMargin = 5 * time.Second

// gracePeriod is how long a replica may go on with the calls it has. Watchdogs
// of OpenFaaS are told the same thing by write_timeout.
func gracePeriod(f *Function, settings function.Settings) time.Duration {
	grace := settings.ExecTimeout
	var write function.Duration
	if write.UnmarshalText([]byte(f.Spec.Environment["write_timeout"])) == nil {
		grace = max(grace, write)
	}
	return grace.Std() + stopMargin
}

// seconds rounds up to what Kubernetes counts in.
func seconds(d time.Duration) int32 {
	return int32(min(math.MaxInt32, (d+time.Second-1)/time.Second))
}

func nodeSelector(constraints []string) (map[string]string, error) {
	if len(constraints) == 0 {
		return nil, nil
	}
	selector := map[string]string{}
	for _, c := range constraints {
		key, value, ok := strings.Cut(c, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(strings.TrimPrefix(value, "="))
		if !ok || key == "" {
			return nil, fault.Invalid.Errorf("constraint %q: want KEY=VALUE, a label of nodes", c)
		}
		selector[key] = value
	}
	return selector, nil
}

func sortedUnique(names []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

func renderResources(limits, requests *Resources) (corev1.ResourceRequirements, error) {
	var r corev1.ResourceRequirements
	for _, side := range []struct {
		what string
		from *Resources
		to   *corev1.ResourceList
	}{{"limits", limits, &r.Limits}, {"requests", requests, &r.Requests}} {
		if side.from == nil {
			continue
		}
		for name, text := range map[corev1.ResourceName]string{
			corev1.ResourceMemory: side.from.Memory,
			corev1.ResourceCPU:    side.from.CPU,
			"nvidia.com/gpu":      side.from.NvidiaGPU,
			"amd.com/gpu":         side.from.AmdGPU,
			"gpu.intel.com/i915":  side.from.IntelGPU,
		} {
			if text == "" {
				continue
			}
			q, err := resource.ParseQuantity(text)
			if err != nil {
				return r, fault.Invalid.Errorf("%s.%s is %q: want a quantity such as 64Mi or 500m", side.what, name, text)
			}
			if *side.to == nil {
				*side.to = corev1.ResourceList{}
			}
			(*side.to)[name] = q
		}
	}
	return r, nil
}

type probeDefaults struct {
	path                      string
	period, timeout, failures int32
}

// probe reads the annotations of one probe.
func probe(annotations map[string]string, prefix string, d probeDefaults) (*corev1.Probe, error) {
	p := &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path:   cmp.Or(annotations[prefix+"path"], d.path),
			Port:   intstr.FromInt32(port),
			Scheme: corev1.URISchemeHTTP,
		}},
		PeriodSeconds: d.period, TimeoutSeconds: d.timeout, FailureThreshold: d.failures, SuccessThreshold: 1,
	}
	for _, field := range []struct {
		names []string
		value *int32
		least int32
	}{
		{[]string{"initialDelaySeconds", "initialDelay"}, &p.InitialDelaySeconds, 0},
		{[]string{"periodSeconds"}, &p.PeriodSeconds, 1},
		{[]string{"timeoutSeconds"}, &p.TimeoutSeconds, 1},
		{[]string{"failureThreshold"}, &p.FailureThreshold, 1},
		{[]string{"successThreshold"}, &p.SuccessThreshold, 1},
	} {
		for _, name := range field.names {
			raw := annotations[prefix+name]
			if raw == "" {
				continue
			}
			var d function.Duration
			if err := d.UnmarshalText([]byte(raw)); err != nil || seconds(d.Std()) < field.least {
				return nil, fault.Invalid.Errorf("annotation %s is %q: want a whole number, %d or more", prefix+name, raw, field.least)
			}
			*field.value = seconds(d.Std())
			break
		}
	}
	if prefix == annotationHealth {
		p.SuccessThreshold = 1 // Kubernetes allows no other for liveness
	}
	return p, nil
}

// apply merges a profile into a pod and its container. Lists are appended to,
// single values replaced; what the function itself says about resources wins.
func (p *Profile) apply(pod *corev1.PodSpec, container *corev1.Container) error {
	s := p.Spec.clone()
	pod.Tolerations = append(pod.Tolerations, s.Tolerations...)
	pod.TopologySpreadConstraints = append(pod.TopologySpreadConstraints, s.TopologySpreadConstraints...)
	pod.Volumes = append(pod.Volumes, s.Volumes...)
	container.VolumeMounts = append(container.VolumeMounts, s.VolumeMounts...)
	if len(s.NodeSelector) > 0 {
		own := pod.NodeSelector
		pod.NodeSelector = s.NodeSelector
		maps.Copy(pod.NodeSelector, own)
	}
	if s.Affinity != nil {
		pod.Affinity = s.Affinity
	}
	if s.RuntimeClassName != "" {
		pod.RuntimeClassName = &s.RuntimeClassName
	}
	pod.PriorityClassName = cmp.Or(s.PriorityClassName, pod.PriorityClassName)
	pod.DNSPolicy = cmp.Or(s.DNSPolicy, pod.DNSPolicy)
	if err := overlay(&pod.SecurityContext, s.PodSecurityContext); err != nil {
		return fmt.Errorf("profile %s: podSecurityContext: %w", p.Name, err)
	}
	if err := overlay(&pod.DNSConfig, s.DNSConfig); err != nil {
		return fmt.Errorf("profile %s: dnsConfig: %w", p.Name, err)
	}
	if s.Resources != nil {
		container.Resources.Limits = under(container.Resources.Limits, s.Resources.Limits)
		container.Resources.Requests = under(container.Resources.Requests, s.Resources.Requests)
	}
	return nil
}

// overlay sets in *onto the fields that are set in from.
func overlay[T any](onto **T, from *T) error {
	if from == nil {
		return nil
	}
	if *onto == nil {
		*onto = new(T)
	}
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, *onto)
}

// under returns own with what only base has.
func under(own, base corev1.ResourceList) corev1.ResourceList {
	if len(base) == 0 {
		return own
	}
	all := maps.Clone(base)
	maps.Copy(all, own)
	return all
}

// profileNames returns the profiles that a function asks for, in order.
func profileNames(f *Function) []string {
	var names []string
	for name := range strings.SplitSeq(f.Spec.Annotations[annotationProfile], ",") {
		if name = strings.TrimSpace(name); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

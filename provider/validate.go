package provider

import (
	"encoding"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// validate reports everything that is wrong with spec by itself, in one
// error of kind fault.Invalid.
func validate(spec types.FunctionDeployment) error {
	var problems []string
	check := func(err error) {
		if err != nil {
			problems = append(problems, err.Error())
		}
	}
	ref := function.Ref{Name: spec.Service, Namespace: function.DefaultNamespace}
	if spec.Service == "" {
		problems = append(problems, "service (the function's name) is missing")
	} else {
		check(ref.Validate())
	}
	check(function.ValidNamespace(spec.Namespace))
	check(validImage(spec.Image))
	check(validEnvironment(spec.EnvVars))
	for _, name := range spec.Secrets {
		check(function.ValidSecretName(name))
	}
	check(validResources("limits", spec.Limits))
	check(validResources("requests", spec.Requests))
	_, err := function.ReadSettings(mapOf(spec.Annotations), spec.EnvVars)
	check(err)
	_, err = function.ReadScale(mapOf(spec.Labels))
	check(err)
	if len(problems) > 0 {
		return fault.Invalid.Errorf("%s", strings.Join(problems, "; "))
	}
	return nil
}

func mapOf(m *map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	return *m
}

// validImage checks that there is a name; what it means is the runtime's.
func validImage(image string) error {
	if image == "" {
		return fmt.Errorf("image is missing")
	}
	if strings.ContainsFunc(image, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return fmt.Errorf("image %q contains spaces or control characters", image)
	}
	return nil
}

// validEnvironment checks that a process can be given these variables.
func validEnvironment(env map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fmt.Errorf("environment variable %q: a name is not empty and has no \"=\"", name)
		}
		if strings.Contains(env[name], "\x00") {
			return fmt.Errorf("environment variable %q: a value has no NUL character", name)
		}
	}
	return nil
}

// validResources checks quantities. Empty ones are not set.
func validResources(what string, r *types.FunctionResources) error {
	if r == nil {
		return nil
	}
	for _, q := range []struct {
		field, text string
		value       encoding.TextUnmarshaler
	}{
		{"memory", r.Memory, new(function.Bytes)},
		{"cpu", r.CPU, new(function.MilliCPU)},
		{"nvidia.com/gpu", r.NvidiaGPU, new(count)},
		{"amd.com/gpu", r.AmdGPU, new(count)},
		{"intel.com/gpu", r.IntelGPU, new(count)},
	} {
		if q.text == "" {
			continue
		}
		if err := q.value.UnmarshalText([]byte(q.text)); err != nil {
			return fmt.Errorf("%s.%s is %q: %w", what, q.field, q.text, err)
		}
	}
	return nil
}

// count is a number of whole devices.
type count uint

func (c *count) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 16)
	if err != nil {
		return fmt.Errorf("want a whole number of devices")
	}
	*c = count(n)
	return nil
}

// missingSecrets reports, as fault.Invalid, the secrets of spec that are not
// known.
func missingSecrets(spec types.FunctionDeployment, known []types.Secret) error {
	var missing []string
	for _, name := range spec.Secrets {
		if !slices.ContainsFunc(known, func(s types.Secret) bool { return s.Name == name }) {
			missing = append(missing, name)
		}
	}
	return noneMissing(missing, spec.Namespace)
}

func noneMissing(names []string, namespace string) error {
	if len(names) == 0 {
		return nil
	}
	var quoted []string
	for _, name := range names {
		quoted = append(quoted, strconv.Quote(name))
	}
	return fault.Invalid.Errorf("unable to fetch secrets: %s not found in namespace %s: create them first", strings.Join(quoted, ", "), namespace)
}

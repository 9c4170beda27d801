// Package crd holds the definitions of the custom resources, as the cluster has
// to know them before anything else: functions, profiles, and what says who may
// do what.
package crd

import _ "embed"

// The definitions, in YAML.
var (
	//go:embed functions.yaml
	Functions []byte
	//go:embed profiles.yaml
	Profiles []byte
	//go:embed jwtissuers.yaml
	JwtIssuers []byte
	//go:embed policies.yaml
	Policies []byte
	//go:embed roles.yaml
	Roles []byte
)

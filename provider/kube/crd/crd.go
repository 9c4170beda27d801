// Package crd holds the definitions of the custom resources that functions
// and profiles are, as the cluster has to know them before anything else.
package crd

import _ "embed"

// Functions and Profiles are the definitions, in YAML.
var (
	//go:embed functions.yaml
	Functions []byte
	//go:embed profiles.yaml
	Profiles []byte
)

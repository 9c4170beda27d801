package runtimetest_test

import (
	"strings"
	"testing"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/provider/runtimetest"
)

func TestTheFakeKeepsTheContract(t *testing.T) {
	runtimetest.Run(t, func(*testing.T) runtimetest.Subject {
		fake := runtimetest.NewFake("unix:/nowhere")
		fake.Refused = "refused"
		fake.Fails = func(d types.FunctionDeployment) string { return d.EnvVars["fail"] }
		fake.Says = func(d types.FunctionDeployment) []string { return strings.Split(d.EnvVars["say"], "\n") }
		return runtimetest.Subject{
			Runtime: fake, Secrets: fake, Logs: fake, Namespaces: fake,
			Image: "image", Refused: "refused",
			Failing: func(d *types.FunctionDeployment) { d.EnvVars = map[string]string{"fail": "it is told to"} },
		}
	})
}

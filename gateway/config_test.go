package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestTheReferencePageListsTheSettingsOfTheGateway(t *testing.T) {
	var page strings.Builder
	page.WriteString(`# Settings of the gateway

Generated from the program's settings by the tests of package ` + "`gateway`" + ` (` + "`-update`" + `
rewrites this page). They are environment variables of the program ` + "`gateway`" + `, which
runs in a cluster; [` + "`graphene serve`" + `](cli/graphene_serve.md) has flags instead. Names are
OpenFaaS's where OpenFaaS has one. Time spans are such as ` + "`90s`" + ` or ` + "`5m`" + `, a number alone
is seconds. Sizes are such as ` + "`512Mi`" + ` or ` + "`100M`" + `.

| variable | default | meaning |
|---|---|---|
`)
	for _, f := range conf.Fields[gateway.Config]() {
		fallback := "none"
		if f.Default != "" {
			fallback = "`" + f.Default + "`"
		}
		if f.Env == "functions_provider_url" {
			fallback = "required"
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s |\n", f.Env, fallback, f.Doc)
	}
	page.WriteString(`
` + "`/healthz`" + `, on both addresses, needs no credentials. On ` + "`listen`" + ` it answers 200 while the gateway
serves calls, and 503 with the reason before it has learnt from the provider which functions
there are and from the moment it is asked to stop. A provider or a queue that is away does not
make the gateway unhealthy: calls go on to the replicas that are known.

On SIGTERM the gateway first says on ` + "`/healthz`" + ` that it stops, goes on accepting for
` + "`shutdown_delay`" + `, then lets the calls in flight finish for at most ` + "`drain_timeout`" + `. The grace
period of its pod must be longer than the two together.

What ` + "`auth_config`" + ` holds is in the [guide to identity](../guide/identity.md).
`)
	testkit.Golden(t, "../docs/reference/gateway.md", []byte(page.String()))
}

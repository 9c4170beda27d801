package function_test

import (
	"bytes"
	"cmp"
	"fmt"
	"testing"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
)

// TestTheReferenceOfSettingsIsTrue keeps docs/reference/function.md in step
// with the code.
func TestTheReferenceOfSettingsIsTrue(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`# Settings of a function

Generated from the code by ` + "`make generate`" + `; do not edit.

Each setting can be written in three ways, of which the first found counts: as a key of the function in stack.yaml
(sent as the annotation), as the annotation itself by any OpenFaaS client, or as an environment variable of the
function. The watchdog gets all of them as environment variables. Times are whole seconds (` + "`90`" + `) or Go's notation
(` + "`1m30s`" + `); amounts of memory are Kubernetes quantities (` + "`500M`, `64Mi`" + `).

| stack.yaml and environment | annotation | type | default | meaning |
|---|---|---|---|---|
`)
	for _, s := range function.ListSettings() {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s |\n", s.Name, s.Annotation, s.Type, cmp.Or(s.Default, "–"), s.Doc)
	}
	b.WriteString(`
OpenFaaS's own labels keep their names. What a function does not say is up to the installation: its settings are those
of [` + "`serve`" + `](cli/graphene_serve.md) and of [the gateway](gateway.md). [Scaling](../guide/scaling.md) explains them.

| label | meaning |
|---|---|
`)
	for _, l := range function.ListScaleLabels() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", l.Name, l.Doc)
	}
	testkit.Golden(t, "../../docs/reference/function.md", b.Bytes())
}

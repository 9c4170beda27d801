package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/internal/function"
)

// stackFile returns the help on the stack file.
func stackFile() *cobra.Command {
	var long strings.Builder
	long.WriteString(`The stack file names the functions of a project. It is stack.yaml, or stack.yml,
or what --yaml names, which may be a URL. It has OpenFaaS's format:

    version: 1.0
    provider:
      name: openfaas
      gateway: http://127.0.0.1:8080
    functions:
      wine:
        lang: python3-model
        handler: ./wine            # directory of the source code
        image: wine:latest         # without a host: the platform's own registry
        environment: {LEVEL: info}
        environment_file: [env.yml]
        secrets: [api-key]
        labels: {com.openfaas.scale.max: 4}
        annotations: {topic: samples}
        limits: {memory: 256Mi, cpu: 500m}
        readonly_root_filesystem: true

Paths are relative to the stack file, or, if there is nothing, to the working
directory. ${VAR} and ${VAR:-default} are replaced by environment variables;
--envsubst=false leaves them. Unknown keys are warnings.

These settings of a function are keys too; other OpenFaaS clients send them as
annotations:

`)
	for _, s := range function.ListSettings() {
		fmt.Fprintf(&long, "    %-14s %s", s.Name, s.Doc)
		if s.Default != "" {
			fmt.Fprintf(&long, " (default %s)", s.Default)
		}
		long.WriteByte('\n')
	}
	long.WriteString(`
"-f NAME.yml" also works where there is no such file, but a stack.yaml that has
the function NAME: tutorials of older versions of OpenFaaS do it that way.
`)
	return &cobra.Command{Use: "stack-file", Short: "What the stack file may hold", Long: long.String()}
}

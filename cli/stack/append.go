package stack

import (
	"bytes"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/graphene-faas/graphene/internal/fault"
)

// New returns the text of a stack file without functions.
func New(gateway string) []byte {
	return fmt.Appendf(nil, "version: 1.0\nprovider:\n  name: openfaas\n  gateway: %s\nfunctions:\n", gateway)
}

// Append returns the text of a stack file with f added to its functions, and
// everything else, comments too, as it was. Of f it writes what a new function
// has: lang, handler, image and resources. The error is fault.Exists if there
// is a function of that name, and fault.Invalid if the file is written in a
// way that leaves no place for another line.
func Append(name string, text []byte, f Function) ([]byte, error) {
	st, err := Parse(name, text)
	if err != nil {
		return nil, err
	}
	if _, ok := st.Function(f.Name); ok {
		return nil, fault.Exists.Errorf("%s has a function %q already; choose another name", name, f.Name)
	}
	at, indent, ok := insertion(text)
	if !ok {
		return nil, fault.Invalid.Errorf("%s writes its functions in a way that another one cannot be added to; add it by hand:\n%s", name, entry(f, 2))
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	if at < 0 {
		at = len(lines)
	}
	var out bytes.Buffer
	for _, l := range lines[:at] {
		out.Write(l)
	}
	if b := out.Bytes(); len(b) > 0 && b[len(b)-1] != '\n' {
		out.WriteByte('\n')
	}
	out.WriteString(entry(f, indent))
	for _, l := range lines[at:] {
		out.Write(l)
	}

	// Whatever form the file has, what comes out must be what was meant.
	after, err := Parse(name, out.Bytes())
	if err != nil || len(after.Functions) != len(st.Functions)+1 || after.Functions[len(st.Functions)].Name != f.Name {
		return nil, fault.Invalid.Errorf("%s writes its functions in a way that another one cannot be added to; add it by hand:\n%s", name, entry(f, 2))
	}
	return out.Bytes(), nil
}

// insertion returns the line, counted from 0, before which another function
// belongs (-1 is the end of the file), and how far it is indented.
func insertion(text []byte) (line, indent int, ok bool) {
	var doc yaml.Node
	if yaml.Unmarshal(text, &doc) != nil || len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return 0, 0, false
	}
	top := doc.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		if key.Value != "functions" {
			continue
		}
		indent := 2
		switch {
		case value.Kind == yaml.MappingNode && value.Style&yaml.FlowStyle == 0 && len(value.Content) > 0:
			indent = value.Content[0].Column - 1
		case !isNull(value) || value.Value != "":
			return 0, 0, false
		}
		if i+2 == len(top.Content) {
			return -1, indent, true
		}
		next := top.Content[i+2]
		line := next.Line - 1
		if next.HeadComment != "" {
			line -= strings.Count(next.HeadComment, "\n") + 1
		}
		return max(line, key.Line), indent, true
	}
	return 0, 0, false
}

// entry returns the lines of a function.
func entry(f Function, indent int) string {
	var b strings.Builder
	line := func(depth int, format string, args ...any) {
		fmt.Fprintf(&b, "%*s%s\n", indent*depth, "", fmt.Sprintf(format, args...))
	}
	line(1, "%s:", f.Name)
	line(2, "lang: %s", f.Lang)
	line(2, "handler: %s", f.Handler)
	line(2, "image: %s", f.Image)
	for _, r := range []struct {
		key string
		Resources
	}{{"limits", f.Limits}, {"requests", f.Requests}} {
		if r.Resources == (Resources{}) {
			continue
		}
		line(2, "%s:", r.key)
		if r.Memory != "" {
			line(3, "memory: %s", r.Memory)
		}
		if r.CPU != "" {
			line(3, "cpu: %s", r.CPU)
		}
	}
	return b.String()
}

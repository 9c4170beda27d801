package term

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"go.yaml.in/yaml/v3"
)

// A Format says how a result is written. It is a flag's value; its zero value
// is a table.
type Format struct{ name string }

// The formats of results.
var formats = [...]string{"table", "json", "yaml"}

// JSON is the format of programs.
var JSON = Format{"json"}

// String returns the format's name.
func (f *Format) String() string {
	if f.name == "" {
		return "table"
	}
	return f.name
}

// Set reads a format's name.
func (f *Format) Set(name string) error {
	if !slices.Contains(formats[:], name) {
		return fmt.Errorf("want one of %s", strings.Join(formats[:], ", "))
	}
	f.name = name
	return nil
}

// Type names the kind of value in help.
func (f *Format) Type() string { return "table|json|yaml" }

// IsTable reports whether the result is for people.
func (f *Format) IsTable() bool { return f.name == "" || f.name == "table" }

// Write writes v in the format f: as JSON or YAML with the keys of its json
// tags, or as the table that fill fills.
func (f *Format) Write(w io.Writer, v any, fill func(*Table)) error {
	switch f.String() {
	case "json":
		return writeJSON(w, v)
	case "yaml":
		return writeYAML(w, v)
	}
	var t Table
	fill(&t)
	_, err := io.WriteString(w, t.String())
	return err
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// writeYAML goes by way of JSON, which is YAML too, so that keys and their
// order are the same in both.
func writeYAML(w io.Writer, v any) error {
	var buf bytes.Buffer
	if err := writeJSON(&buf, v); err != nil {
		return err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(buf.Bytes(), &node); err != nil {
		return fmt.Errorf("turn JSON into YAML: %w", err)
	}
	plain(&node)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return err
	}
	return enc.Close()
}

// plain takes JSON's braces and quotes from a tree; those that YAML needs
// come back when it is written.
func plain(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, c := range n.Content {
		plain(c)
	}
}

// A Table aligns columns for people. Its zero value is empty.
type Table struct {
	header []string
	rows   [][]string
}

// Header sets the names of the columns.
func (t *Table) Header(names ...string) { t.header = names }

// Row adds a row. Cells may hold anything; it is cleaned.
func (t *Table) Row(cells ...string) { t.rows = append(t.rows, cells) }

// String returns the table with a line end after each row, "" if it has
// neither header nor rows.
func (t *Table) String() string {
	tw := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "   "
	style.Format.Header = text.FormatDefault
	tw.SetStyle(style)
	if t.header != nil {
		tw.AppendHeader(cells(t.header))
	}
	for _, r := range t.rows {
		tw.AppendRow(cells(r))
	}
	var b strings.Builder
	for line := range strings.Lines(tw.Render()) {
		b.WriteString(strings.TrimRight(line, " \n"))
		b.WriteByte('\n')
	}
	return b.String()
}

func cells(texts []string) table.Row {
	row := make(table.Row, len(texts))
	for i, s := range texts {
		row[i] = Clean(s)
	}
	return row
}

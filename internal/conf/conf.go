// Package conf reads a program's configuration from its environment into one
// struct, reports every problem together, and lists the settings for flags
// and for the reference pages.
//
// A field of the struct has the tags env (the variable's name), envDefault
// (its default) and doc (one line for people). A bad value is an error; it
// never becomes the default in silence.
package conf

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/caarlos0/env/v11"

	"github.com/graphene-faas/graphene/internal/fault"
)

// A Field describes one setting.
type Field struct {
	Name    string // of the Go field
	Env     string // of the variable
	Default string
	Doc     string
	Type    string // string, bool, int, or the Go type's name in lower case
}

// Flag returns the name of the command-line flag that stands for the setting:
// the variable's name in lower case, without the prefix, dashes for
// underscores.
func (f Field) Flag(prefix string) string {
	name := strings.TrimPrefix(strings.ToLower(f.Env), strings.ToLower(prefix))
	return strings.ReplaceAll(name, "_", "-")
}

// Fields lists the settings of T in the order of the struct.
func Fields[T any]() []Field {
	var all []Field
	for f := range reflect.TypeFor[T]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
		if name == "" {
			continue
		}
		all = append(all, Field{
			Name:    f.Name,
			Env:     name,
			Default: f.Tag.Get("envDefault"),
			Doc:     f.Tag.Get("doc"),
			Type:    strings.ToLower(f.Type.Name()),
		})
	}
	return all
}

// Read fills a T from environ, whose entries are NAME=VALUE; of two entries
// with one name the later wins. The error, of kind fault.Invalid, names every
// variable that is missing or has a bad value.
func Read[T any](environ []string) (T, error) {
	var cfg T
	vars := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			vars[k] = v
		}
	}
	err := env.ParseWithOptions(&cfg, env.Options{Environment: vars})
	if err == nil {
		return cfg, nil
	}
	names := map[string]string{}
	for _, f := range Fields[T]() {
		names[f.Name] = f.Env
	}
	var problems []string
	all := []error{err}
	if agg, ok := errors.AsType[env.AggregateError](err); ok {
		all = agg.Errors
	}
	for _, e := range all {
		problems = append(problems, explain(e, names, vars))
	}
	return cfg, fault.Invalid.Errorf("%s", strings.Join(problems, "; "))
}

func explain(err error, names, vars map[string]string) string {
	if p, ok := errors.AsType[env.ParseError](err); ok {
		name := names[p.Name]
		return fmt.Sprintf("%s is %q: %v", name, vars[name], p.Err)
	}
	if m, ok := errors.AsType[env.VarIsNotSetError](err); ok {
		return m.Key + " is not set"
	}
	if m, ok := errors.AsType[env.EmptyVarError](err); ok {
		return m.Key + " is empty"
	}
	return err.Error()
}

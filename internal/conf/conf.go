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
	"strconv"
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

// Fields lists the settings of T in the order of the struct, those of embedded
// structs where they are embedded.
func Fields[T any]() []Field {
	var all []Field
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
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
func Read[T any](environ []string) (T, error) { return ReadFlags[T](environ, "", nil) }

// ReadFlags is Read for a program that takes flags too: flags holds the values
// of those that were given, by the flag's name, and wins over environ. Errors
// name a value as it was given. prefix is that of [Field.Flag].
func ReadFlags[T any](environ []string, prefix string, flags map[string]string) (T, error) {
	var cfg T
	vars := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			vars[k] = v
		}
	}
	names := map[string]string{} // of fields, as the user gave them
	for _, f := range Fields[T]() {
		names[f.Name] = f.Env
		if v, ok := flags[f.Flag(prefix)]; ok {
			vars[f.Env], names[f.Name] = v, "--"+f.Flag(prefix)
		}
	}
	err := env.ParseWithOptions(&cfg, env.Options{Environment: vars})
	if err == nil {
		return cfg, nil
	}
	var problems []string
	all := []error{err}
	if agg, ok := errors.AsType[env.AggregateError](err); ok {
		all = agg.Errors
	}
	for _, e := range all {
		problems = append(problems, explain[T](e, names, vars))
	}
	return cfg, fault.Invalid.Errorf("%s", strings.Join(problems, "; "))
}

func explain[T any](err error, names, vars map[string]string) string {
	if p, ok := errors.AsType[env.ParseError](err); ok {
		for _, f := range Fields[T]() {
			if f.Name == p.Name {
				return fmt.Sprintf("%s is %q: %v", names[f.Name], vars[f.Env], want(f, p.Err))
			}
		}
	}
	if m, ok := errors.AsType[env.VarIsNotSetError](err); ok {
		return m.Key + " is not set"
	}
	if m, ok := errors.AsType[env.EmptyVarError](err); ok {
		return m.Key + " is empty"
	}
	return err.Error()
}

// want says what a value of f's type looks like, where err is only what the
// library for numbers has to say.
func want(f Field, err error) error {
	if _, ok := errors.AsType[*strconv.NumError](err); !ok {
		return err
	}
	if f.Type == "bool" {
		return errors.New("want true or false")
	}
	return errors.New("want a whole number")
}

package kube

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/graphene-faas/graphene/provider/kube/crd"
)

// A definition is what these tests need of a structural schema.
type definition struct {
	Type                 string
	Format               string
	Properties           map[string]*definition
	Items                *definition
	AdditionalProperties *definition
	Required             []string
	Preserve             bool `json:"x-kubernetes-preserve-unknown-fields"`
}

func readSchema(t *testing.T, text []byte) *definition {
	t.Helper()
	var whole struct {
		Spec struct {
			Versions []struct {
				Schema struct{ OpenAPIV3Schema *definition }
			}
		}
	}
	if err := yaml.Unmarshal(text, &whole); err != nil {
		t.Fatal(err)
	}
	return whole.Spec.Versions[0].Schema.OpenAPIV3Schema
}

func TestTheDefinitionsOfTheResourcesAgreeWithTheirTypes(t *testing.T) {
	for _, tt := range []struct {
		text []byte
		of   reflect.Type
	}{{crd.Functions, reflect.TypeFor[Function]()}, {crd.Profiles, reflect.TypeFor[Profile]()}} {
		agree(t, tt.of.Name(), tt.of, readSchema(t, tt.text))
	}
}

func agree(t *testing.T, path string, of reflect.Type, s *definition) {
	t.Helper()
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	want := map[reflect.Kind]string{
		reflect.String: "string", reflect.Bool: "boolean", reflect.Int32: "integer", reflect.Int64: "integer",
		reflect.Slice: "array", reflect.Map: "object", reflect.Struct: "object",
	}[of.Kind()]
	if of == reflect.TypeFor[metav1.Time]() {
		want = "string"
	}
	if s.Type != want {
		t.Errorf("%s is a %q in the definition, want %q for %v", path, s.Type, want, of)
		return
	}
	switch {
	case s.Preserve, of == reflect.TypeFor[metav1.ObjectMeta](), want != "object" && want != "array":
	case of.Kind() == reflect.Slice:
		agree(t, path+"[]", of.Elem(), s.Items)
	case of.Kind() == reflect.Map:
		agree(t, path+"{}", of.Elem(), s.AdditionalProperties)
	default:
		var names []string
		for f := range of.Fields() {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" { // TypeMeta
				names = append(names, "apiVersion", "kind")
				continue
			}
			names = append(names, name)
			if optional := strings.Contains(options, "omit") || strings.Contains(path, "status"); !optional && !slices.Contains(s.Required, name) {
				t.Errorf("%s.%s is always written, but not required", path, name)
			}
			if p := s.Properties[name]; p != nil {
				agree(t, path+"."+name, f.Type, p)
			}
		}
		for _, name := range names {
			if s.Properties[name] == nil {
				t.Errorf("%s.%s is not in the definition", path, name)
			}
		}
		for name := range s.Properties {
			if !slices.Contains(names, name) {
				t.Errorf("%s.%s is defined, but nobody reads it", path, name)
			}
		}
	}
}

// fill sets everything in v, so that a copy that forgets something differs.
func fill(v reflect.Value, depth int) {
	switch {
	case depth > 7 || !v.CanSet():
	case v.Type() == reflect.TypeFor[metav1.Time]():
		v.Set(reflect.ValueOf(metav1.NewTime(time.Unix(1, 0))))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case v.Kind() == reflect.Struct:
		for _, field := range v.Fields() {
			fill(field, depth+1)
		}
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), depth+1)
		}
	case v.Kind() == reflect.Map && v.Type().Key().Kind() == reflect.String:
		v.Set(reflect.MakeMap(v.Type()))
		e := reflect.New(v.Type().Elem()).Elem()
		fill(e, depth+1)
		v.SetMapIndex(reflect.ValueOf("k").Convert(v.Type().Key()), e)
	case v.Kind() == reflect.String:
		v.SetString("x")
	case v.CanInt():
		v.SetInt(7)
	}
}

// sharing reports a place where a and b are the same memory.
func sharing(path string, a, b reflect.Value) string {
	switch a.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice:
		if a.IsNil() {
			return ""
		}
		if a.Pointer() == b.Pointer() {
			return path
		}
	}
	switch a.Kind() {
	case reflect.Pointer:
		return sharing(path, a.Elem(), b.Elem())
	case reflect.Struct:
		if a.Type() == reflect.TypeFor[metav1.Time]() {
			return "" // a time's location is shared by all
		}
		for i := range a.NumField() {
			if s := sharing(path+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i)); s != "" {
				return s
			}
		}
	case reflect.Slice:
		for i := range a.Len() {
			if s := sharing(path, a.Index(i), b.Index(i)); s != "" {
				return s
			}
		}
	case reflect.Map:
		for _, k := range a.MapKeys() {
			if s := sharing(path, a.MapIndex(k), b.MapIndex(k)); s != "" {
				return s
			}
		}
	}
	return ""
}

func TestCopiesAreEqualAndShareNothing(t *testing.T) {
	f, p := &Function{}, &Profile{}
	fill(reflect.ValueOf(f).Elem(), 0)
	fill(reflect.ValueOf(p).Elem(), 0)
	functions, profiles := &FunctionList{Items: []Function{*f}}, &ProfileList{Items: []Profile{*p}}
	for _, pair := range [][2]any{
		{f, f.DeepCopyObject()}, {p, p.DeepCopyObject()},
		{functions, functions.DeepCopyObject()}, {profiles, profiles.DeepCopyObject()},
	} {
		if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
			t.Errorf("a copy of %T differs:\n%s", pair[0], diff)
		}
		if where := sharing("", reflect.ValueOf(pair[0]), reflect.ValueOf(pair[1])); where != "" {
			t.Errorf("a copy of %T shares %s", pair[0], where)
		}
	}
}

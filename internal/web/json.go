package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"

	"github.com/graphene-faas/graphene/internal/fault"
)

// Decode reads one JSON value of at most limit bytes from r's body into v.
// Unknown fields are ignored, as OpenFaaS clients send fields of several
// generations. Errors are fault.Invalid, with the line and column, or
// fault.TooLarge.
func Decode(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	body, err := ReadBody(w, r, limit)
	if err != nil {
		return err
	}
	return Unmarshal(body, v)
}

// ReadBody reads r's whole body. Errors are fault.TooLarge for one of more
// than limit bytes, and fault.Invalid for one that ends early.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, fault.TooLarge.Errorf("request body exceeds %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return nil, fault.Invalid.Errorf("read request body: %w", err)
	}
	return body, nil
}

// Unmarshal reads a request's body into v as [Decode] does.
func Unmarshal(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fault.Invalid.Errorf("request body: %s", explainJSON(body, err))
	}
	return nil
}

func explainJSON(body []byte, err error) string {
	if len(body) == 0 {
		return "is empty, want JSON"
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		line, column := position(body, syntax.Offset)
		return fmt.Sprintf("line %d, column %d: %v", line, column, syntax)
	}
	if typ, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		line, column := position(body, typ.Offset)
		return fmt.Sprintf("line %d, column %d: field %q is a JSON %s, want %s", line, column, typ.Field, typ.Value, inWords(typ.Type))
	}
	return err.Error()
}

// inWords names a Go type for people who write JSON.
func inWords(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, 0 or more"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Map, reflect.Struct:
		return "an object"
	}
	return t.String()
}

// position turns an offset, which counts the bytes read, into a line and a
// column that count from one.
func position(text []byte, offset int64) (line, column int) {
	line, column = 1, 0
	for i, c := range text {
		if int64(i) >= offset {
			break
		}
		if column++; c == '\n' {
			line, column = line+1, 0
		}
	}
	return line, max(column, 1)
}

// WriteJSON answers with v as JSON. The error is of the connection: by then
// the status is out, so a handler returns nil after calling it.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a caller that went away needs no answer
}

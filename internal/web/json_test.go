package web_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/web"
)

type shape struct {
	Name   string            `json:"name"`
	Count  uint64            `json:"count"`
	Share  float64           `json:"share"`
	Labels map[string]string `json:"labels"`
	List   []string          `json:"list"`
	On     bool              `json:"on"`
	Inner  struct {
		Size int `json:"size"`
	} `json:"inner"`
}

func decode(body io.Reader, limit int64) (shape, error) {
	var got shape
	r := httptest.NewRequest(http.MethodPost, "/", body)
	return got, web.Decode(httptest.NewRecorder(), r, limit, &got)
}

func TestDecodeSaysWhereAndWhatInTheWordsOfJSON(t *testing.T) {
	for body, want := range map[string]string{
		"":                               "is empty, want JSON",
		"{":                              "line 1, column 1: unexpected end",
		"{\n  \"name\": \"a\",\n  oops}": "line 3, column 3: invalid character 'o'",
		`{"name":"a"} x`:                 "line 1, column 14: invalid character 'x'",
		`{"name":1}`:                     `field "name" is a JSON number, want a string`,
		`{"count":-1}`:                   `field "count" is a JSON number -1, want a whole number, 0 or more`,
		`{"count":"1"}`:                  `field "count" is a JSON string, want a whole number, 0 or more`,
		`{"share":"x"}`:                  `field "share" is a JSON string, want a number`,
		`{"labels":[]}`:                  `field "labels" is a JSON array, want an object`,
		`{"list":{}}`:                    `field "list" is a JSON object, want an array`,
		`{"on":"yes"}`:                   `field "on" is a JSON string, want true or false`,
		"{\n\"inner\":{\"size\":1.5}}":   `line 2, column 19: field "inner.size" is a JSON number 1.5, want a whole number`,
	} {
		_, err := decode(strings.NewReader(body), 1000)
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", body, err, want)
		}
	}
}

func TestDecodeIgnoresWhatItDoesNotKnow(t *testing.T) {
	got, err := decode(strings.NewReader(`{"name":"a","network":"old"}`), 1000)
	if err != nil || got.Name != "a" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestDecodeReadsUpToItsLimitAndNotBeyond(t *testing.T) {
	const body = `{"name":"a"}`
	if _, err := decode(strings.NewReader(body), int64(len(body))); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := decode(strings.NewReader(body), int64(len(body)-1)); !errors.Is(err, fault.TooLarge) {
		t.Errorf("beyond the limit: %v, want fault.TooLarge", err)
	}
	if _, err := decode(iotest.ErrReader(errors.New("hung up")), 10); !errors.Is(err, fault.Invalid) {
		t.Errorf("a body that breaks: %v, want fault.Invalid", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", "{", `{"name":"a"}`, "{\n\"count\":1e400}", "\xff", `{"inner":{"size":"x"}}`, "[1,\n2", "null"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		_, err := decode(strings.NewReader(body), 100)
		if err == nil {
			var again shape
			if err := json.Unmarshal([]byte(body), &again); err != nil {
				t.Errorf("%q is read, but is no JSON: %v", body, err)
			}
			return
		}
		if !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.TooLarge) {
			t.Errorf("%q: %v has no kind a caller can act on", body, err)
		}
	})
}

package function

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestEveryNumberIsAnsweredBeforeTheNextIsSent(t *testing.T) {
	for _, accept := range []string{"application/x-ndjson", "text/event-stream"} {
		t.Run(accept, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(Handle))
			defer server.Close()
			body, numbers := io.Pipe()
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, body)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Accept", accept)
			// The answer's header comes with the first number's answer.
			go fmt.Fprintln(numbers, 1)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if got := response.Header.Get("Content-Type"); got != accept {
				t.Errorf("Content-Type %q, want %q", got, accept)
			}

			answers := bufio.NewScanner(response.Body)
			for n := 1; n <= 5; n++ {
				got := next(t, answers)
				if got.Count != n || got.Highest != float64(n) || got.Mean != float64(n+1)/2 {
					t.Errorf("after %d numbers: %+v", n, got)
				}
				if n < 5 {
					if _, err := fmt.Fprintln(numbers, n+1); err != nil {
						t.Fatal(err)
					}
				}
			}
			numbers.Close()
			for answers.Scan() {
				if answers.Text() != "" {
					t.Errorf("more than was asked for: %s", answers.Text())
				}
			}
			if err := answers.Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// next returns the next document, whatever its framing.
func next(t *testing.T, answers *bufio.Scanner) (document summary) {
	t.Helper()
	for answers.Scan() {
		line := strings.TrimPrefix(answers.Text(), "data: ")
		if !strings.HasPrefix(line, "{") {
			continue
		}
		if err := json.Unmarshal([]byte(line), &document); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return document
	}
	t.Fatalf("the stream ended: %v", answers.Err())
	return summary{}
}

func TestWhatIsNoNumberIsAnErrorInItsPlace(t *testing.T) {
	request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("1\n\ntwo\nNaN\n1e999\n 3 \n"))
	recorder := httptest.NewRecorder()

	Handle(recorder, request)

	want := `{"count":1,"mean":1,"deviation":0,"lowest":1,"highest":1}
{"line":3,"error":"\"two\" is not a number"}
{"line":4,"error":"\"NaN\" is not a number"}
{"line":5,"error":"\"1e999\" is not a number"}
{"count":2,"mean":2,"deviation":1,"lowest":1,"highest":3}
`
	if got := recorder.Body.String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestAnEndlessLineEndsTheStream(t *testing.T) {
	request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("1\n"+strings.Repeat("9", maxLine+1)))
	recorder := httptest.NewRecorder()

	Handle(recorder, request)

	if want := `{"error":"a line is longer than 1024 bytes"}` + "\n"; !strings.HasSuffix(recorder.Body.String(), want) {
		t.Errorf("got:\n%swant at the end:\n%s", recorder.Body, want)
	}
}

func TestAListenerGetsAsManyTicksAsItAsksFor(t *testing.T) {
	for accept, want := range map[string]string{
		"":                                "text/event-stream",
		"text/event-stream":               "text/event-stream",
		"text/html, application/x-ndjson": "application/x-ndjson",
	} {
		t.Run(accept, func(t *testing.T) {
			request := httptest.NewRequest(http.MethodGet, "/?n=3&every=1ms", nil)
			request.Header.Set("Accept", accept)
			recorder := httptest.NewRecorder()

			Handle(recorder, request)

			if got := recorder.Header().Get("Content-Type"); got != want {
				t.Errorf("Content-Type %q, want %q", got, want)
			}
			answers := bufio.NewScanner(recorder.Body)
			for n := 1; n <= 3; n++ {
				if got := next(t, answers); got.Count != n {
					t.Errorf("tick %d counts %d", n, got.Count)
				}
			}
		})
	}
}

func TestEventsAreNumberedAndNamed(t *testing.T) {
	request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("2\nx\n"))
	request.Header.Set("Accept", "text/event-stream")
	recorder := httptest.NewRecorder()

	Handle(recorder, request)

	want := `id: 1
event: statistics
data: {"count":1,"mean":2,"deviation":0,"lowest":2,"highest":2}

id: 2
event: error
data: {"line":2,"error":"\"x\" is not a number"}

`
	if got := recorder.Body.String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestAListenerThatGoesAwayEndsItsStream(t *testing.T) {
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		Handle(w, r)
	}))
	defer server.Close()
	response, err := http.Get(server.URL + "/?n=10000&every=1m")
	if err != nil {
		t.Fatal(err)
	}
	next(t, bufio.NewScanner(response.Body))

	response.Body.Close()

	select {
	case <-ended:
	case <-t.Context().Done():
		t.Error("the handler still runs")
	}
}

func TestWhatCannotBeDoneIsRefused(t *testing.T) {
	tests := []struct {
		method, target string
		status         int
		want           string
	}{
		{"GET", "/?n=0", 400, "n=0: want a number of ticks from 1 to 10000\n"},
		{"GET", "/?n=many", 400, "n=many: want a number of ticks from 1 to 10000\n"},
		{"GET", "/?every=1", 400, "every=1: want a time from 1ms to 1m0s, such as 250ms\n"},
		{"GET", "/?every=-1s", 400, "every=-1s: want a time from 1ms to 1m0s, such as 250ms\n"},
		{"DELETE", "/", 405, "send numbers by POST, or listen by GET\n"},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.target, func(t *testing.T) {
			recorder := httptest.NewRecorder()
			Handle(recorder, httptest.NewRequest(tt.method, tt.target, nil))
			if recorder.Code != tt.status || recorder.Body.String() != tt.want {
				t.Errorf("%d %q, want %d %q", recorder.Code, recorder.Body, tt.status, tt.want)
			}
		})
	}
}

func TestStatisticsKeepTheirDigits(t *testing.T) {
	const offset = 1e9
	var stats statistics
	for _, x := range []float64{4, 7, 13, 16} {
		stats.add(offset + x)
	}
	got := stats.summary()
	if got.Mean != offset+10 || math.Abs(*got.Deviation-math.Sqrt(22.5)) > 1e-9 {
		t.Errorf("mean %v, deviation %v", got.Mean, *got.Deviation)
	}
}

func FuzzSummarise(f *testing.F) {
	f.Add("1\n2\n3\n")
	f.Add("1.7976931348623157e308\n-1.7976931348623157e308\n1.7976931348623157e308")
	f.Add("0x1p-1074\n\r\n-0\n1_0")
	f.Fuzz(func(t *testing.T, body string) {
		recorder := httptest.NewRecorder()
		Handle(recorder, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
		answers := 0
		for line := range strings.Lines(recorder.Body.String()) {
			answers++
			if !json.Valid([]byte(line)) {
				t.Errorf("%q is not JSON", line)
			}
		}
		if strings.TrimSpace(body) != "" && answers == 0 {
			t.Error("no answer")
		}
	})
}

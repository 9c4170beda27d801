// Package function streams: it answers every number of a request's body, as
// soon as it arrives, by the statistics of all numbers so far, and sends a
// ticking sensor to whoever only listens.
package function

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	maxLine = 1 << 10 // bytes of one line of a request

	defaultTicks, maxTicks = 10, 10_000
	defaultEvery           = time.Second
	minEvery, maxEvery     = time.Millisecond, time.Minute
)

// Handle answers POST by [summarise] and GET by [tick], as server-sent events
// if the request accepts them, and as one JSON document per line otherwise.
// (A GET that accepts anything gets events.)
func Handle(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		n, every, err := schedule(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		tick(r, newStream(w, !accepts(r, "application/x-ndjson")), n, every)
	case http.MethodPost:
		summarise(r.Body, newStream(w, accepts(r, "text/event-stream")))
	default:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "send numbers by POST, or listen by GET", http.StatusMethodNotAllowed)
	}
}

// summarise reads numbers, one a line, and writes one answer for each line
// that is not empty. A line that is no number is answered by an error and does
// not end the stream.
func summarise(body io.Reader, out *stream) {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLine)
	var stats statistics
	for number := 1; lines.Scan(); number++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" {
			continue
		}
		value, err := parse(text)
		if err != nil {
			err = out.send("error", problem{Line: number, Error: err.Error()})
		} else {
			stats.add(value)
			err = out.send("statistics", stats.summary())
		}
		if err != nil {
			return // nobody is reading any more
		}
	}
	if err := lines.Err(); err != nil {
		text := "the numbers broke off: " + err.Error()
		if errors.Is(err, bufio.ErrTooLong) {
			text = fmt.Sprintf("a line is longer than %d bytes", maxLine)
		}
		// The last line written, so nothing is left to do if it cannot be.
		_ = out.send("error", problem{Error: text})
	}
}

// tick sends the readings of a made-up sensor, n of them, until the caller
// goes away.
func tick(r *http.Request, out *stream, n int, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var stats statistics
	reading := 20.0
	for {
		reading += rand.NormFloat64()
		stats.add(reading)
		if out.send("statistics", stats.summary()) != nil || stats.count >= n {
			return
		}
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		}
	}
}

// schedule reads how many ticks a request asks for, and how far apart.
func schedule(r *http.Request) (n int, every time.Duration, err error) {
	n, every = defaultTicks, defaultEvery
	query := r.URL.Query()
	if text := query.Get("n"); text != "" {
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > maxTicks {
			return 0, 0, fmt.Errorf("n=%s: want a number of ticks from 1 to %d", text, maxTicks)
		}
	}
	if text := query.Get("every"); text != "" {
		if every, err = time.ParseDuration(text); err != nil || every < minEvery || every > maxEvery {
			return 0, 0, fmt.Errorf("every=%s: want a time from %v to %v, such as 250ms", text, minEvery, maxEvery)
		}
	}
	return n, every, nil
}

// parse reads a number that JSON can express.
func parse(text string) (float64, error) {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(value) || math.IsInf(value, 0) {
		return 0, fmt.Errorf("%q is not a number", text)
	}
	return value, nil
}

// accepts reports whether the request names this media type as one it takes.
func accepts(r *http.Request, mediaType string) bool {
	for _, value := range r.Header.Values("Accept") {
		for accepted := range strings.SplitSeq(value, ",") {
			name, _, _ := strings.Cut(accepted, ";")
			if strings.EqualFold(strings.TrimSpace(name), mediaType) {
				return true
			}
		}
	}
	return false
}

// A problem is what is sent in place of statistics.
type problem struct {
	Line  int    `json:"line,omitempty"` // of the request's body, from 1
	Error string `json:"error"`
}

// A stream sends documents one by one, each at once.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	events  bool
	sent    int
}

// newStream starts an answer: server-sent events, or lines of JSON.
func newStream(w http.ResponseWriter, events bool) *stream {
	contentType := "application/x-ndjson"
	if events {
		contentType = "text/event-stream"
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	control := http.NewResponseController(w)
	// HTTP/1 servers stop reading the request at the first write unless they are
	// told otherwise. Where it cannot be said it need not be: HTTP/2 never stops.
	_ = control.EnableFullDuplex()
	return &stream{w: w, control: control, events: events}
}

// send writes one document and flushes it. An error means that the caller is
// gone.
func (s *stream) send(event string, document any) error {
	data, err := json.Marshal(document)
	if err != nil {
		return err
	}
	s.sent++
	if s.events {
		_, err = fmt.Fprintf(s.w, "id: %d\nevent: %s\ndata: %s\n\n", s.sent, event, data)
	} else {
		_, err = fmt.Fprintf(s.w, "%s\n", data)
	}
	if err != nil {
		return err
	}
	return s.control.Flush()
}

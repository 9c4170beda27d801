package watchdog

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const logTime = "2006/01/02 15:04:05"

// logAccess writes one line about a call that took d, in the form that tools
// written for of-watchdog read. Probes are left out.
func (wd *Watchdog) logAccess(r *http.Request, a *answer, d time.Duration) {
	if strings.HasPrefix(r.UserAgent(), "kube-probe/") {
		return
	}
	wd.access.line(a.start.Add(d), func(line []byte) []byte {
		if wd.o.Mode == Classic && a.status == http.StatusOK {
			line = append(line, "Wrote "...)
			line = strconv.AppendInt(line, a.written, 10)
			line = append(line, " Bytes - Duration: "...)
			line = append(appendDecimal(line, d.Microseconds(), 6), 's')
		} else {
			line = append(append(line, r.Method...), ' ')
			line = append(append(line, r.RequestURI...), " - "...)
			line = strconv.AppendInt(line, int64(a.status), 10)
			line = append(append(line, ' '), http.StatusText(a.status)...)
			line = append(line, " - ContentLength: "...)
			line = strconv.AppendInt(line, a.written, 10)
			line = append(line, "B ("...)
			line = append(appendDecimal(line, d.Round(100*time.Microsecond).Microseconds()/100, 4), "s)"...)
		}
		if !wd.o.LogCallID {
			return line
		}
		if id := r.Header.Get("X-Call-Id"); id != "" {
			line = append(append(append(line, " ["...), id...), ']')
		}
		return line
	})
}

// appendDecimal appends n units of which ten to the power of digits are one,
// which is quicker than a float and, here, as exact.
func appendDecimal(b []byte, n int64, digits int) []byte {
	if n < 0 {
		b, n = append(b, '-'), -n
	}
	at := len(b)
	b = strconv.AppendInt(b, n, 10)
	for len(b)-at <= digits {
		b = slices.Insert(b, at, '0')
	}
	return slices.Insert(b, len(b)-digits, '.')
}

// lineWriter returns a function that writes a child's lines to w, whole and
// one at a time. name is the stream's, for the prefix.
func lineWriter(w io.Writer, name string, prefix bool) func(line []byte) {
	var mu sync.Mutex
	var buf []byte
	return func(line []byte) {
		mu.Lock()
		defer mu.Unlock()
		buf = buf[:0]
		if prefix {
			buf = time.Now().AppendFormat(buf, logTime)
			buf = append(buf, ' ')
			buf = append(buf, name...)
			buf = append(buf, ": "...)
		}
		buf = append(buf, line...)
		buf = append(buf, '\n')
		_, _ = w.Write(buf) // as for the access log
	}
}

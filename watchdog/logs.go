package watchdog

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const logTime = "2006/01/02 15:04:05"

// logAccess writes one line about a call that took d, in the form that tools
// written for of-watchdog read. Probes are left out.
func (wd *Watchdog) logAccess(r *http.Request, a *answer, d time.Duration) {
	if agent := r.Header["User-Agent"]; len(agent) > 0 && strings.HasPrefix(agent[0], "kube-probe/") {
		return
	}
	var buf [256]byte
	line := buf[:0]
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
	if wd.o.LogCallID {
		if id := r.Header.Get("X-Call-Id"); id != "" {
			line = append(append(append(line, " ["...), id...), ']')
		}
	}
	wd.access.line(a.start.Add(d), line)
}

// appendDecimal appends n, which is not negative, divided by ten to the power
// of digits. It takes a fraction of the time of a float.
func appendDecimal(b []byte, n int64, digits int) []byte {
	var buf [24]byte
	at := len(buf)
	for ; digits > 0; digits-- {
		at--
		buf[at] = byte('0' + n%10)
		n /= 10
	}
	at--
	buf[at] = '.'
	for first := true; first || n > 0; first = false {
		at--
		buf[at] = byte('0' + n%10)
		n /= 10
	}
	return append(b, buf[at:]...)
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

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
	if strings.HasPrefix(r.UserAgent(), "kube-probe/") {
		return
	}
	var buf [256]byte
	line := a.start.Add(d).AppendFormat(buf[:0], logTime)
	if wd.o.Mode == Classic && a.status == http.StatusOK {
		line = append(line, " Wrote "...)
		line = strconv.AppendInt(line, a.written, 10)
		line = append(line, " Bytes - Duration: "...)
		line = strconv.AppendFloat(line, d.Seconds(), 'f', 6, 64)
		line = append(line, 's')
	} else {
		line = append(append(line, ' '), r.Method...)
		line = append(append(line, ' '), r.RequestURI...)
		line = append(line, " - "...)
		line = strconv.AppendInt(line, int64(a.status), 10)
		line = append(append(line, ' '), http.StatusText(a.status)...)
		line = append(line, " - ContentLength: "...)
		line = strconv.AppendInt(line, a.written, 10)
		line = append(line, "B ("...)
		line = strconv.AppendFloat(line, d.Seconds(), 'f', 4, 64)
		line = append(line, "s)"...)
	}
	if id := r.Header.Get("X-Call-Id"); wd.o.LogCallID && id != "" {
		line = append(line, " ["...)
		line = append(append(line, id...), ']')
	}
	_, _ = wd.o.Stderr.Write(append(line, '\n')) // our own output being gone is no reason to stop serving
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

package watchdog

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const logTime = "2006/01/02 15:04:05"

// logAccess writes one line about a call, in the form that tools written for
// of-watchdog read. Probes are left out.
func (wd *Watchdog) logAccess(r *http.Request, a *answer) {
	if strings.HasPrefix(r.UserAgent(), "kube-probe/") {
		return
	}
	line := fmt.Sprintf("%s %s %s - %d %s - ContentLength: %dB (%.4fs)",
		time.Now().Format(logTime), r.Method, r.RequestURI, a.status, http.StatusText(a.status), a.written, time.Since(a.start).Seconds())
	if wd.o.Mode == Classic && a.status == http.StatusOK {
		line = fmt.Sprintf("%s Wrote %d Bytes - Duration: %.6fs", time.Now().Format(logTime), a.written, time.Since(a.start).Seconds())
	}
	if id := r.Header.Get("X-Call-Id"); wd.o.LogCallID && id != "" {
		line += " [" + id + "]"
	}
	_, _ = io.WriteString(wd.o.Stderr, line+"\n") // our own output being gone is no reason to stop serving
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

package async

import (
	"encoding/json"
	"strconv"
	"time"
)

// appendCall appends what json.Marshal makes of c. A record is written for each
// call, and reflection was a tenth of what a call costs.
func appendCall(b []byte, c *Call) []byte {
	b = appendText(append(b, `{"id":`...), c.ID)
	b = appendText(append(b, `,"function":`...), c.Function)
	b = appendText(append(b, `,"queue":`...), c.Queue)
	b = appendText(append(b, `,"state":`...), string(c.State))
	b = appendOptional(b, `,"callId":`, c.CallID)
	b = appendOptional(b, `,"batch":`, c.Batch)
	b = appendTime(append(b, `,"submitted":`...), c.Submitted)
	for _, at := range [...]struct {
		name string
		time *time.Time
	}{{`,"started":`, c.Started}, {`,"ended":`, c.Ended}, {`,"next":`, c.Next}} {
		if at.time != nil {
			b = appendTime(append(b, at.name...), *at.time)
		}
	}
	if len(c.Tries) > 0 {
		b = append(b, `,"tries":[`...)
		for i, t := range c.Tries {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendTime(append(b, `{"started":`...), t.Started)
			b = appendValue(append(b, `,"seconds":`...), t.Seconds)
			b = appendNumber(b, `,"status":`, int64(t.Status))
			b = append(appendOptional(b, `,"reason":`, t.Reason), '}')
		}
		b = append(b, ']')
	}
	b = appendNumber(b, `,"status":`, int64(c.Status))
	if len(c.Header) > 0 {
		b = append(b, `,"header":{`...)
		first := true
		for name, values := range c.Header {
			if !first {
				b = append(b, ',')
			}
			first = false
			b = append(appendText(b, name), ':', '[')
			for i, value := range values {
				if i > 0 {
					b = append(b, ',')
				}
				b = appendText(b, value)
			}
			b = append(b, ']')
		}
		b = append(b, '}')
	}
	b = appendNumber(b, `,"size":`, c.Size)
	b = appendOptional(b, `,"object":`, c.Object)
	b = appendOptional(b, `,"callbackFailed":`, c.CallbackFail)
	if c.Message != 0 {
		b = strconv.AppendUint(append(b, `,"message":`...), c.Message, 10)
	}
	if c.Keyed {
		b = append(b, `,"keyed":true`...)
	}
	return append(b, '}')
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return appendValue(b, s)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

func appendOptional(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return appendText(append(b, name...), s)
}

func appendNumber(b []byte, name string, n int64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(append(b, name...), n, 10)
}

// appendTime appends t, of a year that RFC 3339 can write.
func appendTime(b []byte, t time.Time) []byte {
	return append(t.AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

// appendValue appends a value that cannot fail to be written.
func appendValue(b []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // v is a string or a finite number
	}
	return append(b, text...)
}

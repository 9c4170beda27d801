package term

import (
	"bytes"
	"testing"
	"time"
)

func TestProgressSaysHowFastAndHowLong(t *testing.T) {
	start := time.Unix(0, 0)
	for _, terminal := range []bool{false, true} {
		var out bytes.Buffer
		p := NewProgress(&Streams{Err: &out, ErrTTY: terminal}, "results", 100, start)
		p.Update(150, 1000, start) // too soon
		p.Update(600, 1000, start.Add(50*time.Second))
		p.Update(700, 0, start.Add(60*time.Second))
		p.Done()
		want := "results: [==============          ] 600/1000, 10/s, 40s left\nresults: 700, 10/s\n"
		if terminal {
			want = "\rresults: [==============          ] 600/1000, 10/s, 40s left\x1b[K\rresults: 700, 10/s\x1b[K\r\x1b[K"
		}
		if out.String() != want {
			t.Errorf("terminal %v:\n%q\nwant\n%q", terminal, out.String(), want)
		}
	}
}

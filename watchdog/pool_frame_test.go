package watchdog

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFramesAreReadAsTheyWereWritten(t *testing.T) {
	want := []frame{{frameData, 7, bytes.Repeat([]byte("x"), 100_000)}, {frameEnd, 7, nil}, {frameReady, 1<<32 - 1, []byte("{}")}}
	var stream []byte
	for _, f := range want {
		stream = appendFrame(stream, f.kind, f.id, f.payload)
	}
	r := bufio.NewReader(bytes.NewReader(stream))
	for _, f := range want {
		got, err := readFrame(r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(f, got, cmp.AllowUnexported(frame{})); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}

func TestARequestSaysWhatTheProtocolPromises(t *testing.T) {
	r := httptest.NewRequest("POST", "http://host:1/a%20b?q=%41", nil)
	r.Header.Set("X-Call-Id", "c")
	sent := append(appendRequest(nil, r), "body"...)
	sealRequest(sent, 3, 1500*time.Millisecond, true)
	f, err := readFrame(bufio.NewReader(bytes.NewReader(sent)))
	if err != nil {
		t.Fatal(err)
	}
	if f.kind != frameRequest || f.id != 3 {
		t.Errorf("frame %v %d", f.kind, f.id)
	}
	want := `{"method":"POST","path":"/a b","query":"q=%41","call_id":"c","headers":[["Host","host:1"],["X-Call-Id","c"]]}`
	want = "\x01" + "\x00\x00\x05\xdc" + string(binary.BigEndian.AppendUint32(nil, uint32(len(want)))) + want + "body"
	if diff := cmp.Diff(want, string(f.payload)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(appendFrame(nil, frameResponse, 1, []byte("\x01\x00\x00\x00\x02{}")))
	f.Add([]byte("\xff\xff\xff\xff\x01\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(bytes.NewReader(in))
		for {
			f, err := readFrame(r)
			if err != nil {
				return
			}
			if f.kind == frameResponse {
				if res, err := parseResponse(f.payload, new(heads)); err == nil && (res.status < 200 || res.status > 999) {
					t.Fatalf("status %d was let through", res.status)
				}
			}
		}
	})
}

// Whatever a worker or the zygote sends, the pool goes on, and who waits for an
// answer gets one or hears of the end.
func FuzzWhatAPoolsProcessesSay(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, frameReady, 0, []byte(`{"many":2,"pid":1}`)), frameResponse, 1, []byte("\x01\x00\x00\x00\x0e{\"status\":200}")))
	f.Add(appendFrame(appendFrame(nil, frameCredit, 1, []byte("\xff\xff\xff\xff")), frameDropped, 1, nil))
	f.Add(appendFrame(appendFrame(nil, frameError, 1, []byte("[]")), frameEnd, 1, nil))
	f.Add(appendFrame(appendFrame(nil, frameForked, 7, []byte(`{"pid":-1}`)), frameExited, 7, []byte("no")))
	f.Add(appendFrame(nil, frameFailed, 0, []byte("{")))
	f.Fuzz(func(t *testing.T, in []byte) {
		o := Options{Log: slog.New(slog.DiscardHandler)}
		o.Workers = o.Workers.withDefaults(1)
		p := newPool(&o)
		ours, theirs, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		w := &worker{id: 7, conn: ours, calls: map[uint32]*call{}, exited: make(chan struct{}), many: 1}
		c := &call{whole: true, wake: make(chan struct{}, 1), handed: true, frame: appendRequest(nil, httptest.NewRequest("GET", "/", nil))}
		p.workers = append(p.workers, w)
		p.mu.Lock()
		p.give(w, time.Now(), c)
		p.dirty, w.pending, w.unsent = nil, nil, nil
		p.mu.Unlock()
		go func() {
			_, _ = theirs.Write(in) // as far as it is read
			theirs.Close()
		}()
		_ = p.follow(w) // how it ends is what the test is about
		w.exit("gone")
		p.mu.Lock()
		w.dead = true
		p.mu.Unlock()
		p.close(w, "gone")
		if c.place == nil { // else it was not begun, and waits for another worker
			for {
				f, _, err := c.next(nil)
				if err != nil || f.ends() {
					break
				}
			}
		}
		if w.load != 0 || len(w.calls) != 0 {
			t.Fatalf("%d calls are left, which take up %d", len(w.calls), w.load)
		}
		for r := bufio.NewReader(bytes.NewReader(in)); ; {
			f, err := readFrame(r)
			if err != nil {
				return
			}
			p.hear(f)
		}
	})
}

func FuzzAppendJSON(f *testing.F) {
	f.Add("plain", false)
	f.Add("caf\xe9 \"\\\x00\n", true)
	f.Add("\u2028é\xff", false)
	f.Fuzz(func(t *testing.T, in string, latin1 bool) {
		var got string
		if err := json.Unmarshal(appendJSON(nil, in, latin1), &got); err != nil {
			t.Fatal(err)
		}
		want := strings.ToValidUTF8(in, "")
		if latin1 {
			runes := make([]rune, 0, len(in))
			for _, b := range []byte(in) {
				runes = append(runes, rune(b))
			}
			want = string(runes)
		} else {
			got = strings.ReplaceAll(got, "\uFFFD", "")
			want = strings.ReplaceAll(want, "\uFFFD", "")
		}
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

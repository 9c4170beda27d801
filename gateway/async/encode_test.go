package async

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go/jetstream"
)

func FuzzACallIsWrittenAsJSONWritesIt(f *testing.F) {
	f.Add("id", "reason \"quoted\" <b>&\u2028é\xff", "X-Name", "value\n", int64(1_700_000_000_123_456_789), 0.25, uint16(3), uint64(7), true)
	f.Add("", "", "", "", int64(0), 0.0, uint16(0), uint64(0), false)
	f.Fuzz(func(t *testing.T, id, text, name, value string, ns int64, seconds float64, status uint16, n uint64, some bool) {
		if math.IsNaN(seconds) || math.IsInf(seconds, 0) {
			t.Skip("no duration")
		}
		at := time.Unix(0, ns).UTC()
		if at.Year() < 0 || at.Year() > 9999 {
			t.Skip("no time")
		}
		c := &Call{ID: id, Function: text, Queue: text, State: State(text), Submitted: at}
		if some {
			c.CallID, c.Batch, c.Started, c.Ended, c.Next = text, value, &at, &at, &at
			c.Tries = []Try{{Started: at, Seconds: seconds, Status: int(status), Reason: text}, {Started: at}}
			c.Status, c.Size, c.Object, c.CallbackFail, c.Message, c.Keyed = int(status), int64(n>>1), text, value, n, some
			c.Header = http.Header{name: {value, text}, "Other": nil, "Empty": {}}
		}
		text2 := appendCall(nil, c)
		var got, want Call
		if err := json.Unmarshal(text2, &got); err != nil {
			t.Fatalf("%v in %s", err, text2)
		}
		standard, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(standard, &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Call{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestAcknowledgementsOfTheBroker(t *testing.T) {
	for text, want := range map[string]uint64{
		`{"stream":"S","seq":12}`:                                      12,
		`{"stream":"S", "seq":12}`:                                     12,
		`{"stream":"S","domain":"hub","seq":1}`:                        1,
		`{"stream":"S","seq":7,"duplicate":true}`:                      7,
		`{"seq":7,"stream":"S"}`:                                       7,
		`{"stream":"S","seq":18446744073709551615}`:                    math.MaxUint64,
		`{"stream":"S","seq":0}`:                                       0,
		`{"stream":"S","seq":}`:                                        0,
		`{"stream":"S"}`:                                               0,
		`{"error":{"err_code":10071,"code":400},"stream":"S","seq":0}`: 0,
		``: 0,
	} {
		seq, err := readAck([]byte(text))
		if seq != want || (err == nil) != (want > 0) {
			t.Errorf("%s gives %d, %v; want %d", text, seq, err, want)
		}
	}
	_, err := readAck([]byte(`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"},"stream":"S","seq":0}`))
	if api, ok := errors.AsType[*jetstream.APIError](err); !ok || api.Description == "" || !isConflict(err) {
		t.Errorf("%v is no conflict", err)
	}
}

package async

import (
	"errors"
	"math"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

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

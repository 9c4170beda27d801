package async

import (
	"cmp"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// A Jitter spreads retries, so that calls that failed together do not come
// back together.
type Jitter string

// The kinds of jitter, under OpenFaaS's names.
const (
	JitterNone  Jitter = "exponential" // the whole wait
	JitterFull  Jitter = "full"        // anything from nothing to the whole wait
	JitterEqual Jitter = "equal"       // from half of the wait to the whole
)

// UnmarshalText reads a kind of jitter.
func (j *Jitter) UnmarshalText(text []byte) error {
	if k := Jitter(text); slices.Contains([]Jitter{JitterNone, JitterFull, JitterEqual}, k) {
		*j = k
		return nil
	}
	return fault.Invalid.Errorf("want %s, %s or %s", JitterNone, JitterFull, JitterEqual)
}

// A Policy says which calls are tried again, how often, and when.
type Policy struct {
	Attempts         int   // tries in all
	Codes            []int // of a function's own answers that are tried again
	MinWait, MaxWait time.Duration
	Jitter           Jitter
}

// DefaultPolicy is that of functions that say nothing else.
func DefaultPolicy() Policy {
	return Policy{
		Attempts: 10,
		Codes:    []int{408, 429, 500, 502, 503, 504},
		MinWait:  10 * time.Second,
		MaxWait:  2 * time.Minute,
		Jitter:   JitterEqual,
	}
}

// with returns p with what a function's annotations change. What cannot be
// read changes nothing.
func (p Policy) with(annotations map[string]string) Policy {
	if len(annotations) == 0 {
		return p
	}
	if n, err := strconv.Atoi(annotations[function.AnnotationRetry+"attempts"]); err == nil && n > 0 {
		p.Attempts = n
	}
	if codes, ok := parseCodes(annotations[function.AnnotationRetry+"codes"]); ok {
		p.Codes = codes
	}
	for name, wait := range map[string]*time.Duration{"min_wait": &p.MinWait, "max_wait": &p.MaxWait} {
		var d function.Duration
		if text := annotations[function.AnnotationRetry+name]; text != "" && d.UnmarshalText([]byte(text)) == nil {
			*wait = d.Std()
		}
	}
	p.MaxWait = max(p.MinWait, p.MaxWait)
	return p
}

func parseCodes(text string) ([]int, bool) {
	var codes []int
	for field := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil || n < 100 || n > 599 {
			return nil, false
		}
		codes = append(codes, n)
	}
	return codes, true
}

// An outcome is how one try ended.
type outcome struct {
	status     int           // 0: no answer came
	platform   bool          // the platform made the answer, not the function
	refused    bool          // the function's watchdog did not let the caller in
	retryAfter time.Duration // what the answer asked for; 0 is nothing
	cancelled  bool
}

// A verdict is what to do about an outcome.
type verdict int

const (
	settle     verdict = iota // the call is done, whatever the function said
	giveBack                  // it has not begun: again as soon as there is room, and it was no try
	tryAgain                  // later
	bury                      // never again
	callItOff                 // somebody cancelled it
	leaveAlone                // the worker stops: the broker gives it to another
)

// judge decides about the outcome of a try, the tries-th of the call.
func (p Policy) judge(tries int, o outcome) verdict {
	switch {
	case o.cancelled:
		return callItOff
	case o.platform && o.status == http.StatusTooManyRequests:
		return giveBack
	case o.status != 0 && !o.platform && !slices.Contains(p.Codes, o.status):
		return settle
	case o.platform && (o.refused || permanent(o.status)):
		return bury
	case tries < p.Attempts:
		return tryAgain
	}
	return bury
}

// permanent reports whether an answer of the platform will be the same next
// time: the request itself is wrong.
func permanent(status int) bool {
	return status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge || status == http.StatusMethodNotAllowed
}

// wait returns how long to wait after the tries-th try. chance is a random
// number from 0 up to 1.
func (p Policy) wait(tries int, o outcome, chance float64) time.Duration {
	if o.retryAfter > 0 && (o.status == http.StatusTooManyRequests || o.status == http.StatusServiceUnavailable) {
		return max(o.retryAfter, p.MinWait)
	}
	d := p.MinWait
	for range tries - 1 {
		if d = 2 * d; d >= p.MaxWait || d <= 0 {
			d = p.MaxWait
			break
		}
	}
	switch cmp.Or(p.Jitter, JitterEqual) {
	case JitterFull:
		d = time.Duration(chance * float64(d))
	case JitterEqual:
		d = d/2 + time.Duration(chance*float64(d/2))
	}
	return d
}

// chance is a random number for wait.
func chance() float64 { return rand.Float64() }

// readRetryAfter reads a Retry-After header: seconds, or a date.
func readRetryAfter(text string, now time.Time) time.Duration {
	const most = 24 * time.Hour
	if text == "" {
		return 0
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return min(time.Duration(min(max(n, 0), int64(most/time.Second)))*time.Second, most)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), most)
	}
	return 0
}

// A step is one durable change on the way of a call out of the calls stream.
type step int

const (
	storeRecord   step = iota // state and result
	storeResult               // the line of a batch
	storeCallback             // a message that is delivered by and by
	storeDead                 // the call, for those who want to try it again
	storeLater                // the call, for the next try
	acknowledge               // the calls stream forgets it
)

// plan returns the steps that v takes, in order. The last is always the
// acknowledgement: a crash before it repeats the others, which is harmless; a
// crash after it must find everything done. recorded is whether a record is
// kept of the call: an item of a batch has only its result, unless it was put
// off once.
func plan(v verdict, batch, recorded, callback bool) []step {
	var steps []step
	switch v {
	case settle, callItOff:
	case bury:
		steps = append(steps, storeDead)
	case tryAgain:
		// The next try is stored before the record that counts this one: a
		// record with more tries than a message tells that message's reader
		// that somebody else carries the call on.
		return []step{storeLater, storeRecord, acknowledge}
	default:
		return nil
	}
	if batch {
		steps = append(steps, storeResult)
	}
	if callback && v != callItOff {
		steps = append(steps, storeCallback)
	}
	// A record of a call that has ended makes every reader of its message
	// forget the message, so nothing may be left to do behind it.
	if recorded {
		steps = append(steps, storeRecord)
	}
	return append(steps, acknowledge)
}

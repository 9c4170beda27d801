package async

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWhatBecomesOfAnOutcome(t *testing.T) {
	p := DefaultPolicy()
	for name, c := range map[string]struct {
		tries int
		o     outcome
		want  verdict
	}{
		"success":                                  {1, outcome{status: 200}, settle},
		"a redirect is an answer":                  {1, outcome{status: 302}, settle},
		"the function's own no":                    {1, outcome{status: 400}, settle},
		"a function's 404 is its answer":           {1, outcome{status: 404}, settle},
		"a failure of the function":                {1, outcome{status: 500}, tryAgain},
		"the last failure":                         {10, outcome{status: 500}, bury},
		"the function's own 429":                   {3, outcome{status: 429}, tryAgain},
		"the platform is full":                     {10, outcome{status: 429, platform: true}, giveBack},
		"the platform cannot reach the function":   {1, outcome{status: 503, platform: true}, tryAgain},
		"the function is gone, and may come back":  {1, outcome{status: 404, platform: true}, tryAgain},
		"the function never came back":             {10, outcome{status: 404, platform: true}, bury},
		"the request is too large for the gateway": {1, outcome{status: 413, platform: true}, bury},
		"the worker's credentials are wrong":       {1, outcome{status: 401, platform: true}, tryAgain},
		"the call's token is wrong":                {1, outcome{status: 401, platform: true, refused: true}, bury},
		"no answer":                                {1, outcome{}, tryAgain},
		"no answer at last":                        {10, outcome{}, bury},
		"cancelled":                                {1, outcome{cancelled: true}, callItOff},
	} {
		t.Run(name, func(t *testing.T) {
			if got := p.judge(c.tries, c.o); got != c.want {
				t.Errorf("verdict %d, want %d", got, c.want)
			}
		})
	}
}

func TestWaitsDoubleUpToTheLongest(t *testing.T) {
	p := Policy{MinWait: 10 * time.Second, MaxWait: 2 * time.Minute, Jitter: JitterNone}
	var got []time.Duration
	for tries := 1; tries <= 6; tries++ {
		got = append(got, p.wait(tries, outcome{status: 500}, 0.5))
	}
	want := []time.Duration{10e9, 20e9, 40e9, 80e9, 120e9, 120e9}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := p.wait(1<<20, outcome{}, 0); got != 2*time.Minute {
		t.Errorf("after a million tries: %s", got)
	}
}

func TestJitterStaysWithinItsBounds(t *testing.T) {
	p := Policy{MinWait: 10 * time.Second, MaxWait: time.Minute}
	for kind, want := range map[Jitter][2]time.Duration{
		JitterNone: {10e9, 10e9}, JitterFull: {0, 10e9}, JitterEqual: {5e9, 10e9},
	} {
		p.Jitter = kind
		if got := [2]time.Duration{p.wait(1, outcome{}, 0), p.wait(1, outcome{}, 1)}; got != want {
			t.Errorf("%s: from %v to %v, want %v", kind, got[0], got[1], want)
		}
	}
}

func TestRetryAfterCountsOnlyWhereItMeansSomething(t *testing.T) {
	p := DefaultPolicy()
	p.Jitter = JitterNone
	for status, want := range map[int]time.Duration{429: 40e9, 503: 40e9, 500: 10e9} {
		if got := p.wait(1, outcome{status: status, retryAfter: 40 * time.Second}, 0); got != want {
			t.Errorf("%d: %s, want %s", status, got, want)
		}
	}
	if got := p.wait(1, outcome{status: 503, retryAfter: time.Second}, 0); got != 10*time.Second {
		t.Errorf("shorter than the shortest wait: %s", got)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7e9, "-7": 0, "soon": 0, "99999999999999": 24 * time.Hour,
		now.Add(30 * time.Second).Format(http.TimeFormat): 30e9,
		now.Add(-time.Hour).Format(http.TimeFormat):       0,
	} {
		if got := readRetryAfter(text, now); got != want {
			t.Errorf("Retry-After %q = %s, want %s", text, got, want)
		}
	}
}

func TestAnnotationsChangeThePolicyAndNonsenseDoesNot(t *testing.T) {
	got := DefaultPolicy().with(map[string]string{
		"com.openfaas.retry.attempts": "3", "com.openfaas.retry.codes": "500, 418",
		"com.openfaas.retry.min_wait": "1s", "com.openfaas.retry.max_wait": "5",
	})
	want := Policy{Attempts: 3, Codes: []int{500, 418}, MinWait: time.Second, MaxWait: 5 * time.Second, Jitter: JitterEqual}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = DefaultPolicy().with(map[string]string{
		"com.openfaas.retry.attempts": "-1", "com.openfaas.retry.codes": "500,many", "com.openfaas.retry.min_wait": "soon",
	})
	if diff := cmp.Diff(DefaultPolicy(), got); diff != "" {
		t.Error(diff)
	}
}

package local

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// have makes replicas from a short notation: the revision, and whether it is
// ready (r), starting (s) or leaving (l).
func have(text ...string) []*replica {
	var list []*replica
	for i, s := range text {
		r := &replica{id: fmt.Sprint(i)}
		var state byte
		if _, err := fmt.Sscanf(s, "%d%c", &r.version.Revision, &state); err != nil {
			panic(err)
		}
		r.ready, r.leaving = state == 'r', state == 'l'
		list = append(list, r)
	}
	return list
}

func TestPlan(t *testing.T) {
	proven := func(desired int) record {
		return record{Desired: desired, Target: version{Revision: 2}, Proven: true}
	}
	trying := func(desired int) record {
		return record{Desired: desired, Target: version{Revision: 2}, Stable: &version{Revision: 1}}
	}
	for _, tt := range []struct {
		name    string
		rec     record
		removed bool
		have    []*replica
		start   map[int64]int
		drain   []string
	}{
		{"nothing runs yet", proven(3), false, nil, map[int64]int{2: 3}, nil},
		{"all is as it should be", proven(2), false, have("2r", "2s"), nil, nil},
		{"one is leaving", proven(2), false, have("2l", "2r"), map[int64]int{2: 1}, nil},
		{"too many, and the youngest goes", proven(1), false, have("2r", "2r"), nil, []string{"1"}},
		{"too many, and the one that is not ready goes", proven(1), false, have("2s", "2r"), nil, []string{"0"}},
		{"asleep", proven(0), false, have("2r", "2s", "1r"), nil, []string{"0", "1", "2"}},
		{"removed", proven(2), true, have("2r", "2l"), nil, []string{"0"}},

		{"a new version is tried beside the old one", trying(2), false, have("1r", "1r"), map[int64]int{2: 1}, nil},
		{"only one is tried", trying(2), false, have("1r", "1r", "2s"), nil, nil},
		{"the old one is kept at full strength meanwhile", trying(2), false, have("1r", "2s"), map[int64]int{1: 1}, nil},
		{"an update overtakes one that was tried", record{Desired: 1, Target: version{Revision: 3}, Stable: &version{Revision: 1}}, false,
			have("1r", "2s"), map[int64]int{3: 1}, []string{"1"}},
		{"scaling down during the trial", trying(1), false, have("1r", "1r", "2s"), nil, []string{"1"}},

		{"the new version has proved itself", proven(2), false, have("1r", "1r", "2r"), nil, []string{"0"}},
		{"and grows when an old one has left", proven(2), false, have("1r", "2r"), map[int64]int{2: 1}, nil},
		{"the last old one stays until it is replaced", proven(2), false, have("1r", "2r", "2s"), nil, nil},
		{"and leaves then", proven(2), false, have("1r", "2r", "2r"), nil, []string{"0"}},
		{"an old one that is not ready leaves at once", proven(2), false, have("1s", "1r", "2r"), nil, []string{"0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := plan(tt.rec, tt.removed, false, tt.have)
			maps.DeleteFunc(got.start, func(_ int64, n int) bool { return n == 0 })
			var drain []string
			for _, r := range got.drain {
				drain = append(drain, r.id)
			}
			slices.Sort(drain)
			if len(got.start) != len(tt.start) || !maps.Equal(got.start, tt.start) {
				t.Errorf("starts %v, want %v", got.start, tt.start)
			}
			if diff := cmp.Diff(tt.drain, drain); diff != "" {
				t.Errorf("drains (-want +got)\n%s", diff)
			}
		})
	}
}

func TestVersionsThatInsistOnAPortTakeTurns(t *testing.T) {
	rec := func(desired int, stable bool) record {
		r := record{Desired: desired, Target: version{Revision: 2, Port: "1"}, Proven: true}
		if stable {
			r.Proven, r.Stable = false, &version{Revision: 1, Port: "1"}
		}
		return r
	}
	for _, tt := range []struct {
		name   string
		rec    record
		failed bool
		have   []*replica
		start  int64 // revision; 0: none
		drain  []string
	}{
		{"nothing runs yet", rec(1, false), false, nil, 2, nil},
		{"one runs, and there can be no other", rec(3, false), false, have("2r"), 0, nil},
		{"asleep", rec(0, false), false, have("2r"), 0, []string{"0"}},
		{"woken while the last one leaves", rec(1, false), false, have("2l"), 0, nil},
		{"the old version makes room for the new one", rec(1, true), false, have("1r"), 0, []string{"0"}},
		{"and is waited for", rec(1, true), false, have("1l"), 0, nil},
		{"and then the new one starts", rec(1, true), false, nil, 2, nil},
		{"a new version that cannot start", rec(1, true), true, nil, 1, nil},
		{"makes room in its turn", rec(1, true), true, have("2s"), 0, []string{"0"}},
	} {
		got := plan(tt.rec, false, tt.failed, tt.have)
		want := map[int64]int{}
		if tt.start > 0 {
			want[tt.start] = 1
		}
		maps.DeleteFunc(got.start, func(_ int64, n int) bool { return n == 0 })
		var drain []string
		for _, r := range got.drain {
			drain = append(drain, r.id)
		}
		if !maps.Equal(got.start, want) || !slices.Equal(drain, tt.drain) {
			t.Errorf("%s: starts %v and drains %v, want %v and %v", tt.name, got.start, drain, want, tt.drain)
		}
	}
}

// TestAnUpdateNeverFallsBelowWhatWasReady plays updates with replicas that
// become ready and end in any order.
func TestAnUpdateNeverFallsBelowWhatWasReady(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		desired := 1 + random.IntN(4)
		rec := record{Desired: desired, Target: version{Revision: 1}, Proven: true}
		var replicas []*replica
		for range desired {
			replicas = append(replicas, &replica{version: rec.Target, ready: true})
		}
		rec = record{Desired: desired, Target: version{Revision: 2}, Stable: new(rec.Target)}
		for step := 0; ; step++ {
			if step > 1000 {
				t.Fatalf("seed %d: the update does not end; there are %d replicas", seed, len(replicas))
			}
			s := plan(rec, false, false, replicas)
			for _, r := range s.drain {
				r.leaving = true
			}
			for _, v := range rec.versions() {
				for range s.start[v.Revision] {
					replicas = append(replicas, &replica{version: v})
				}
			}
			serving, live, current := 0, 0, 0
			for _, r := range replicas {
				if !r.leaving {
					live++
					serving += rank(r)
					if r.version.Revision == 2 {
						current += rank(r)
					}
				}
			}
			if serving < desired {
				t.Fatalf("seed %d: %d are ready, want %d", seed, serving, desired)
			}
			if live > desired+1 {
				t.Fatalf("seed %d: %d run, want at most %d", seed, live, desired+1)
			}
			if current == desired && live == desired {
				break
			}
			r := replicas[random.IntN(len(replicas))]
			if r.leaving {
				replicas = slices.DeleteFunc(replicas, func(o *replica) bool { return o == r })
			} else if !r.ready {
				r.ready = true
				if r.version.Revision == 2 {
					rec.Proven, rec.Stable = true, nil
				}
			}
		}
	}
}

package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/graphene-faas/graphene/gateway/autoscale"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestABacklogIsReadWhileSomebodyAsksAndKnownForAFewSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref := function.Ref{Name: "echo", Namespace: "n"}
		var reads atomic.Int64
		var down atomic.Bool
		b := newBacklog(func(context.Context) (map[function.Ref]int, error) {
			reads.Add(1)
			if down.Load() {
				return nil, errors.New("the queue is away")
			}
			return map[function.Ref]int{ref: 7}, nil
		}, testkit.Log(t))
		go func() { _ = b.run(t.Context()) }()
		if _, known := b.of(ref); known {
			t.Error("it is known before it was read")
		}
		synctest.Wait()
		if n, known := b.of(ref); n != 7 || !known {
			t.Errorf("it is %d, known %v", n, known)
		}
		if n, known := b.of(function.Ref{Name: "other"}); n != 0 || !known {
			t.Errorf("that of another is %d, known %v", n, known)
		}
		time.Sleep(time.Hour)
		if n := reads.Load(); n > 2 {
			t.Errorf("read %d times, though nobody asked", n)
		}
		if _, known := b.of(ref); known {
			t.Error("it is known an hour later")
		}
		down.Store(true)
		time.Sleep(backlogPause)
		for range 10 {
			b.of(ref)
			time.Sleep(backlogPause)
		}
		if _, known := b.of(ref); known {
			t.Error("it is known though the queue is away")
		}
	})
}

// The command line has types of its own for what the gateway answers.
func TestTheClientReadsWhatExplainsScaling(t *testing.T) {
	one, two := 1.0, 2
	said := client.Scaling{
		Automatic: true, Failure: "no",
		Policy:  client.ScalingPolicy{Type: "rps", Target: 1, Proportion: 1, Min: 1, Max: 2, Zero: true, ZeroAfter: 1, DownWindow: 1, Stable: 1, Burst: 1},
		Changes: []client.Decision{{Formula: "x", Bound: "max", Bursting: true}},
	}
	said.Latest.Inputs.CPU, said.Latest.Inputs.Backlog, said.Latest.Inputs.Slots = &one, &two, 3
	text, err := json.Marshal(said)
	if err != nil {
		t.Fatal(err)
	}
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	var x autoscale.Explanation
	if err := strict.Decode(&x); err != nil {
		t.Errorf("the client reads what the gateway never says: %v", err)
	}
	if x.Latest.Inputs.Slots != 3 || x.Policy.Max != 2 || x.Changes[0].Bound != autoscale.BoundMax {
		t.Errorf("they differ: %+v", x)
	}
}

package async

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A crowd is calls of a function that has room for some of them at once.
type crowd struct {
	*lanes
	takes time.Duration // of a call

	mu                   sync.Mutex
	room, running        int
	most, refused, ended int
	told                 string // by the call that came last
	calls                sync.WaitGroup
	fetching             sync.WaitGroup
	waiting              int
	stopped              chan struct{}
}

// inCrowd runs f while n calls of a function are worked on, in virtual time.
func inCrowd(t *testing.T, n, room int, takes time.Duration, f func(c *crowd)) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		c := &crowd{takes: takes, room: room, waiting: n, stopped: make(chan struct{})}
		c.lanes = newLanes(256, 100, func(d *delivery) {
			c.calls.Go(func() {
				for d != nil {
					d = c.call(d)
				}
			})
		})
		c.fetching.Go(c.fetchAll)
		c.hint("q.n.fn")
		f(c)
		close(c.stopped)
		c.close()
		c.calls.Wait()
		c.fetching.Wait()
		time.Sleep(lastPause) // what was to grow does no more
	})
}

func (c *crowd) fetchAll() {
	for {
		l, n := c.next()
		if l == nil {
			return
		}
		c.mu.Lock()
		n = min(n, c.waiting)
		c.waiting -= n
		left := c.waiting
		c.mu.Unlock()
		got := make([]*delivery, n)
		for i := range got {
			got[i] = &delivery{lane: l}
		}
		c.fetched(l, got, left, left > 0, false)
	}
}

// call is what a worker does with d.
func (c *crowd) call(d *delivery) (next *delivery) {
	c.mu.Lock()
	c.told = d.backlog
	full := c.running >= c.room
	if full {
		c.refused++
	} else {
		c.running++
		c.most = max(c.most, c.running)
	}
	c.mu.Unlock()
	if full {
		c.lanes.refused(d)
		return nil
	}
	select {
	case <-time.After(c.takes):
	case <-c.stopped:
	}
	c.mu.Lock()
	c.running--
	c.ended++
	c.mu.Unlock()
	return c.lanes.ended(d, true)
}

// after lets time pass, and returns how many calls run then, and how many were
// refused in the meantime.
func (c *crowd) after(d time.Duration) (running, refused int) {
	c.mu.Lock()
	before := c.refused
	c.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running, c.refused - before
}

func (c *crowd) setRoom(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room = n
}

func TestNewRoomIsUsedSoonAlsoWhileCallsTakeLong(t *testing.T) {
	inCrowd(t, 200, 1, time.Hour, func(c *crowd) {
		if running, _ := c.after(10 * time.Second); running != 1 {
			t.Errorf("%d calls run where there is room for one", running)
		}
		if _, refused := c.after(time.Minute); refused < 50 || refused > 70 {
			t.Errorf("a function that is full is asked %d times in a minute, want about once a second", refused)
		}
		c.setRoom(5)
		if running, _ := c.after(lastPause + 5*firstPause); running != 5 {
			t.Errorf("soon after there is room for five, %d run", running)
		}
		c.setRoom(150)
		if running, refused := c.after(lastPause + 100*firstPause); running != 100 || refused > 0 {
			t.Errorf("where there is room for all, %d run, and %d were refused", running, refused)
		}
	})
}

func TestRefusalsDoNotHoldUpTheCallsThatThereIsRoomFor(t *testing.T) {
	inCrowd(t, 1000, 2, time.Millisecond, func(c *crowd) {
		if c.after(550 * time.Millisecond); c.ended != 1000 {
			t.Errorf("%d of 1000 calls were made in the time in which two at once make 1100", c.ended)
		}
		if c.refused > 60 {
			t.Errorf("%d calls were refused", c.refused)
		}
	})
}

func TestAFunctionThatOthersUseUpIsAskedNowAndThen(t *testing.T) {
	inCrowd(t, 200, 0, time.Hour, func(c *crowd) {
		c.after(10 * time.Second)
		if running, refused := c.after(time.Minute); running != 0 || refused < 50 || refused > 70 {
			t.Errorf("%d run without room, and %d were refused in a minute, want about one a second", running, refused)
		}
		c.setRoom(1)
		if running, _ := c.after(lastPause); running != 1 {
			t.Error("soon after there is room for one, none runs")
		}
	})
}

func TestAFunctionWithRoomForAllGetsMoreWithEachAnswer(t *testing.T) {
	inCrowd(t, 1000, 1000, time.Second, func(c *crowd) {
		if running, _ := c.after(time.Second / 2); running != 8 {
			t.Errorf("%d run at first, want 8", running)
		}
		if running, _ := c.after(10 * time.Second); running != 100 || c.most != 100 {
			t.Errorf("after ten rounds %d run, and never more than %d, want 100", running, c.most)
		}
	})
}

func TestTheGatewayIsToldHowManyCallsWait(t *testing.T) {
	inCrowd(t, 300, 1000, time.Hour, func(c *crowd) {
		c.after(time.Second)
		if c.told != "8+292" {
			t.Errorf("the last of the first calls tells %s: more than eight are tried when these are answered", c.told)
		}
	})
	inCrowd(t, 300, 2, time.Hour, func(c *crowd) {
		c.after(time.Second)
		if c.told != "100+200" {
			t.Errorf("a call that was one too many tells %s: a hundred may run at once", c.told)
		}
	})
	inCrowd(t, 3, 1, time.Hour, func(c *crowd) {
		c.after(time.Second)
		if c.told != "3+0" {
			t.Errorf("the last of three calls tells %s", c.told)
		}
	})
}

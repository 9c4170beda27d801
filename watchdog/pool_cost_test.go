package watchdog

import (
	"testing"
	"time"
)

// model is what a batch takes on a device with a fixed cost.
func model(size int) time.Duration {
	return 5*time.Millisecond + time.Duration(size)*300*time.Microsecond
}

func TestTheCostOfBatchesIsFoundAndKeepsTheTarget(t *testing.T) {
	c := batchCost{most: 64, target: 30 * time.Millisecond}
	if got := c.limit(); got != 1 {
		t.Errorf("before anything is known: %d", got)
	}
	for range 20 {
		n := c.limit()
		c.observe(n, model(n))
	}
	// 5 + 0.3 × 33 ms is the most within half of the target.
	if got := c.limit(); got < 31 || got > 33 {
		t.Errorf("limit %d, cost %v + %v each", got, c.fixed, c.each)
	}
	if got := c.of(10); (got - model(10)).Abs() > 100*time.Microsecond {
		t.Errorf("ten take %v, want %v", got, model(10))
	}
}

func TestWithoutATargetBatchesAreAsLargeAsTheyMayBe(t *testing.T) {
	c := batchCost{most: 32}
	c.observe(1, time.Hour)
	if got := c.limit(); got != 32 {
		t.Errorf("got %d", got)
	}
}

func FuzzACostIsNeverNegative(f *testing.F) {
	f.Add(1, int64(1000), 7, int64(10))
	f.Add(3, int64(5), 3, int64(1<<40))
	f.Fuzz(func(t *testing.T, n1 int, d1 int64, n2 int, d2 int64) {
		c := batchCost{most: 32, target: time.Second}
		for range 3 {
			c.observe(1+(n1&0xffff), time.Duration(d1&(1<<40-1)))
			c.observe(1+(n2&0xffff), time.Duration(d2&(1<<40-1)))
		}
		if c.fixed < 0 || c.each < 0 || c.limit() < 1 || c.limit() > 32 {
			t.Errorf("%v + %v each, limit %d", c.fixed, c.each, c.limit())
		}
	})
}

func TestAPoolLeavesProcessorsToItsWorkers(t *testing.T) {
	for processors, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 3, 64: 48} {
		if got := poolShare(processors); got != want {
			t.Errorf("of %d processors the watchdog uses %d, want %d", processors, got, want)
		}
	}
}

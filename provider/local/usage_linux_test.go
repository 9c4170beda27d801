package local

import (
	"os"
	"testing"
	"time"
)

func TestAProcessNameCannotForgeItsNumbers(t *testing.T) {
	stat := "17 (evil) R 1 (x) S 42 17 17 0 -1 0 0 0 0 0 250 50 0 0 20 0 1 0 100 1000 7 0"
	p, ok := parseStat([]byte(stat))
	if !ok || p.parent != 42 || p.cpu != 3*time.Second || p.memory != 7*int64(os.Getpagesize()) {
		t.Errorf("got %+v, %t", p, ok)
	}
	for _, broken := range []string{"", "1 (a", "1 (a)", "1 (a) S x y z"} {
		if _, ok := parseStat([]byte(broken)); ok {
			t.Errorf("%q was read", broken)
		}
	}
}

func TestATreeIsAddedUp(t *testing.T) {
	table := map[int]processInfo{
		1: {cpu: time.Hour, memory: 1000}, 2: {parent: 1, cpu: time.Second, memory: 10},
		3: {parent: 2, cpu: 2 * time.Second, memory: 20}, 4: {parent: 3, memory: 30}, 5: {parent: 1, memory: 500},
	}
	if cpu, memory := tree(table, 2); cpu != 3*time.Second || memory != 60 {
		t.Errorf("got %v and %d bytes", cpu, memory)
	}
	all, err := processes()
	if err != nil || all[os.Getpid()].memory == 0 {
		t.Errorf("this process is %+v, %v", all[os.Getpid()], err)
	}
}

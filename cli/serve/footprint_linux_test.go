package serve

import (
	"os"
	"regexp"
	"strconv"
	"testing"
)

func TestAProgramGivesBackWhatItDoesNotNeed(t *testing.T) {
	before := filePages(t)
	if err := trim(); err != nil {
		t.Fatal(err)
	}
	if after := filePages(t); after >= before {
		t.Errorf("%d kB of files are mapped, and before it were %d", after, before)
	}
}

// filePages returns how much of files this process has in memory, in kB.
func filePages(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`RssFile:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Skip("this kernel does not say what is mapped")
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

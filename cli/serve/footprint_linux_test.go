package serve

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
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

func TestPagesThatWereWrittenAreNotGivenBack(t *testing.T) {
	const smaps = `00400000-01a00000 r-xp 00000000 fe:00 1 /bin/graphene
Size:              22528 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01a00000-02600000 r--p 01600000 fe:00 1 /bin/graphene
Anonymous:             0 kB
02600000-02800000 r--p 02200000 fe:00 1 /bin/graphene
Anonymous:            12 kB
02800000-02900000 rw-p 02400000 fe:00 1 /bin/graphene
Anonymous:             0 kB
02900000-02a00000 r-xp 00000000 fe:00 2 /lib/libc.so.6
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 00:00 0
Anonymous:             0 kB
`
	got, err := unwritten(strings.NewReader(smaps), "/bin/graphene")
	if err != nil {
		t.Fatal(err)
	}
	want := []mapping{{0x400000, 0x1a00000}, {0x1a00000, 0x2600000}}
	if !slices.Equal(got, want) {
		t.Errorf("mappings %x, want %x", got, want)
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

package watchdog_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/watchdog"
)

// The table is made of what watchdogs of every kind say of themselves.
func TestTheMetricsInTheReferenceAreTrue(t *testing.T) {
	type metric struct{ kind, labels, help, modes string }
	found := map[string]metric{}
	add := func(modes, text string) {
		for _, m := range regexp.MustCompile(`(?m)^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)$`).FindAllStringSubmatch(text, -1) {
			if _, known := found[m[1]]; known {
				continue
			}
			var labels []string
			for _, l := range regexp.MustCompile(`(?m)^`+m[1]+`(?:_bucket)?\{(.*)\}`).FindAllStringSubmatch(text, -1) {
				for _, name := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(l[1], -1) {
					if name[1] != "le" {
						labels = append(labels, "`"+name[1]+"`")
					}
				}
			}
			slices.Sort(labels)
			found[m[1]] = metric{m[3], strings.Join(slices.Compact(labels), ", "), m[2], modes}
		}
	}
	scrape := func(o watchdog.Options) string {
		r := start(t, o).up()
		r.do("GET", "/", "")
		return r.do("GET", "/_/metrics", "").body
	}
	add("all", scrape(inProcess(func(http.ResponseWriter, *http.Request) {})))
	add("streaming, serializing, classic", scrape(forking(watchdog.Streaming, "echo")))
	add("pool", scrape(pool(t, "def handle(event, context): pass\ndef handle_batch(events): pass")))

	const page, from, to = "../docs/reference/watchdog.md", "## Metrics\n", "<!-- to here: metrics -->"
	written, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(written), from)
	head, _, ok := strings.Cut(rest, "from here -->\n\n")
	_, after, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatalf("%s has no marks around the table", page)
	}
	var b bytes.Buffer
	b.WriteString(before + from + head + "from here -->\n\n| metric | type | labels | modes | meaning |\n|---|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(found)) {
		m := found[name]
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", name, m.kind, m.labels, m.modes, m.help)
	}
	b.WriteString("\n" + to + after)
	testkit.Golden(t, page, b.Bytes())
}

// What is written only sometimes is in the table too.
func TestEveryMetricIsInTheReference(t *testing.T) {
	page, err := os.ReadFile("../docs/reference/watchdog.md")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		source, err := os.ReadFile(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`writeHelp\(\w+, "(\w+)"`).FindAllSubmatch(source, -1) {
			if !bytes.Contains(page, append([]byte("| `"), m[1]...)) {
				t.Errorf("%s writes %s, which is not in the reference", e.Name(), m[1])
			}
		}
	}
}

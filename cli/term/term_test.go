package term_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/cli/term"
)

func TestATableAlignsItsColumnsAndCleansItsCells(t *testing.T) {
	var table term.Table
	table.Header("NAME", "STATUS")
	table.Row("wine", "ready")
	table.Row("a-long-name", "\x1b[31mred\nline")
	want := "NAME          STATUS\nwine          ready\na-long-name   [31mred line\n"
	if diff := cmp.Diff(want, table.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestYAMLHasTheKeysOfJSONInTheirOrder(t *testing.T) {
	v := struct {
		Name  string            `json:"name"`
		Empty []string          `json:"empty"`
		Env   map[string]string `json:"env,omitempty"`
		N     float64           `json:"n"`
	}{"wine", []string{}, map[string]string{"version": "1.0", "yes": "true", "text": "a\nb"}, 2}
	for format, want := range map[string]string{
		"json": `{
  "name": "wine",
  "empty": [],
  "env": {
    "text": "a\nb",
    "version": "1.0",
    "yes": "true"
  },
  "n": 2
}
`,
		"yaml": `name: wine
empty: []
env:
  text: |-
    a
    b
  version: "1.0"
  yes: "true"
n: 2
`,
	} {
		var f term.Format
		if err := f.Set(format); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := f.Write(&out, v, nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("%s (-want +got)\n%s", format, diff)
		}
	}
	var f term.Format
	if err := f.Set("xml"); err == nil {
		t.Error("Set(xml) succeeds")
	}
}

func TestWithoutATerminalEveryStepIsALine(t *testing.T) {
	var out bytes.Buffer
	b := term.NewBoard(term.New(nil, io.Discard, &out))
	task := b.Task()
	task.Step("compile wine")
	fmt.Fprint(task, "go: down")
	fmt.Fprint(task, "loading\nx\ty")
	task.Step("push wine")
	task.Update(10, 2_500_000)
	task.Update(2_500_000, 2_500_000)
	task.Done("wine is ready")
	want := "compile wine\n  go: downloading\n  x\ty\npush wine\npush wine: 2.5 MB\nwine is ready\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestOnATerminalTheLinesOfTasksAreReplaced(t *testing.T) {
	var out bytes.Buffer
	s := term.New(nil, io.Discard, &out)
	s.ErrTTY = true
	b := term.NewBoard(s)
	one, two := b.Task(), b.Task()
	one.Step("push a")
	two.Step("push b")
	one.Update(50, 50)
	b.Println("note")
	one.Done("a is ready")
	two.Done("")
	want := strings.Join([]string{
		"push a\n",
		"\x1b[1A\r\x1b[Jpush a\npush b\n",
		"\x1b[2A\r\x1b[Jpush a [========================] 50 B / 50 B\npush b\n",
		"\x1b[2A\r\x1b[Jnote\npush a [========================] 50 B / 50 B\npush b\n",
		"\x1b[2A\r\x1b[Ja is ready\npush b\n",
		"\x1b[1A\r\x1b[J",
	}, "")
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTasksMayRunAtOnce(t *testing.T) {
	var out bytes.Buffer
	b := term.NewBoard(term.New(nil, io.Discard, &out))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			task := b.Task()
			task.Step(fmt.Sprint("step ", i))
			for n := range int64(100) {
				task.Update(n, 100)
			}
			task.Done("done")
		})
	}
	wg.Wait()
	if got := strings.Count(out.String(), "done\n"); got != 8 {
		t.Errorf("%d tasks are done, want 8:\n%s", got, out.String())
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 18_500_000: "18.5 MB", 3e12: "3.0 TB"} {
		if got := term.Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}

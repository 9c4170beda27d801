package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheExamplesAnswer(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short leaves out the examples, whose packages are hundreds of megabytes")
	}
	p := start(t)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	up := exec.CommandContext(t.Context(), graphene, "up", "-f", "examples/stack.yaml", "--gateway", p.url)
	up.Dir, up.Env = root, p.environ()
	if out, err := up.CombinedOutput(); err != nil {
		t.Fatalf("graphene up -f examples/stack.yaml: %v\n%s", err, out)
	}
	sample := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(root, "examples", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}

	if a := p.call(200, "POST", "/function/hello", "newcomer"); !strings.Contains(a.body, "newcomer") {
		t.Errorf("hello answers %q", a.body)
	}

	var wine struct{ Cultivar string }
	decode(t, p.call(200, "POST", "/function/wine", sample("wine/wine.json")).body, &wine)
	if wine.Cultivar != "Barolo" {
		t.Errorf("wine takes the sample for %q", wine.Cultivar)
	}
	p.call(400, "POST", "/function/wine", "{}")

	var animals struct {
		Animal      string
		Probability float64
	}
	decode(t, p.call(200, "POST", "/function/animals", sample("animals/cat.jpg")).body, &animals)
	if !strings.Contains(animals.Animal, "cat") || animals.Probability < 0.1 {
		t.Errorf("animals takes the cat for %+v", animals)
	}
	p.call(400, "POST", "/function/animals", "no picture")

	body, lines := io.Pipe()
	go func() { _, _ = io.WriteString(lines, "3\n") }() // fails only when the call has
	resp := p.open("POST", "/function/stream", body)
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	for i := range 3 {
		line, err := answers.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Count int }
		if decode(t, line, &got); got.Count != i+1 {
			t.Errorf("answer %d of stream is %q", i+1, line)
		}
		// The next number is only sent after the answer to this one was read.
		if _, err := io.WriteString(lines, "1\n"); err != nil {
			t.Fatal(err)
		}
	}
	lines.Close()
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
}

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// pageCode returns the n-th block of code in a language on a page.
func pageCode(t *testing.T, page, language string, n int) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```"+language+"\n")
	if len(blocks) < n+2 {
		t.Fatalf("%s has no block %d of %s", page, n, language)
	}
	code, _, _ := strings.Cut(blocks[n+1], "```")
	return code
}

func TestTheGuidesPipelineWorksAsItStands(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("THE GUIDE'S PIPELINE IS NOT TESTED: there is no python3")
	}
	p := serve(t, "it kills the one process in the middle")
	p.write("echo/handler.go", `package function

import (
	"io"
	"net/http"
)

func Handle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	io.Copy(w, r.Body)
}
`)
	p.stack("echo", "go")
	p.cli("up", "-f", "echo.yml")
	p.write("pipeline.py", pageCode(t, "../../docs/guide/pipelines.md", "python", 0))
	// The platform dies in the middle, and the pipeline does not notice.
	cmd := exec.CommandContext(t.Context(), python, filepath.Join(p.work(), "pipeline.py"), p.url, "echo", "monday")
	var out, complaints testkit.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // anywhere in the middle, or even after the end
	p.kill()
	p.start()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, complaints.String())
	}
	if got := out.String(); got != "1000 answers; the last: {'n': 999}\n" {
		t.Errorf("the pipeline prints %q", got)
	}
}

func TestNoCallIsLostWhenThePlatformIsKilled(t *testing.T) {
	p := serve(t, "it kills the one process in the middle")
	p.goFunction("echo", "one")
	p.cli("up", "-f", "echo.yml")
	const total = 2000
	var mu sync.Mutex
	var ids []string
	var submitting sync.WaitGroup
	next := make(chan int)
	for range 8 {
		submitting.Go(func() {
			for i := range next {
				for {
					a, err := p.do("POST", "/async-function/echo", fmt.Sprint(i), "Idempotency-Key", fmt.Sprint(i))
					if err == nil && a.status == 202 {
						mu.Lock()
						ids = append(ids, a.header.Get("X-Call-Id"))
						mu.Unlock()
						break
					}
					if t.Context().Err() != nil {
						return
					}
					time.Sleep(50 * time.Millisecond) // it is being killed
				}
			}
		})
	}
	for i := range total {
		if i%500 == 499 {
			p.kill()
			p.start()
		}
		next <- i
	}
	close(next)
	submitting.Wait()
	states := map[string]int{}
	for _, id := range ids {
		a := p.call(200, "GET", "/async-function/"+id+"?wait=1m", "")
		var c struct{ State string }
		if err := json.Unmarshal([]byte(a.body), &c); err != nil {
			t.Fatal(err)
		}
		states[c.State]++
	}
	if states["done"] != total {
		t.Errorf("of %d accepted calls these are known: %v", total, states)
	}
	var list []struct{ ID string }
	if err := json.Unmarshal([]byte(p.cli("calls", "list", "--limit", "1000", "-o", "json")), &list); err != nil || len(list) != 1000 {
		t.Errorf("calls list shows %d calls, %v", len(list), err)
	}
}

func TestASleepingFunctionIsWokenByItsQueue(t *testing.T) {
	p := start(t)
	p.goFunction("echo", "one")
	p.cli("up", "-f", "echo.yml")
	p.cli("scale", "echo", "--replicas", "0")
	a := p.call(202, "POST", "/async-function/echo", "hello")
	got := p.call(200, "GET", "/async-function/"+a.header.Get("X-Call-Id")+"/result?wait=1m", "")
	if !strings.HasPrefix(got.body, "one POST hello") {
		t.Errorf("result %q", got.body)
	}
}

func TestNothingIsAcceptedOnADiskWithoutSpace(t *testing.T) {
	p := serve(t, "it sets the reserve of the disk by a flag", "--queue-reserve", "1000Ti")
	p.goFunction("echo", "one")
	p.cli("up", "-f", "echo.yml")
	a := p.call(503, "POST", "/async-function/echo", "hello")
	if !strings.Contains(a.body, "disk of the queue") {
		t.Errorf("it says %q", a.body)
	}
	p.call(200, "POST", "/function/echo", "hello") // everything else goes on
}

func TestABatchSurvivesTheDeathOfBothSides(t *testing.T) {
	p := serve(t, "it kills the one process in the middle")
	p.goFunction("echo", "one")
	p.cli("up", "-f", "echo.yml")
	const total = 3000
	var lines strings.Builder
	for n := range total {
		fmt.Fprintf(&lines, "%d\n", n)
	}
	p.write("in.jsonl", lines.String())
	out := filepath.Join(p.work(), "out.jsonl")
	cmd := exec.Command(graphene, "invoke", "echo", "--batch", "in.jsonl", "--out", "out.jsonl")
	cmd.Dir, cmd.Env = p.work(), p.environ()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "some answers are there", func() bool {
		info, err := os.Stat(out)
		return err == nil && info.Size() > 0
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed, or has just ended
	p.kill()
	p.start()
	if _, err := os.Stat(out + ".progress"); err == nil { // else it was quicker
		p.cli("invoke", "echo", "--batch", "in.jsonl", "--out", "out.jsonl")
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	answers := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(answers) != total {
		t.Fatalf("%d answers, want %d", len(answers), total)
	}
	for i, line := range answers {
		if want := fmt.Sprintf(`"body":"one POST %d pid=`, i); !strings.Contains(line, want) {
			t.Fatalf("line %d is %s", i, line)
		}
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A warm function is measured in the tiers between hot and asleep.
type warmFunction struct {
	name, lang string
	handler    string // its source; empty: the template's
	needs      string // its requirements.txt
	bounds     map[string]int
}

// The model is small: what is measured is what it takes to be there again.
const sklearnHandler = `from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def load(context):
    return LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))


def handle(model, event, context):
    return {"class": int(model.predict([[5.1, 3.5, 1.4, 0.2]])[0])}
`

// benchTiers wakes functions from each tier and says what they hold in it.
func benchTiers(out io.Writer, p *servedPlatform, dir string, repeats int) error {
	fmt.Fprintf(out, "\n| function | tier | memory | first byte at the client, median (%d wakes) | worst | bound |\n|---|---|---|---|---|---|\n", repeats)
	for _, f := range []warmFunction{
		{name: "warm-go", lang: "go", bounds: map[string]int{"frozen": 3}},
		{name: "warm-python", lang: "python3", bounds: map[string]int{"frozen": 3, "zygote": 15}},
		{name: "warm-sklearn", lang: "python3-model", handler: sklearnHandler, needs: "scikit-learn==1.9.1\n", bounds: map[string]int{"zygote": 15}},
	} {
		for _, tier := range []string{"frozen", "zygote"} {
			if tier == "zygote" && f.bounds[tier] == 0 {
				continue
			}
			keep := map[string]string{"frozen": "1h", "zygote": "0"}[tier]
			if err := p.deployWarm(dir, f, keep); err != nil {
				return err
			}
			if tier == "frozen" {
				hot, err := p.warmth(f.name, true)
				if err != nil {
					return err
				}
				fmt.Fprintf(out, "| `%s` | hot | %.0f MB | – | – | – |\n", f.lang, hot.Usage.TotalMemoryBytes/1e6)
			}
			var times []time.Duration
			var held float64
			for range repeats {
				took, bytes, err := p.wakeFrom(f.name, tier)
				if err != nil {
					return fmt.Errorf("wake %s from %s: %w", f.name, tier, err)
				}
				times, held = append(times, took), bytes
			}
			bound := "–"
			if b := f.bounds[tier]; b > 0 {
				bound = fmt.Sprintf("%d ms", b)
			}
			fmt.Fprintf(out, "| `%s`%s | %s | %.0f MB | %s | %s | %s |\n", f.lang, map[bool]string{true: ", scikit-learn"}[f.needs != ""], tier, held/1e6, millis(mid(times)), millis(slices.Max(times)), bound)
		}
	}
	return nil
}

// deployWarm deploys a function that may be put to sleep, and that is kept
// frozen for so long and after that without its workers.
func (p *servedPlatform) deployWarm(dir string, f warmFunction, frozen string) error {
	stack := fmt.Sprintf("version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n  %s:\n    lang: %s\n    handler: ./%s\n    image: %s:latest\n    keep_frozen: %s\n    labels: {com.openfaas.scale.zero: \"true\", com.openfaas.scale.max: \"1\"}\n", f.name, f.lang, f.name, f.name, frozen)
	if _, err := os.Stat(filepath.Join(dir, f.name)); err != nil {
		if err := p.graphenes(dir, "new", f.name, "--lang", f.lang, "-f", f.name+".yml"); err != nil {
			return err
		}
		for file, text := range map[string]string{"handler.py": f.handler, "requirements.txt": f.needs} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, f.name, file), []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, f.name+".yml"), []byte(stack), 0o644); err != nil {
		return err
	}
	return p.graphenes(dir, "up", "-f", f.name+".yml", "--gateway", p.url)
}

// A warmth is what the platform says about how warm a function is.
type warmth struct {
	Replicas, AvailableReplicas int
	Tier                        string
	Rest                        *struct{ Tier, Why string }
	Usage                       struct{ TotalMemoryBytes float64 }
}

func (p *servedPlatform) warmth(name string, usage bool) (w warmth, err error) {
	path := "/system/function/" + name + "?details=1"
	if usage {
		path += "&usage=1"
	}
	text, err := p.system("GET", path, nil)
	if err != nil {
		return w, err
	}
	return w, json.Unmarshal(text, &w)
}

// patience bounds the wait for a function to be in a tier.
const patience = time.Minute

// wakeFrom puts the function to sleep and, once it is in the tier, returns how
// long a call takes and what it held before.
func (p *servedPlatform) wakeFrom(name, tier string) (took time.Duration, held float64, err error) {
	deadline := time.Now().Add(patience)
	for asked := false; ; time.Sleep(5 * time.Millisecond) {
		w, err := p.warmth(name, false)
		if err != nil {
			return 0, 0, err
		}
		if !asked && w.AvailableReplicas == 1 {
			asked = true
			if _, err := p.system("POST", "/system/scale-function/"+name, []byte(`{"replicas":0}`)); err != nil {
				return 0, 0, err
			}
		} else if asked && w.Rest != nil && w.Rest.Tier == tier {
			break
		}
		if time.Now().After(deadline) {
			return 0, 0, fmt.Errorf("it is %s and not %s: %+v", w.Tier, tier, w.Rest)
		}
	}
	w, err := p.warmth(name, true)
	if err != nil {
		return 0, 0, err
	}
	time.Sleep(200 * time.Millisecond) // what froze it has finished
	took, err = p.call(name)
	return took, w.Usage.TotalMemoryBytes, err
}

// call returns how long a call of a function takes, until its first byte.
func (p *servedPlatform) call(name string) (time.Duration, error) {
	began := time.Now()
	resp, err := http.Get(p.url + "/function/" + name)
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s %q: %w", resp.Status, text, err)
	}
	return took, nil
}

const (
	stepCallers  = 50
	stepReplicas = 5
	stepBefore   = 3 * time.Second
	stepSpan     = 12 * time.Second
	stepWindow   = 250 * time.Millisecond
)

// Each replica answers ten calls at once, each after 100 ms, so that five are
// needed and no processor is.
const stepHandler = `package function

import (
	"net/http"
	"time"
)

func Handle(w http.ResponseWriter, r *http.Request) { time.Sleep(100 * time.Millisecond) }
`

// benchStep raises the load of a function from one caller to fifty, with and
// without all replicas there already.
func benchStep(out io.Writer, p *servedPlatform, dir string) error {
	if err := p.graphenes(dir, "new", "step", "--lang", "go", "-f", "step.yml"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "step", "handler.go"), []byte(stepHandler), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n| step from 1 to %d callers of 100 ms each, %d at once per replica | p99 back after | p99 then | decided after |\n|---|---|---|---|\n", stepCallers, stepCallers/stepReplicas)
	var steady time.Duration
	for _, least := range []int{stepReplicas, 1} {
		stack := fmt.Sprintf("version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n  step:\n    lang: go\n    handler: ./step\n    image: step:latest\n    max_inflight: %d\n    labels: {com.openfaas.scale.min: \"%d\", com.openfaas.scale.max: \"%d\", com.openfaas.scale.target-proportion: \"1\"}\n", stepCallers/stepReplicas, least, stepReplicas)
		if err := os.WriteFile(filepath.Join(dir, "step.yml"), []byte(stack), 0o644); err != nil {
			return err
		}
		_, _ = p.system("DELETE", "/system/functions", []byte(`{"functionName":"step"}`)) // the first time there is none
		if err := p.graphenes(dir, "up", "-f", "step.yml", "--gateway", p.url); err != nil {
			return err
		}
		for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			w, err := p.warmth("step", false)
			if err != nil {
				return err
			}
			if w.AvailableReplicas == least {
				break
			}
			if time.Since(began) > patience {
				return fmt.Errorf("%d of %d replicas are ready", w.AvailableReplicas, least)
			}
		}
		at, windows, err := p.step()
		if err != nil {
			return err
		}
		what, decided := "replicas fixed at 5", "–"
		if least == stepReplicas {
			steady = windows[len(windows)/2:].mid()
		} else {
			what = "from 1 replica to 5"
			text, err := p.system("GET", "/system/function/step/scaling", nil)
			if err != nil {
				return err
			}
			var why struct {
				Changes []struct{ At time.Time }
			}
			if err := json.Unmarshal(text, &why); err != nil {
				return err
			}
			if n := len(why.Changes); n > 0 {
				decided = millis(why.Changes[n-1].At.Sub(at))
			}
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s |\n", what, windows.back(steady*3/2), millis(windows[len(windows)/2:].mid()), decided)
	}
	return nil
}

// windows are the p99 of spans of time, in order.
type windows []time.Duration

func (w windows) mid() time.Duration { return mid(slices.Clone(w)) }

// back says when p99 was good again: from then on it was so in at least three of
// four spans. A machine that does other things too has some that are not.
func (w windows) back(good time.Duration) string {
	fine := 0
	for i, p99 := range slices.Backward(w) {
		if p99 <= good {
			fine++
		}
		if rest := w[i:]; fine*4 < len(rest)*3 {
			if i+1 == len(w) {
				return "never"
			}
			return fmt.Sprint(time.Duration(i+1) * stepWindow)
		}
	}
	return "0s"
}

// step calls the function by one caller and then by fifty, and returns when the
// others came and the p99 of each span since.
func (p *servedPlatform) step() (at time.Time, w windows, err error) {
	at = time.Now().Add(stepBefore)
	end := at.Add(stepSpan)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: stepCallers}}
	defer client.CloseIdleConnections()
	spans := make([][]time.Duration, stepSpan/stepWindow)
	var mu sync.Mutex
	var bad error
	var callers sync.WaitGroup
	for i := range stepCallers {
		callers.Go(func() {
			if i > 0 {
				time.Sleep(time.Until(at))
			}
			for time.Now().Before(end) {
				began := time.Now()
				resp, err := client.Get(p.url + "/function/step")
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode != http.StatusOK {
						err = fmt.Errorf("the step: %s", strings.TrimSpace(resp.Status))
					}
				}
				done := time.Now()
				mu.Lock()
				if err != nil {
					bad = err
				} else if n := int(done.Sub(at) / stepWindow); !done.Before(at) && n < len(spans) {
					spans[n] = append(spans[n], done.Sub(began))
				}
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	for _, span := range spans {
		if len(span) == 0 {
			w = append(w, stepSpan) // nothing was answered
			continue
		}
		slices.Sort(span)
		w = append(w, span[len(span)*99/100])
	}
	return at, w, bad
}

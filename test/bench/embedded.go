package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// benchEmbedded measures what one `graphene serve` takes to start, to be idle
// and to wake functions, from outside: by the clock of a client and the
// kernel's count of memory. Absolute times depend on the machine; the bounds
// they are held against are in the table.
func benchEmbedded(out io.Writer, o options) error {
	dir, err := os.MkdirTemp("", "gbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // replicas run as other users
		return err
	}
	if o.graphene, err = filepath.Abs(o.graphene); err != nil {
		return err
	}

	var ready []time.Duration
	for range o.repeats {
		p, err := startPlatform(o.graphene, dir)
		if err != nil {
			return err
		}
		ready = append(ready, p.ready)
		if err := p.stop(); err != nil {
			return err
		}
	}
	p, err := startPlatform(o.graphene, dir)
	if err != nil {
		return err
	}
	defer func() { _ = p.stop() }() // the figures are taken by then
	time.Sleep(5 * time.Second)     // idle is what remains after the start
	idle, err := resident(p.cmd.Process.Pid)
	if err != nil {
		return err
	}

	fmt.Fprintf(out, "| what | median | worst | bound |\n|---|---|---|---|\n")
	fmt.Fprintf(out, "| `graphene serve`, from start to the first answer (%d starts) | %s | %s | 300 ms |\n", len(ready), millis(mid(ready)), millis(slices.Max(ready)))
	fmt.Fprintf(out, "| `graphene serve`, resident when idle | %.1f MB | | 45 MB |\n", float64(idle)/1e6)
	for _, f := range []struct {
		name, lang string
		bound      int
	}{{"go", "go", 30}, {"python", "python3", 100}} {
		if err := p.deploy(dir, f.name, f.lang); err != nil {
			return err
		}
		var times []time.Duration
		for range o.repeats {
			took, err := p.wake(f.name)
			if err != nil {
				return fmt.Errorf("wake %s: %w", f.name, err)
			}
			times = append(times, took)
		}
		fmt.Fprintf(out, "| scale 0→1, template `%s`, first byte at the client (%d wakes) | %s | %s | %d ms |\n", f.lang, len(times), millis(mid(times)), millis(slices.Max(times)), f.bound)
	}
	if err := benchTiers(out, p, dir, o.repeats); err != nil {
		return err
	}
	return benchStep(out, p, dir)
}

func mid(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }

// resident returns the bytes of memory that process pid holds.
func resident(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no VmRSS in the status of process %d", pid)
	}
	kb, err := strconv.ParseInt(string(m[1]), 10, 64)
	return kb * 1024, err
}

// A servedPlatform is one `graphene serve` under measurement.
type servedPlatform struct {
	graphene string
	cmd      *exec.Cmd
	url      string
	ready    time.Duration // from the start of the process to the first answer
	environ  []string
	password string
}

var readyLine = regexp.MustCompile(`ready at (http://\S+)`)

func startPlatform(graphene, dir string) (*servedPlatform, error) {
	data := filepath.Join(dir, "data")
	p := &servedPlatform{
		graphene: graphene,
		cmd:      exec.Command(graphene, "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--data-dir", data, "--log-level", "error"),
		environ:  append(os.Environ(), "OPENFAAS_CONFIG="+filepath.Join(dir, "cli")),
	}
	p.cmd.Env, p.cmd.Stderr = p.environ, os.Stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	m := readyLine.FindStringSubmatch(line)
	if m == nil {
		return nil, fmt.Errorf("graphene serve said %q: %w", line, err)
	}
	p.url = m[1]
	resp, err := http.Get(p.url + "/healthz")
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	p.ready = time.Since(began)
	password, err := os.ReadFile(filepath.Join(data, "auth", "basic-auth-password"))
	p.password = strings.TrimSpace(string(password))
	return p, err
}

func (p *servedPlatform) stop() error {
	http.DefaultClient.CloseIdleConnections()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return p.cmd.Wait()
}

func (p *servedPlatform) deploy(dir, name, lang string) error {
	if err := p.graphenes(dir, "new", name, "--lang", lang, "-f", name+".yml"); err != nil {
		return err
	}
	return p.graphenes(dir, "up", "-f", name+".yml", "--gateway", p.url)
}

// graphenes runs the command line.
func (p *servedPlatform) graphenes(dir string, args ...string) error {
	cmd := exec.Command(p.graphene, args...)
	cmd.Dir, cmd.Env = dir, p.environ
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("graphene %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// wake puts the function to sleep and returns how long a call of it takes then.
func (p *servedPlatform) wake(name string) (time.Duration, error) {
	body, err := json.Marshal(map[string]any{"serviceName": name, "replicas": 0})
	if err != nil {
		return 0, err
	}
	if _, err := p.system("POST", "/system/scale-function/"+name, body); err != nil {
		return 0, err
	}
	for asleep := false; !asleep; {
		text, err := p.system("GET", "/system/function/"+name, nil)
		if err != nil {
			return 0, err
		}
		var status struct{ Replicas, AvailableReplicas int }
		if err := json.Unmarshal(text, &status); err != nil {
			return 0, err
		}
		asleep = status.Replicas == 0 && status.AvailableReplicas == 0
	}
	time.Sleep(500 * time.Millisecond) // the replica that leaves must not compete with the one that comes
	return p.call(name)
}

func (p *servedPlatform) system(method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequest(method, p.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth("admin", p.password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s %s", method, path, resp.Status, text)
	}
	return text, err
}

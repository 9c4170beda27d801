package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/graphene-faas/graphene/templates"
)

//go:embed python
var pythonSources embed.FS

// A workshop is a directory with what sections about Python functions need.
type workshop struct {
	dir         string
	fwatchdog   string
	interpreter string // of a virtual environment with the packages that are measured
}

func openWorkshop(o options) (*workshop, error) {
	interpreter, err := virtualEnvironment(o.python)
	if err != nil {
		return nil, err
	}
	fwatchdog, err := filepath.Abs(o.fwatchdog)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "gbench-")
	if err != nil {
		return nil, err
	}
	w := &workshop{dir: dir, fwatchdog: fwatchdog, interpreter: interpreter}
	template, _ := templates.Get("python3-http")
	ours, err := fs.Sub(pythonSources, "python")
	if err == nil {
		err = errors.Join(os.CopyFS(filepath.Join(dir, "runtime"), template.Runtime), os.CopyFS(dir, ours))
	}
	if err != nil {
		w.close()
		return nil, fmt.Errorf("write the Python sources: %w", err)
	}
	return w, nil
}

func (w *workshop) close() { os.RemoveAll(w.dir) }

// pythonVersion is what the interpreter calls itself.
func (w *workshop) pythonVersion() (string, error) {
	out, err := exec.Command(w.interpreter, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask Python for its version: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// pool is the environment of an fwatchdog that runs the handler in the
// directory name of the workshop.
func (w *workshop) pool(name string, more ...string) []string {
	return append(os.Environ(), append([]string{
		"mode=pool",
		"fprocess=" + w.interpreter + " -m graphene_function",
		"PYTHONPATH=" + filepath.Join(w.dir, "runtime"),
		"handler_dir=" + filepath.Join(w.dir, name),
		"max_inflight=0",
	}, more...)...)
}

// virtualEnvironment returns the interpreter of an environment made with
// python. It is kept, and made anew when the requirements or python change.
func virtualEnvironment(python string) (string, error) {
	requirements, err := pythonSources.ReadFile("python/requirements.txt")
	if err != nil {
		return "", err
	}
	version, err := exec.Command(python, "-c", "import sys; print(sys.executable, sys.version)").Output()
	if err != nil {
		return "", fmt.Errorf("sections about Python need %s: %w", python, err)
	}
	dir, err := filepath.Abs(filepath.Join(".cache", "venv-bench"))
	if err != nil {
		return "", err
	}
	interpreter := filepath.Join(dir, "bin", "python3")
	installed := filepath.Join(dir, "installed.txt") // written last
	wanted := string(requirements) + "# " + string(version)
	if have, err := os.ReadFile(installed); err == nil && string(have) == wanted {
		return interpreter, nil
	}
	if out, err := exec.Command(python, "-m", "venv", "--clear", dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("make a virtual environment (Debian: apt install python3-venv): %w\n%s", err, out)
	}
	args := append([]string{"-m", "pip", "install", "--quiet", "--disable-pip-version-check"}, strings.Fields(string(requirements))...)
	if out, err := exec.Command(interpreter, args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("install what is measured: %w\n%s", err, out)
	}
	if err := os.WriteFile(installed, []byte(wanted), 0o644); err != nil {
		return "", err
	}
	return interpreter, nil
}

// A server is a child process that answers HTTP.
type server struct {
	cmd    *exec.Cmd
	url    string
	client *http.Client
}

// startServer starts a process that will listen at an address, a path or
// host:port, and waits until it answers path. Its output, such as an access
// log, goes nowhere.
func startServer(cmd *exec.Cmd, address, path string) (*server, error) {
	network := "tcp"
	s := &server{cmd: cmd, url: "http://" + address}
	if strings.HasPrefix(address, "/") {
		network, s.url = "unix", "http://function"
	}
	s.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		MaxIdleConnsPerHost: 1024,
	}}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(time.Minute); ; {
		resp, err := s.client.Get(s.url + path)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		if time.Now().After(deadline) {
			s.stop()
			return nil, fmt.Errorf("%s does not answer: %w", cmd, err)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// startPool starts fwatchdog with the handler in a directory of the workshop,
// on a Unix socket, or on a port of its own if there is none, and waits until
// it is ready.
func (w *workshop) startPool(name, socket string, env ...string) (*server, error) {
	address := socket
	if socket != "" {
		env = append(env, "listen=unix:"+socket)
	} else {
		ports, err := freePorts(2)
		if err != nil {
			return nil, err
		}
		address = "127.0.0.1:" + ports[0]
		env = append(env, "port="+ports[0], "metrics_port="+ports[1], "suppress_lock=true")
	}
	cmd := exec.Command(w.fwatchdog)
	cmd.Env = w.pool(name, env...)
	s, err := startServer(cmd, address, "/_/ready")
	if err != nil {
		return nil, fmt.Errorf("start fwatchdog: %w", err)
	}
	return s, nil
}

// echoes fails unless the server answers a POST with what was sent.
func (s *server) echoes(path string) error {
	const text = "is there an echo?"
	resp, err := s.client.Post(s.url+path, "text/plain", strings.NewReader(text))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || string(body) != text {
		return fmt.Errorf("%s answers %s %q, %w", s.cmd, resp.Status, body, err)
	}
	return nil
}

func (s *server) pid() int { return s.cmd.Process.Pid }

func (s *server) stop() {
	s.client.CloseIdleConnections()
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended, and Wait will know
	late := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer late.Stop()
	_ = s.cmd.Wait() // it was told to end; how it did does not matter
}

// freePorts returns TCP ports that nobody listens on.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close() // after all were found, so that they differ
		_, port, err := net.SplitHostPort(ln.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

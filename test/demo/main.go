// Command demo shows the platform to a newcomer: it starts one in a fresh
// directory on free ports, builds and deploys the examples with the command
// line, calls each of them, and prints the answers with the time each part
// took. Then it stays up until it is interrupted; without a terminal on
// standard input it ends by itself.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	graphene := flag.String("graphene", "bin/graphene", "the program to show")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *graphene, os.Environ()); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// calls are what the demo asks the examples, after they are deployed.
var calls = []struct {
	say  string // what the reader should look for
	path string
	file string // body from a file, or
	body string // from here
}{
	{say: "A plain Python handler.", path: "/function/hello", body: "newcomer"},
	{say: "A classifier that was trained when its image was built, and loaded once.", path: "/function/wine", file: "examples/wine/wine.json"},
	{say: "A pretrained network that names the animal on a picture.", path: "/function/animals", file: "examples/animals/cat.jpg"},
	{say: "A research script that became a function; its guide is docs/guide/research-to-service.md.", path: "/function/digits", file: "examples/research/digit.json"},
	{say: "A Go handler that answers while it is still reading.", path: "/function/stream", body: "3\n1\n4\n1\n5\n"},
}

func run(ctx context.Context, graphene string, environ []string) error {
	graphene, err := filepath.Abs(graphene)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "graphene-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	environ = append(environ, "OPENFAAS_CONFIG="+filepath.Join(dir, "cli"))

	platform, url, err := start(ctx, graphene, filepath.Join(dir, "data"), environ)
	if err != nil {
		return err
	}
	defer platform.stop()

	fmt.Printf("\n$ graphene up -f examples/stack.yaml\n")
	up := exec.CommandContext(ctx, graphene, "up", "-f", "examples/stack.yaml", "--gateway", url)
	up.Env, up.Stdout, up.Stderr = environ, os.Stdout, os.Stderr
	up.Cancel = func() error { return up.Process.Signal(syscall.SIGTERM) }
	if err := up.Run(); err != nil {
		return fmt.Errorf("graphene up: %w", errors.Join(err, ctx.Err()))
	}

	for _, c := range calls {
		body := []byte(c.body)
		from := "-d $'" + strings.ReplaceAll(c.body, "\n", `\n`) + "'"
		if c.file != "" {
			if body, err = os.ReadFile(c.file); err != nil {
				return err
			}
			from = "--data-binary @" + c.file
		}
		fmt.Printf("\n# %s\n$ curl %s %s\n", c.say, url+c.path, from)
		if err := call(ctx, url+c.path, body); err != nil {
			return err
		}
	}

	if !term.IsTerminal(int(os.Stdin.Fd())) {
		fmt.Println("\nStandard input is no terminal: the demo ends here.")
		return nil
	}
	fmt.Printf("\nThe platform stays up at %s until you press Ctrl-C. In another terminal, try\n\n"+
		"  export OPENFAAS_URL=%s OPENFAAS_CONFIG=%s\n  %s list\n\n", url, url, filepath.Join(dir, "cli"), graphene)
	select {
	case <-ctx.Done():
		fmt.Println("\nStopping.")
		return nil
	case <-platform.done:
		return fmt.Errorf("the platform ended: %s", platform.cmd.ProcessState)
	}
}

func call(ctx context.Context, url string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	began := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	took := time.Since(began)
	fmt.Printf("%s\n%s\n", resp.Status, strings.TrimRight(string(answer), "\n"))
	fmt.Printf("Server-Timing: %s   (%.1f ms in all)\n", strings.Join(resp.Header.Values("Server-Timing"), ", "), float64(took.Microseconds())/1000)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}

type platform struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// readyLine is what the platform prints when it can be called.
var readyLine = regexp.MustCompile(`ready at (http://\S+)`)

func start(ctx context.Context, graphene, dataDir string, environ []string) (*platform, string, error) {
	args := []string{"serve", "--log-level", "warn", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--data-dir", dataDir}
	fmt.Printf("$ graphene %s\n", strings.Join(args, " "))
	cmd := exec.Command(graphene, args...)
	cmd.Env, cmd.Stderr = environ, os.Stderr
	// Ctrl-C on the terminal is for the demo alone, which then stops the
	// platform in its own time.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	p := &platform{cmd: cmd, done: make(chan struct{})}
	ready := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			fmt.Println(lines.Text())
			if m := readyLine.FindStringSubmatch(lines.Text()); m != nil {
				ready <- m[1]
			}
		}
		_ = cmd.Wait() // its state says how it ended
		close(p.done)
	}()
	select {
	case url := <-ready:
		return p, url, nil
	case <-p.done:
		return nil, "", fmt.Errorf("graphene serve did not start: %s", cmd.ProcessState)
	case <-ctx.Done():
		p.stop()
		return nil, "", ctx.Err()
	}
}

func (p *platform) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

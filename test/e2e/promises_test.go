package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// What the platform promises of calls in flight, tried on both targets.

// teller is a function that says which of its replicas answers: after
// ?sleep=MILLISECONDS, or with ?events=N as a stream of N events, one each 100
// milliseconds, each with the time at which it was written.
const teller = `package function

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// VERSION
var started = time.Now()

func Handle(w http.ResponseWriter, r *http.Request) {
	number := func(name string) time.Duration {
		n, _ := strconv.Atoi(r.URL.Query().Get(name))
		return time.Duration(n)
	}
	age := time.Since(started)
	host, _ := os.Hostname()
	self := fmt.Sprintf("%s %d %d", host, os.Getpid(), age)
	w.Header().Set("X-Replica", self)
	if events := number("events"); events > 0 {
		w.Header().Set("Content-Type", "text/event-stream")
		for range events {
			fmt.Fprintf(w, "data: %d\n\n", time.Now().UnixNano())
			_ = http.NewResponseController(w).Flush()
			time.Sleep(100 * time.Millisecond)
		}
		return
	}
	time.Sleep(number("sleep") * time.Millisecond)
	io.WriteString(w, self)
}
`

// tellerFunction deploys a version of a teller.
func (p *platform) tellerFunction(name, version string, more ...string) {
	p.t.Helper()
	p.write(name+"/handler.go", strings.ReplaceAll(teller, "VERSION", version))
	p.stack(name, "go", more...)
	p.cli("up", "-f", name+".yml")
}

// fixed is the label that keeps the number of replicas as it is.
func fixed(n int) string { return scaleLabels("min", strconv.Itoa(n), "max", strconv.Itoa(n)) }

// who calls a teller and returns which replica answered: its pod, or the id of
// its process.
func (p *platform) who(path string) string {
	p.t.Helper()
	return replicaOf(p.call(200, "GET", path, "").body)
}

func replicaOf(said string) string {
	host, rest, _ := strings.Cut(said, " ")
	if onCluster() {
		return host
	}
	pid, _, _ := strings.Cut(rest, " ")
	return pid
}

// replicas returns those of a function that have not ended, named as by who.
func (p *platform) replicas(name string) []string {
	p.t.Helper()
	if onCluster() {
		return p.pods(functionNamespace, "faas_function="+name)
	}
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		p.t.Fatal(err)
	}
	var pids []string
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(env), "OPENFAAS_NAME="+name+"\x00") && strings.Contains(string(env), p.dir) {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}

// inNode runs a command in the node of the cluster that the tests have made.
func inNode(t *testing.T, args ...string) {
	t.Helper()
	own := strings.Fields(os.Getenv("CLUSTER"))
	if len(own) == 0 {
		t.Skip("SKIPPED: it needs to get at the processes of the node")
	}
	out, err := exec.Command(own[0], append(append(own[1:], "exec"), args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// signal sends a signal to a replica of a function.
func (p *platform) signal(replica string, sig syscall.Signal) {
	p.t.Helper()
	if onCluster() {
		inNode(p.t, "sh", "-c", fmt.Sprintf(`for f in $(grep -lz '^HOSTNAME=%s$' /proc/[0-9]*/environ); do p=${f#/proc/}; kill -%d ${p%%/environ}; done`, replica, sig))
		return
	}
	pid, err := strconv.Atoi(replica)
	if err == nil {
		err = syscall.Kill(pid, sig)
	}
	if err != nil {
		p.t.Fatalf("signal replica %s: %v", replica, err)
	}
}

func TestALongCallSurvivesTheEndOfItsReplica(t *testing.T) {
	p := start(t)
	p.tellerFunction("long", "one", "exec_timeout: 60s")
	const took = 35 * time.Second
	answered := make(chan error, 1)
	began := time.Now()
	go func() {
		a, err := p.do("GET", fmt.Sprint("/function/long?sleep=", took.Milliseconds()), "")
		if err == nil && a.status != 200 {
			err = fmt.Errorf("%d %q", a.status, a.body)
		}
		answered <- err
	}()
	testkit.Eventually(t, "the call is with the function", func() bool { return time.Since(began) > 2*time.Second })
	if onCluster() {
		pods := p.pods(functionNamespace, "faas_function=long")
		p.k("delete", "pod", pods[0], "-n", functionNamespace, "--wait=false")
	} else {
		p.cli("scale", "long", "--replicas", "0")
	}
	if err := <-answered; err != nil || time.Since(began) < took {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func TestScalingDownTakesNoBusyReplicaAndLosesNoCall(t *testing.T) {
	p := start(t)
	p.tellerFunction("busy", "one", "exec_timeout: 60s", "max_inflight: 1", fixed(1)) // nobody else scales it
	const replicas, long = 8, 4
	events := 40
	if onCluster() {
		events = 150 // for pods to be marked and gone before it ends
	}
	var stop func() load
	marked := func() int {
		costs := p.k("get", "pods", "-n", functionNamespace, "-l", "faas_function=busy", "-o", `jsonpath={.items[*].metadata.annotations.controller\.kubernetes\.io/pod-deletion-cost}`)
		return len(slices.DeleteFunc(strings.Fields(costs), func(c string) bool { return c == "0" }))
	}
	const rounds = 2
	for round := range rounds {
		byOthers := onCluster() && round == 0 // who ask nobody, and go by marks
		if !byOthers && stop == nil {
			stop = p.steady(20, "/function/busy?sleep=1") // which may leave marks
		}
		p.cli("scale", "busy", "--replicas", strconv.Itoa(replicas))
		testkit.Eventually(t, "all replicas are there", func() bool { return p.status("busy").AvailableReplicas == replicas })
		var atWork []string
		var calls sync.WaitGroup
		for range long {
			resp := p.open("GET", fmt.Sprint("/function/busy?events=", events), nil)
			atWork = append(atWork, replicaOf(resp.Header.Get("X-Replica")))
			calls.Go(func() {
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if n := strings.Count(string(body), "data: "); err != nil || n != events {
					t.Errorf("a call in flight ended with %s after %d of %d events, %v", resp.Status, n, events, err)
				}
			})
		}
		if byOthers {
			testkit.Eventually(t, "busy pods are marked", func() bool { return marked() >= long })
			p.k("scale", "deploy/busy", "-n", functionNamespace, fmt.Sprint("--replicas=", long+1))
		} else {
			if onCluster() {
				time.Sleep(2500 * time.Millisecond) // longer than two reports of load are apart
			}
			p.cli("scale", "busy", "--replicas", strconv.Itoa(long+1))
		}
		testkit.Eventually(t, "the others are gone", func() bool { return len(p.replicas("busy")) <= long+1 })
		left := p.replicas("busy")
		for _, replica := range atWork {
			if !slices.Contains(left, replica) {
				t.Errorf("round %d: %s was at work and is gone; left are %v", round, replica, left)
			}
		}
		if round == rounds-1 {
			p.cli("scale", "busy", "--replicas", "1") // now some must go that are at work
		}
		calls.Wait()
	}
	stop()
}

func TestAReplicaThatIsStoppedLosesNoCall(t *testing.T) {
	p := start(t)
	p.tellerFunction("still", "one", fixed(2), "exec_timeout: 60s")
	testkit.Eventually(t, "two replicas are there", func() bool { return p.status("still").AvailableReplicas == 2 })
	stop := p.steady(40, "/function/still")
	victim := p.who("/function/still")
	p.signal(victim, syscall.SIGSTOP)
	stopped := time.Now()
	resume := sync.OnceFunc(func() { p.signal(victim, syscall.SIGCONT) })
	defer resume()
	soon := &http.Client{Timeout: time.Second} // a call that is caught is given up
	row := 0
	for row < 50 { // calls in a row that the other answered, soon
		if time.Since(stopped) > 20*time.Second {
			t.Fatal("calls still get stuck")
		}
		resp, err := soon.Get(p.url + "/function/still")
		if err != nil {
			row = 0
			continue
		}
		resp.Body.Close()
		if row++; row == 1 {
			t.Logf("calls go around it %v after it was stopped", time.Since(stopped).Round(100*time.Millisecond))
		}
	}
	resume()
	testkit.Eventually(t, "the replica is back", func() bool { return p.who("/function/still") == victim })
	stop() // none was lost: those that it had got were answered when it went on
}

// events reads a teller's stream to its end, and returns how long after they
// were written its events came. It calls begun after the first. The error says
// that the stream broke off.
func (p *platform) events(n int, begun func()) (late []time.Duration, err error) {
	p.t.Helper()
	resp := p.open("GET", fmt.Sprint("/function/stream?events=", n), nil, "Accept", "text/event-stream")
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		at, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			p.t.Fatal(err)
		}
		late = append(late, time.Since(time.Unix(0, at)))
		if len(late) == 1 {
			begun()
		}
	}
	return late, lines.Err()
}

func TestStreamsEndWhenTheirReplicaIsReplaced(t *testing.T) {
	p := start(t)
	p.tellerFunction("stream", "one")
	const events = 80
	var replaced sync.WaitGroup
	late, err := p.events(events, func() {
		replaced.Go(func() { p.tellerFunction("stream", "two") })
	})
	if err != nil || len(late) != events {
		t.Fatalf("%d events of %d came, %v", len(late), events, err)
	}
	replaced.Wait()
	t.Logf("events came %v after they were written, at most %v", median(late), slices.Max(late))
	if onCluster() {
		record("Events of a stream", fmt.Sprintf("%d server-sent events, one each 100 ms, through a gateway, while the function's version was replaced; none was lost.\n\n| from being written to being read | |\n|---|---|\n| median | %.1f ms |\n| worst | %.1f ms |\n", events, ms(median(late)), ms(slices.Max(late))))
	}
}

// webSocket connects to a function that sends back what it gets. What ended the
// connection comes from ended.
func (p *platform) webSocket() (ended <-chan error) {
	p.t.Helper()
	conn, _, err := websocket.Dial(p.t.Context(), strings.Replace(p.url, "http", "ws", 1)+"/function/wire/websocket", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.CloseNow() })
	if err := conn.Write(p.t.Context(), websocket.MessageText, []byte("hello")); err != nil {
		p.t.Fatal(err)
	}
	if _, got, err := conn.Read(p.t.Context()); err != nil || string(got) != "hello" {
		p.t.Fatalf("%q, %v", got, err)
	}
	end := make(chan error, 1)
	go func() {
		_, _, err := conn.Read(p.t.Context())
		end <- err
	}()
	return end
}

func TestAWebSocketIsToldThatItsReplicaGoes(t *testing.T) {
	p := start(t)
	p.deployWire()
	ended := p.webSocket()
	p.cli("scale", "wire", "--replicas", "0")
	if err := <-ended; websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the WebSocket ended with %v, want the status 1001", err)
	}
}

func TestStreamsEndWholeAndWebSocketsAreToldWhenTheirGatewayStops(t *testing.T) {
	p := start(t)
	p.deployWire()
	p.tellerFunction("stream", "one")
	events := 30
	if onCluster() {
		events = 200 // for it to outlast the start of the gateways that come instead
	}
	socket := p.webSocket()
	late, err := p.events(events, func() {
		if onCluster() {
			p.k("rollout", "restart", "deploy/gateway", "-n", systemNamespace)
		} else if err := p.run.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := <-socket; websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("the WebSocket ended with %v, want the status 1001", err)
		}
		if onCluster() {
			p.call(200, "GET", "/function/stream", "") // another gateway answers
			return
		}
		testkit.Eventually(t, "new calls are refused", func() bool {
			a, err := p.do("GET", "/function/stream", "")
			if err == nil && a.status != 200 || err != nil && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a call to a gateway that is about to stop ended with %d %q, %v; want the answer, or a connection that is refused", a.status, a.body, err)
			}
			return errors.Is(err, syscall.ECONNREFUSED)
		})
	})
	if err != nil || len(late) != events {
		t.Errorf("%d events of %d came, %v", len(late), events, err)
	}
	if onCluster() {
		p.settle()
		return
	}
	if <-p.run.Done; p.run.Cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("the platform ended with %v", p.run.Cmd.ProcessState)
	}
}

func TestAStreamThatOutlastsTheGraceOfAStopBreaksOff(t *testing.T) {
	p := serve(t, "it sets the grace by a flag", "--drain", "500ms")
	p.tellerFunction("stream", "one")
	const events = 40
	late, err := p.events(events, func() {
		if err := p.run.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	})
	if len(late) == events || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d events of %d came, and then the end: %v; want fewer, and to be told so", len(late), events, err)
	}
	if <-p.run.Done; p.run.Cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("the platform ended with %v", p.run.Cmd.ProcessState)
	}
}

func TestTheSuddenDeathOfAGatewayCostsFewCalls(t *testing.T) {
	p := cluster(t)
	gateways := p.pods(systemNamespace, "app=gateway")
	if len(gateways) < 2 {
		t.Skipf("SKIPPED: %d gateway", len(gateways))
	}
	p.tellerFunction("alive", "one", fixed(2))
	const rate, window = 50, 20 * time.Second
	stop := p.offer(rate, "/function/alive")
	began := time.Now()
	p.signal(gateways[0], syscall.SIGKILL)
	p.settle()
	time.Sleep(window - min(window, time.Since(began)))
	l, failures := stop()
	answered := 1 - float64(l.failed)/float64(l.sent)
	t.Logf("%.2f %% of %d calls were answered", 100*answered, l.sent)
	if answered < 0.99 {
		t.Errorf("%.2f %% of %d calls were answered, want 99; at first these were not:\n%s", 100*answered, l.sent, strings.Join(failures, "\n"))
	}
	record("A gateway is killed", fmt.Sprintf("One of two gateways gets SIGKILL, under %d POST requests per second through their Service, from clients that try nothing twice.\n\n| requests | answered |\n|---|---|\n| %d | %.2f %% |\n", rate, l.sent, 100*answered))
}

func TestAControllerThatVanishesIsSucceeded(t *testing.T) {
	p := cluster(t)
	p.k("scale", "deploy/provider", "-n", systemNamespace, "--replicas=2")
	defer p.settle()
	defer p.k("scale", "deploy/provider", "-n", systemNamespace, "--replicas=1")
	p.k("rollout", "status", "-n", systemNamespace, "deploy/provider", "--timeout=60s")
	leader := func() string {
		holder, _ := kubectl("get", "lease/graphene-provider", "-n", systemNamespace, "-o", "jsonpath={.spec.holderIdentity}")
		return strings.TrimSpace(holder)
	}
	var before string
	testkit.Eventually(t, "a provider leads", func() bool {
		before = leader()
		return slices.Contains(p.pods(systemNamespace, "app=provider"), before)
	})
	p.signal(before, syscall.SIGKILL)
	p.tellerFunction("after", "one") // which needs somebody who controls
	p.call(200, "GET", "/function/after", "")
	if leader() == "" {
		t.Error("nobody leads")
	}
}

package watchdog_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// unruly does to its process what its path says.
const unruly = `
import asyncio, ctypes, gc, os, re, signal, socket, sys, threading, time
def protocol():
    for entry in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + entry).startswith("socket:"): yield int(entry)
        except OSError: pass
def misbehave(what, context):
    if what == "os._exit": os._exit(3)
    if what == "abort": os.abort()
    if what == "segfault": ctypes.string_at(0)
    if what == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop": os.kill(os.getpid(), signal.SIGSTOP)
    if what == "loop":
        while True: pass
    if what == "sleep": time.sleep(1000)
    if what == "regex": re.match(r"(a+)+$", "a" * 64 + "b")
    if what == "power": 7 ** 7 ** 12
    if what == "deaf":
        for s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGUSR1}: signal.signal(s, signal.SIG_IGN)
        time.sleep(1000)
    if what == "chatty out": sys.stdout.write("x" * 8_000_000)
    if what == "chatty err": os.write(2, b"y" * 8_000_000)
    if what == "close 0-2": os.closerange(0, 3)
    if what == "close all": os.closerange(0, 256)
    if what == "garbage":
        for fd in protocol(): os.write(fd, b"GET / HTTP/1.1\\r\\n\\r\\n" * 10)
    if what == "cut frame":
        for fd in protocol(): os.write(fd, b"\\0\\0\\1"); os._exit(0)
    if what == "cwd": os.chdir("/proc")
    if what == "umask": os.umask(0o777)
    if what == "environ": os.environ.clear()
    if what == "streams": sys.stdout = sys.stderr = None
    if what == "path": sys.path.clear(); sys.modules.pop("function", None)
    if what == "collector": gc.disable(); threading.stack_size(1 << 20)
    if what == "limit": sys.setrecursionlimit(60)
    if what == "SystemExit": sys.exit(4)
    if what == "KeyboardInterrupt": raise KeyboardInterrupt
    if what == "GeneratorExit": raise GeneratorExit
    if what == "BaseException": raise BaseException("all the way down")
    if what == "unprintable":
        class Unprintable(Exception):
            def __str__(self): raise ValueError("no")
        raise Unprintable
    if what == "recursion":
        def deeper(): deeper()
        deeper()
    if what == "nested":
        nested = []
        for _ in range(100_000): nested = [nested]
        return {"body": nested}
    if what == "object": return {"body": {"x": object()}}
    if what == "status": return {"statusCode": "many"}
    if what == "headers": return {"headers": 7, "body": ""}
    if what == "pieces": return {"body": iter([1, 2])}
    if what == "coroutine": return asyncio.sleep(0)
    if what == "huge": return b"z" * (64 << 20)
    if what == "raises at once":
        def pieces():
            raise ValueError("at once")
            yield
        return pieces()
    return str(os.getpid())
KIND def handle(event, context): return misbehave(event.path[1:], context)
`

func TestWhateverAHandlerDoesItsCallerIsToldAndOthersGoOn(t *testing.T) {
	const died, raised, late = "the function's process ended during the call: ", "the function raised ", "the function took longer than "
	for what, want := range map[string]struct {
		status int
		body   string // how it begins
		log    string // that has something of this
	}{
		"os._exit": {500, died + "exit status 3", ""},
		"abort":    {500, died + "signal: Aborted", "in misbehave"},
		"segfault": {500, died + "signal: Segmentation fault", "in misbehave"},
		"kill":     {500, died + "signal: Killed", ""},
		"stop":     {504, late, ""},
		"loop":     {504, late, "in misbehave"},
		"sleep":    {504, late, "in misbehave"},
		"regex":    {504, late, "in match"},
		"power":    {504, late, "in misbehave"},
		"deaf":     {504, late, "in misbehave"},

		"chatty out": {200, "", "xxx"},
		"chatty err": {200, "", "yyy"},
		"close 0-2":  {200, "", ""},
		"close all":  {500, died, ""},
		"garbage":    {500, died, ""},
		"cut frame":  {500, died + "exit status 0", ""},

		"cwd": {200, "", ""}, "umask": {200, "", ""}, "environ": {200, "", ""}, "path": {200, "", ""},
		"streams": {200, "", ""}, "collector": {200, "", ""}, "limit": {200, "", ""},

		"SystemExit":        {500, raised + "SystemExit", "SystemExit: 4"},
		"KeyboardInterrupt": {500, raised + "KeyboardInterrupt", "KeyboardInterrupt"},
		"GeneratorExit":     {500, raised + "GeneratorExit", "GeneratorExit"},
		"BaseException":     {500, raised + "BaseException", "BaseException: all the way down"},
		"unprintable":       {500, raised + "Unprintable", "Unprintable"},
		"recursion":         {500, raised + "RecursionError", "maximum recursion depth"},
		"nested":            {500, raised + "RecursionError", "maximum recursion depth"},
		"object":            {500, raised + "TypeError", "object cannot be written as JSON"},
		"status":            {500, raised + "ValueError", "many"},
		"headers":           {500, raised + "TypeError", "TypeError"},
		"pieces":            {500, raised + "TypeError", "a streamed body is made of text or bytes"},
		"raises at once":    {500, raised + "ValueError", "at once"},
		"huge":              {200, "zzz", ""},
	} {
		for kind, keyword := range map[string]string{"sync": "", "async": "async "} {
			t.Run(what+" "+kind, func(t *testing.T) {
				t.Parallel()
				if what == "raises at once" && kind == "async" {
					t.Skip("SKIPPED: a coroutine's generator is the same")
				}
				o := pool(t, strings.Replace(unruly, "KIND ", keyword, 1))
				o.Workers.Max = 1
				r := start(t, o).up()
				before := r.do("GET", "/", "").body
				timeout := "1h"
				if want.status == http.StatusGatewayTimeout {
					timeout = "1s"
				}
				got := r.do("GET", "/"+strings.ReplaceAll(what, " ", "%20"), "", "X-Timeout", timeout)
				if got.status != want.status || !strings.HasPrefix(got.body, want.body) {
					t.Errorf("got %d %.200q, want %d %q", got.status, got.body, want.status, want.body)
				}
				if strings.Contains(got.body, "Traceback") {
					t.Errorf("the caller got %q", got.body)
				}
				if want.log != "" {
					r.awaitOutput(want.log)
				}
				if want.status == http.StatusGatewayTimeout && kind == "async" {
					// Until its worker is known to be lost, others may share its fate.
					for r.counter(`pool_worker_kills_total{reason="time"}`) == 0 {
						time.Sleep(time.Millisecond)
					}
				}
				for range 3 { // by the same worker, or by another
					got := r.do("GET", "/", "")
					if _, err := strconv.Atoi(got.body); err != nil || got.status != http.StatusOK {
						t.Errorf("the next call got %d %q", got.status, got.body)
					}
				}
				if want.status == http.StatusOK {
					if after := r.do("GET", "/", "").body; after != before {
						t.Error("a call that was answered has cost the worker")
					}
				}
			})
		}
	}
}

func TestASyncHandlerThatReturnsACoroutineIsTold(t *testing.T) {
	r := start(t, pool(t, strings.Replace(unruly, "KIND ", "", 1))).up()
	if got := r.do("GET", "/coroutine", ""); got.status != http.StatusInternalServerError {
		t.Errorf("got %d %q", got.status, got.body)
	}
	r.awaitOutput("define it with async def")
}

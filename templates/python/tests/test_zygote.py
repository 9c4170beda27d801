import os
import signal
import socket
import subprocess
import sys

from graphene_function import channel as ch

from .support import HandlerTestCase

LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class ZygoteTest(HandlerTestCase):
    """A real zygote, and the watchdog's end of its control socket."""

    def start(self, text, left_out=(), **settings):
        self.write("handler.py", text)
        near, far = socket.socketpair()
        near.settimeout(30)
        self.addCleanup(near.close)
        environ = {**os.environ, "pool_fd": str(far.fileno()), "PYTHONPATH": LIBRARY}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "graphene_function"],
            env=environ,
            pass_fds=[far.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        far.close()
        self.addCleanup(self.process.stdout.close)
        self.addCleanup(self.process.wait)
        self.addCleanup(self.process.kill)
        self.control = ch.Channel(near)
        self.assertEqual(self.news(ch.HELLO)["protocols"], [ch.PROTOCOL])
        start = {
            "protocol": ch.PROTOCOL,
            "shared": True,
            "handler_dir": self.directory,
            "handler_style": "",
            "worker_threads": 1,
            "log_call_id": False,
            "probe_seconds": 30,
            **settings,
        }
        self.control.send(ch.START, 0, ch.document({k: v for k, v in start.items() if k not in left_out}))

    def news(self, kind):
        got, _, payload = self.control.read()
        self.assertEqual(got, kind)
        return ch.parse_document(payload)

    def fork(self, ident):
        near, far = socket.socketpair()
        near.settimeout(30)
        self.addCleanup(near.close)
        socket.send_fds(self.control.sock, [ch.frame(ch.FORK, ident)], [far.fileno()])
        far.close()
        return ch.Channel(near)

    def test_workers_share_the_load_and_their_ends_are_reported(self):
        self.start("import os\nloader = os.getpid()\ndef handle(event, context): return str(loader)")
        self.assertTrue(self.news(ch.LOADED)["shared"])
        worker = self.fork(5)
        pid = self.news(ch.FORKED)["pid"]
        kind, _, payload = worker.read()
        self.assertEqual((kind, ch.parse_document(payload)["pid"]), (ch.READY, pid))
        request = {"method": "GET", "path": "/", "query": "", "headers": []}
        worker.send(ch.REQUEST, 1, ch.request(ch.LAST, 0, ch.document(request), b""))
        self.assertEqual(ch.parse_answer(worker.read()[2])[2], str(self.process.pid).encode())
        worker.sock.close()
        self.assertEqual(self.news(ch.EXITED), {"status": "exit status 0"})

    def test_a_watchdog_that_does_not_know_the_newest_settings_is_served(self):
        self.start("def handle(event, context): return 'served'", left_out=["worker_threads"])
        self.news(ch.LOADED)
        worker = self.fork(1)
        self.news(ch.FORKED)
        self.assertEqual(ch.parse_document(worker.read()[2])["many"], 1)
        request = {"method": "GET", "path": "/", "query": "", "headers": []}
        worker.send(ch.REQUEST, 1, ch.request(ch.LAST, 0, ch.document(request), b""))
        self.assertEqual(ch.parse_answer(worker.read()[2])[2], b"served")

    def test_a_watchdog_that_wants_another_protocol_is_told(self):
        for protocol in (ch.PROTOCOL - 1, ch.PROTOCOL + 1):
            with self.subTest(protocol):
                self.start("def handle(event, context): pass", protocol=protocol)
                error = self.news(ch.FAILED)["error"]
                self.assertIn(f"version {protocol} of the pool's protocol", error)
                self.assertIn(f"speaks {ch.PROTOCOL}", error)

    def test_workers_leave_some_processes_to_the_rest(self):
        self.start(
            "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096))\n"
            "def handle(event, context): return str(resource.getrlimit(resource.RLIMIT_NPROC))"
        )
        self.news(ch.LOADED)
        worker = self.fork(1)
        self.news(ch.FORKED)
        worker.read()
        request = {"method": "GET", "path": "/", "query": "", "headers": []}
        worker.send(ch.REQUEST, 1, ch.request(ch.LAST, 0, ch.document(request), b""))
        self.assertEqual(ch.parse_answer(worker.read()[2])[2], b"(4032, 4032)")

    def test_a_killed_worker_says_where_it_hangs(self):
        self.start("def handle(event, context):\n    print('hanging')\n    while True: pass")
        self.news(ch.LOADED)
        worker = self.fork(1)
        self.news(ch.FORKED)
        worker.read()
        request = {"method": "GET", "path": "/", "query": "", "headers": []}
        worker.send(ch.REQUEST, 1, ch.request(ch.LAST, 0, ch.document(request), b""))
        self.assertEqual(self.process.stdout.readline(), "hanging\n")
        self.control.send(ch.KILL, 1)
        self.assertEqual(self.news(ch.EXITED), {"status": "signal: Killed"})
        self.control.sock.close()
        self.assertIn("in handle", self.process.communicate(timeout=30)[0])

    def test_a_failed_load_is_told_and_logged(self):
        self.start("raise ValueError('no model')")
        self.assertEqual(self.news(ch.FAILED), {"error": "ValueError: no model"})
        self.assertIn("Traceback", self.process.communicate(timeout=30)[0])
        self.assertEqual(self.process.returncode, 1)

    def test_a_probe_that_hangs_or_dies_forbids_sharing(self):
        model = "import os, time\nme = os.getpid()\ndef load(context): pass\ndef handle(model, event, context): pass\n"
        for warmup, problem in [
            ("os._exit(5)", "warmup ended a forked process with exit status 5"),
            ("time.sleep(1000)", "warmup hung in a forked process"),
        ]:
            with self.subTest(warmup):
                self.start(f"{model}def warmup(model):\n    if os.getpid() != me: {warmup}", probe_seconds=0.2)
                loaded = self.news(ch.LOADED)
                self.assertEqual((loaded["shared"], loaded["problem"]), (False, problem))

    def test_workers_are_warm_from_the_start_unless_warmup_starts_threads(self):
        model = (
            "import os, threading\n"
            "def load(context): return {}\n"
            "def handle(model, event, context): return str(model['warm in'])\n"
            "def warmup(model):\n"
            "    model['warm in'] = os.getpid()\n"
        )
        for then, forked in [("", False), ("    threading.Thread(target=threading.Event().wait, daemon=True).start()", True)]:
            with self.subTest(then):
                self.start(model + then)
                self.assertTrue(self.news(ch.LOADED)["shared"])
                worker = self.fork(1)
                pid = self.news(ch.FORKED)["pid"]
                worker.read()
                request = {"method": "GET", "path": "/", "query": "", "headers": []}
                worker.send(ch.REQUEST, 1, ch.request(ch.LAST, 0, ch.document(request), b""))
                warm_in = int(ch.parse_answer(worker.read()[2])[2])
                self.assertEqual(warm_in, pid if forked else self.process.pid)

    def test_a_warmup_that_raises_is_only_logged(self):
        self.start("def load(context): pass\ndef warmup(model): 1 / 0\ndef handle(model, event, context): pass")
        self.assertTrue(self.news(ch.LOADED)["shared"])
        self.control.sock.close()
        self.assertIn("ZeroDivisionError", self.process.communicate(timeout=30)[0])

    def test_hooks_run_on_both_sides_of_a_fork(self):
        self.start(
            "import os\nseen = []\n"
            "def before_fork(): seen.append(f'before {os.getpid()}')\n"
            "def after_fork(): seen.append(f'after {os.getpid()}')\n"
            "def handle(event, context): return ','.join(seen)"
        )
        self.news(ch.LOADED)
        worker = self.fork(1)
        pid = self.news(ch.FORKED)["pid"]
        worker.read()
        request = {"method": "GET", "path": "/", "query": "", "headers": []}
        worker.send(ch.REQUEST, 1, ch.request(ch.LAST, 0, ch.document(request), b""))
        want = f"before {self.process.pid},after {pid}"
        self.assertEqual(ch.parse_answer(worker.read()[2])[2], want.encode())

    def test_a_hook_that_raises_costs_its_worker_only(self):
        self.start(
            "import os\ndef before_fork():\n    if os.path.exists(__file__ + '.broken'): raise ValueError('before')\n"
            "def after_fork(): raise ValueError('after')\ndef handle(event, context): pass"
        )
        self.news(ch.LOADED)
        worker = self.fork(1)
        self.news(ch.FORKED)
        kind, _, payload = worker.read()
        self.assertEqual((kind, ch.parse_document(payload)), (ch.FAILED, {"error": "ValueError: after"}))
        self.assertEqual(self.news(ch.EXITED), {"status": "exit status 1"})
        self.write("handler.py.broken", "")
        self.fork(2)
        self.assertEqual(self.news(ch.EXITED), {"status": "cannot fork: ValueError: before"})

    def test_what_a_worker_started_ends_with_it(self):
        self.start(
            "import os, subprocess\ndef handle(event, context):\n"
            "    print(subprocess.Popen(['sleep', '1000']).pid)\n    os._exit(0)"
        )
        self.news(ch.LOADED)
        worker = self.fork(1)
        self.news(ch.FORKED)
        worker.read()
        request = {"method": "GET", "path": "/", "query": "", "headers": []}
        worker.send(ch.REQUEST, 1, ch.request(ch.LAST, 0, ch.document(request), b""))
        self.assertTrue(int(self.process.stdout.readline()))
        self.news(ch.EXITED)
        self.control.sock.close()
        self.process.communicate(timeout=30)  # ends when nobody holds the output any more

    def test_threads_of_the_handler_are_told(self):
        self.start(
            "import threading, time\n"
            "threading.Thread(target=time.sleep, args=(1000,), name='poller', daemon=True).start()\n"
            "def handle(event, context): pass"
        )
        self.assertTrue(self.news(ch.LOADED)["shared"])
        self.control.sock.close()
        self.assertIn("threads, which workers do not have: poller", self.process.communicate(timeout=30)[0])

    def test_when_the_watchdog_is_gone_all_processes_end(self):
        self.start("def handle(event, context):\n    while True: pass")
        self.news(ch.LOADED)
        worker = self.fork(1)
        self.news(ch.FORKED)
        worker.read()
        request = {"method": "GET", "path": "/", "query": "", "headers": []}
        worker.send(ch.REQUEST, 1, ch.request(ch.LAST, 0, ch.document(request), b""))
        self.control.sock.close()
        self.process.communicate(timeout=30)  # ends when the worker, too, has closed its output
        self.assertEqual(self.process.returncode, 0)
        with self.assertRaises(ch.Closed):
            worker.read()

    def test_a_worker_outlives_the_zygote(self):
        self.start("def handle(event, context): return 'alive'")
        self.news(ch.LOADED)
        worker = self.fork(1)
        self.news(ch.FORKED)
        worker.read()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        request = {"method": "GET", "path": "/", "query": "", "headers": []}
        worker.send(ch.REQUEST, 1, ch.request(ch.LAST, 0, ch.document(request), b""))
        self.assertEqual(ch.parse_answer(worker.read()[2])[2], b"alive")

import json
import os
import subprocess
import sys

from graphene_function import Context, leaks

from .support import HandlerTestCase

LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class MeasureTest(HandlerTestCase):
    def measure(self, text, *bodies, calls=40, warmup=10):
        function = self.function(text)
        function.load(Context())
        return leaks.measure(function, self.directory, bodies or [b""], calls, warmup)

    def test_memory_that_is_kept_is_told_by_the_handlers_line(self):
        report = self.measure(
            "import json\n"
            "seen = []\n"
            "def handle(event, context):\n"
            "    seen.append(json.loads(event.body))\n"
            "    return 'ok'\n",
            b'{"values": [1000, 2000, 3000]}',
        )
        self.assertTrue(report.leaks)
        line = report.lines[0]
        self.assertEqual((line.file, line.line), ("handler.py", 4))
        self.assertEqual(line.code, "seen.append(json.loads(event.body))")
        self.assertRegex(line.allocated, r"json/decoder\.py:\d+")
        self.assertGreater(line.bytes_per_call, 200)
        self.assertIn("handler.py:4", leaks.describe(report))

    def test_a_request_that_is_kept_is_told_as_such(self):
        report = self.measure("seen = []\ndef handle(event, context): seen.append(event)")
        self.assertIn("what the handler was given", [line.file for line in report.lines])

    def test_caches_that_are_full_are_no_leak(self):
        report = self.measure(
            "import collections, functools\n"
            "last = collections.deque(maxlen=5)\n"
            "calls = 0\n"
            "@functools.lru_cache(maxsize=5)\n"
            "def work(n): return [n] * 100\n"
            "def handle(event, context):\n"
            "    global calls\n"
            "    calls += 1\n"
            "    last.append(event)\n"
            "    return {'statusCode': 201, 'body': work(calls)}\n"
        )
        self.assertEqual(report.lines, [])
        self.assertFalse(report.leaks)
        self.assertEqual(report.statuses, {"201": 50})
        self.assertIn("nothing is left behind", leaks.describe(report))

    def test_a_cache_that_fills_slowly_is_no_leak(self):
        report = self.measure(
            "import collections\nlast = collections.deque(maxlen=60)\n"
            "def handle(event, context): last.append(context.call_id + 'x' * 100)"
        )
        self.assertFalse(report.leaks, leaks.describe(report))

    def test_garbage_in_cycles_is_no_leak(self):
        report = self.measure("def handle(event, context):\n    cycle = [event]\n    cycle.append(cycle)\n    return 'ok'")
        self.assertFalse(report.leaks, leaks.describe(report))

    def test_models_coroutines_and_streams_are_called_as_in_a_worker(self):
        for text in [
            "def load(context): return []\ndef handle(model, event, context): model.append(bytearray(1000))",
            "kept = []\nasync def handle(event, context): kept.append(bytearray(1000))",
            "kept = []\ndef handle(event, context):\n    kept.append(bytearray(1000))\n    yield b'a'",
            "kept = []\nasync def handle(event, context):\n    kept.append(bytearray(1000))\n    yield b'a'",
        ]:
            with self.subTest(text):
                report = self.measure(text)
                self.assertTrue(report.leaks)
                self.assertGreater(report.lines[0].bytes_per_call, 1000)

    def test_what_a_batch_leaves_behind_is_told_by_its_line(self):
        report = self.measure(
            "seen = []\n"
            "def handle(event, context): return 'alone'\n"
            "def handle_batch(events, context):\n"
            "    seen.append([bytes(1000) for _ in events])\n"
            "    return ['one of many'] * (len(events) - 1) + [ValueError('the last')]\n",
            calls=72,
            warmup=18,
        )
        self.assertTrue(report.leaks)
        self.assertEqual((report.lines[0].file, report.lines[0].line), ("handler.py", 4))
        self.assertEqual((sum(report.statuses.values()), report.failed), (144, 18))  # one of nine calls fails, and all is measured twice
        self.assertIn("ValueError: the last", report.error)

    def test_open_files_are_counted(self):
        report = self.measure("import os\nkept = []\ndef handle(event, context): kept.append(open(os.devnull))")
        [files] = [count for count in report.counts if count.what == "open files"]
        self.assertEqual((files.leaks, files.per_call), (True, 1))
        self.assertRegex(files.examples[0], "/dev/null")

    def test_bodies_are_sent_in_turn_and_failures_counted(self):
        report = self.measure("def handle(event, context): return 1 / int(event.body)", b"0", b"1")
        self.assertEqual(report.failed, 25)
        self.assertEqual(report.statuses, {"200": 25})
        self.assertIn("ZeroDivisionError", report.error)


class CommandTest(HandlerTestCase):
    def leaks(self, text, *arguments):
        self.write("handler.py", text)
        return subprocess.run(
            [sys.executable, "-m", "graphene_function", "leaks", self.directory, "--calls", "20", "--warmup", "4"]
            + list(arguments),
            env={**os.environ, "PYTHONPATH": LIBRARY},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def test_the_exit_status_is_the_verdict(self):
        for text, status, words in [
            ("def handle(event, context): return 'ok'", leaks.CLEAN, "nothing is left behind"),
            ("kept = []\ndef handle(event, context): kept.append(event.body + bytes(100))", leaks.LEAKS, "it leaks"),
        ]:
            with self.subTest(text):
                result = self.leaks(text)
                self.assertEqual(result.returncode, status, result.stderr)
                self.assertIn(words, result.stdout)

    def test_what_cannot_be_measured_is_neither(self):
        for text, words in [
            ("raise RuntimeError('no data')", "no data"),
            ("x = 1", "defines no function handle"),
            ("def handle(event, context): raise RuntimeError('bad day')", "every call raised an exception"),
        ]:
            with self.subTest(text):
                result = self.leaks(text)
                self.assertEqual(result.returncode, leaks.FAILED)
                self.assertIn(words, result.stderr)

    def test_threads_processes_and_temporary_files_are_counted_and_ended(self):
        result = self.leaks(
            "import subprocess, tempfile, threading, time\n"
            "def handle(event, context):\n"
            "    print('noise')\n"
            "    threading.Thread(target=time.sleep, args=(1000,)).start()\n"
            "    subprocess.Popen(['sleep', '1000'])\n"
            "    open(tempfile.mkstemp(suffix='.csv')[1], 'w').close()\n",
            "--json",
        )
        self.assertEqual(result.returncode, leaks.LEAKS, result.stderr)
        report = json.loads(result.stdout)
        per_call = {count["what"]: count["per_call"] for count in report["counts"] if count["leaks"]}
        self.assertEqual(
            per_call, {"open files": 1, "threads": 1, "child processes": 1, "temporary files": 1}
        )

    def test_the_lines_of_a_file_are_bodies(self):
        bodies = os.path.join(self.directory, "bodies.jsonl")
        self.write("bodies.jsonl", "1\n\n2\n")
        result = self.leaks(
            "seen = set()\ndef handle(req):\n    seen.add(req)\n    assert seen <= {'1', '2'}, seen", "--body", bodies
        )
        self.assertEqual(result.returncode, leaks.CLEAN, result.stderr)

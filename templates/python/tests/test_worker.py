import contextlib
import io
import os
import socket
import threading
from unittest import mock

from graphene_function import channel as ch
from graphene_function import worker as sync_worker
from graphene_function.async_worker import AsyncWorker
from graphene_function.worker import Worker

from .support import HandlerTestCase


class WorkerTestCase(HandlerTestCase):
    """A worker in a thread, and the watchdog's end of its socket."""

    def start(self, text, worker=Worker, batch=False, many=1):
        near, far = socket.socketpair()
        near.settimeout(30)
        function = self.function(text)
        if function.style == "model":
            function.load(None)
        arguments = (function, ch.Channel(far)) if worker is Worker else (function, ch.Channel(far), many)
        thread = threading.Thread(target=worker(*arguments).run)
        thread.start()
        self.addCleanup(far.close)
        self.addCleanup(thread.join)
        self.addCleanup(near.close)
        self.channel = ch.Channel(near)
        kind, _, payload = self.channel.read()
        self.assertEqual(kind, ch.READY)
        ready = ch.parse_document(payload)
        want = {"async": worker is AsyncWorker, "batch": batch, "many": many, "pid": os.getpid()}
        if worker is Worker:
            want["recall"] = True
        self.assertEqual(ready, want)

    def request(self, ident, body=b"", flags=ch.LAST, **meta):
        request = {"method": "GET", "path": "/", "query": "", "headers": [], "call_id": "", **meta}
        self.channel.send(ch.REQUEST, ident, ch.request(flags, 0, ch.document(request), body))

    def answer(self, ident):
        """Return status, body and the last frame's type."""
        status, body = 0, b""
        while True:
            kind, got, payload = self.channel.read()
            self.assertEqual(got, ident)
            if kind == ch.RESPONSE:
                flags, meta, body = ch.parse_answer(payload)
                status = meta["status"]
                if flags & ch.LAST:
                    return status, body, kind
            elif kind == ch.DATA:
                body += payload
                self.channel.send(ch.CREDIT, ident, ch.credit(len(payload)))
            elif kind in (ch.END, ch.ERROR):
                return status, body, kind


class SyncWorkerTest(WorkerTestCase):
    def test_small_calls_are_one_frame_each_way(self):
        self.start("def handle(event, context): return event.body + context.call_id.encode()")
        for ident in (1, 2):
            self.request(ident, b"x", call_id="c")
            self.assertEqual(self.answer(ident), (200, b"xc", ch.RESPONSE))

    def test_large_bodies_wait_for_credit(self):
        self.start("def handle(event, context): return event.body * 3")
        body = bytes(range(256)) * 1000
        self.request(1, body[:100], flags=0)
        sent, credit = 100, ch.WINDOW
        while sent < len(body):
            piece = body[sent : sent + min(ch.PIECE, credit)]
            self.channel.send(ch.DATA, 1, piece)
            sent, credit = sent + len(piece), credit - len(piece)
            while credit < ch.PIECE and sent < len(body):
                kind, _, payload = self.channel.read()
                self.assertEqual(kind, ch.CREDIT)
                credit += ch.parse_credit(payload)
        self.channel.send(ch.END, 1)
        self.assertEqual(self.answer(1), (200, body * 3, ch.END))

    def test_at_most_a_window_is_sent_without_credit(self):
        self.start("def handle(event, context): return b'x' * 1_000_000")
        self.request(1)
        received = 0
        while received < ch.WINDOW:
            kind, _, payload = self.channel.read()
            if kind == ch.DATA:
                received += len(payload)
        self.channel.sock.settimeout(0.05)
        with self.assertRaises(ch.Closed):
            self.channel.read()
        self.channel.sock.settimeout(30)
        self.channel.send(ch.CANCEL, 1)
        self.assertEqual(self.channel.read()[0], ch.ERROR)

    def test_exceptions_are_told_without_details(self):
        self.start(
            "import sys\ndef handle(event, context):\n    if event.path == '/exit': sys.exit(1)\n    raise KeyError('secret')"
        )
        for ident, (path, name) in enumerate([("/", "KeyError"), ("/exit", "SystemExit")], 1):
            log = io.StringIO()
            with contextlib.redirect_stderr(log):
                self.request(ident, path=path)
                kind, _, payload = self.channel.read()
            self.assertEqual(kind, ch.ERROR)
            self.assertEqual(ch.parse_document(payload)["message"], f"the function raised {name}; its log says more")
            self.assertIn(name, log.getvalue())

    def test_a_generator_that_fails_at_once_is_an_error(self):
        self.start("def handle(event, context):\n    raise ValueError\n    yield")
        with contextlib.redirect_stderr(io.StringIO()):
            self.request(1)
            self.assertEqual(self.answer(1), (0, b"", ch.ERROR))

    def test_a_body_that_was_cut_is_an_exception_for_who_reads_it(self):
        self.start("def handle(event, context): return event.body")
        with contextlib.redirect_stderr(io.StringIO()) as log:
            self.request(1, b"half", flags=0)
            self.channel.send(ch.END, 1, b"gone")
            self.assertEqual(self.answer(1), (0, b"", ch.ERROR))
        self.assertIn("the caller left", log.getvalue())

    def test_frames_about_calls_that_are_over_are_ignored(self):
        self.start("def handle(event, context): return 'ok'")
        self.request(1, flags=0)
        self.assertEqual(self.answer(1)[1], b"ok")
        self.channel.send(ch.DATA, 1, b"late")
        self.channel.send(ch.END, 1)
        self.channel.send(ch.CANCEL, 1)
        self.request(2)
        self.assertEqual(self.answer(2)[1], b"ok")


    def test_a_call_that_came_behind_another_is_kept_until_that_is_over(self):
        self.start(
            "def handle(event, context):\n"
            "    if event.path != '/stream': return event.path\n"
            "    def pieces():\n"
            "        yield event.path\n"
            "        for piece in event.stream(): yield piece\n"
            "    return pieces()"
        )
        self.request(1, path="/stream", flags=0)
        kind, _, payload = self.channel.read()
        self.assertEqual((kind, ch.parse_answer(payload)[2]), (ch.RESPONSE, b"/stream"))
        self.request(2, path="/second")
        self.channel.send(ch.DATA, 1, b"piece")
        self.channel.send(ch.END, 1)
        frames = []
        while ch.END not in frames:
            kind, ident, _ = self.channel.read()
            self.assertEqual(ident, 1)
            frames.append(kind)
        self.assertEqual(sorted(frames), [ch.DATA, ch.END, ch.CREDIT])
        self.assertEqual(self.answer(2), (200, b"/second", ch.RESPONSE))

    def start_waiting(self, then):
        """Start a worker whose first call is in the handler; return what lets it go on."""
        begun, begin = os.pipe()
        gate, opened = os.pipe()
        for end in (begun, begin, gate, opened):
            self.addCleanup(os.close, end)
        self.start(
            "import os\n"
            "def handle(event, context):\n"
            "    if event.path == '/wait':\n"
            f"        os.write({begin}, b'.')\n"
            f"        os.read({gate}, 1)\n"
            f"    {then}"
        )
        self.request(1, path="/wait")
        os.read(begun, 1)
        return lambda: os.write(opened, b".")

    def test_a_call_that_is_cancelled_or_recalled_before_it_begins_is_dropped(self):
        for kind in (ch.CANCEL, ch.RECALL):
            with self.subTest(kind), mock.patch.object(sync_worker, "_STALE", -1):  # looks before each call
                go_on = self.start_waiting("return event.path")
                self.request(2)
                self.channel.send(kind, 2)
                self.request(3, path="/3")
                go_on()
                self.assertEqual(self.answer(1)[1], b"/wait")
                self.assertEqual(self.channel.read(), (ch.DROPPED, 2, b""))
                self.assertEqual(self.answer(3)[1], b"/3")

    def test_a_call_that_is_recalled_when_it_has_begun_goes_on(self):
        go_on = self.start_waiting("return str(context.cancelled)")
        self.channel.send(ch.RECALL, 1)
        go_on()
        self.assertEqual(self.answer(1)[1], b"False")

    def test_a_call_knows_its_deadline_and_its_id(self):
        self.start("import time\ndef handle(event, context): return f'{context.call_id} {0 < context.remaining() < 9}'")
        document = ch.document({"method": "GET", "path": "/", "query": "", "headers": [], "call_id": "c-1"})
        self.channel.send(ch.REQUEST, 1, ch.request(ch.LAST, 8000, document, b""))
        self.assertEqual(self.answer(1)[1], b"c-1 True")


class AsyncWorkerTest(WorkerTestCase):
    def test_calls_overlap(self):
        self.start(
            "import asyncio\nsecond = None\n"
            "async def handle(event, context):\n"
            "    global second\n"
            "    second = second or asyncio.Event()\n"
            "    if event.path == '/1': await second.wait()\n"
            "    second.set()\n"
            "    return event.path",
            AsyncWorker,
        )
        self.request(1, path="/1")
        self.request(2, path="/2")
        bodies = {}
        for _ in range(2):
            _, ident, payload = self.channel.read()
            bodies[ident] = ch.parse_answer(payload)[2]
        self.assertEqual(bodies, {1: b"/1", 2: b"/2"})

    def test_cancel_ends_a_call(self):
        self.start("import asyncio\nasync def handle(event, context): await asyncio.sleep(1000)", AsyncWorker)
        self.request(1)
        self.channel.send(ch.CANCEL, 1)
        self.assertEqual(self.answer(1), (0, b"", ch.ERROR))

    def test_async_generators_stream(self):
        self.start("async def handle(event, context):\n    for i in range(3): yield str(i) * 100_000", AsyncWorker)
        self.request(1)
        want = b"".join(str(i).encode() * 100_000 for i in range(3))
        self.assertEqual(self.answer(1), (200, want, ch.END))

    def test_large_requests_arrive_whole(self):
        self.start("async def handle(event, context): return str(len(event.body))", AsyncWorker)
        self.request(1, b"x" * 10, flags=0)
        for _ in range(4):
            self.channel.send(ch.DATA, 1, b"y" * ch.PIECE)
        self.channel.send(ch.END, 1)
        for _ in range(4):
            self.assertEqual(self.channel.read()[0], ch.CREDIT)
        self.assertEqual(self.answer(1)[1], str(10 + 4 * ch.PIECE).encode())

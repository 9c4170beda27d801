import contextlib
import io
import os
import socket
import sys
import threading
import unittest

from graphene_function import channel as ch
from graphene_function.output import CallIDStream
from graphene_function.threaded_worker import LineStream, ThreadedWorker

from .test_batch import BatchCase


class ThreadsTest(BatchCase):
    def setUp(self):
        super().setUp()
        for name in ("stdout", "stderr"):
            self.addCleanup(setattr, sys, name, getattr(sys, name))

    def threads(self, text, many=3, batch=False):
        self.start(text, ThreadedWorker, batch=batch, many=many)

    def test_calls_run_beside_each_other(self):
        self.threads(
            "import threading\nall = threading.Barrier(3)\n"
            "def handle(event, context):\n    all.wait()\n    return event.body + context.call_id.encode()"
        )
        for ident in (1, 2, 3):
            self.request(ident, b"x", call_id=str(ident))
        self.assertEqual(self.answers(3), {1: b"x1", 2: b"x2", 3: b"x3"})

    def test_a_slow_body_holds_up_nobody(self):
        self.threads("def handle(event, context): return event.body[::-1]")
        self.request(1, b"abc", flags=0)
        self.request(2, b"ab")
        self.assertEqual(self.answer(2), (200, b"ba", ch.RESPONSE))
        self.channel.send(ch.DATA, 1, b"def")
        self.assertEqual(self.channel.read(), (ch.CREDIT, 1, ch.credit(3)))
        self.channel.send(ch.END, 1)
        self.assertEqual(self.answer(1), (200, b"fedcba", ch.RESPONSE))

    def test_an_answer_without_credit_holds_up_nobody(self):
        self.threads("def handle(event, context): return b'x' * 500_000 if event.body else b'short'", many=2)
        self.request(1, b"long")
        received = 0
        kind, _, payload = self.channel.read()
        self.assertEqual(kind, ch.RESPONSE)
        while received < ch.WINDOW:
            kind, _, payload = self.channel.read()
            self.assertEqual(kind, ch.DATA)
            received += len(payload)
        self.request(2)
        self.assertEqual(self.answer(2), (200, b"short", ch.RESPONSE))
        self.channel.send(ch.CREDIT, 1, ch.credit(1 << 20))
        while kind != ch.END:
            kind, _, payload = self.channel.read()
            received += len(payload)
        self.assertEqual(received, 500_000)

    def test_a_cancelled_call_knows_and_others_do_not(self):
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.threads(
            "import os\ndef handle(event, context):\n"
            f"    os.write({write}, b'.')\n"
            "    while not context.cancelled: pass\n"
            "    return 'seen'",
            many=2,
        )
        for ident in (1, 2):
            self.request(ident)
            os.read(read, 1)
        self.channel.send(ch.CANCEL, 2)
        self.assertEqual(self.answer(2)[1], b"seen")
        self.channel.send(ch.CANCEL, 1)
        self.assertEqual(self.answer(1)[1], b"seen")

    def test_batches_run_beside_calls(self):
        self.threads(
            "import threading\nboth = threading.Barrier(2)\n"
            "def handle(event, context):\n    both.wait()\n    return b'one'\n"
            "def handle_batch(events):\n    both.wait()\n    return [e.body for e in events]",
            many=2,
            batch=True,
        )
        self.batch(b"a", b"b")
        self.request(3)
        self.assertEqual(self.answers(3), {1: b"a", 2: b"b", 3: b"one"})

    def test_more_calls_than_threads_wait_for_one(self):
        self.threads("def handle(event, context): return event.body", many=2)
        for ident in range(1, 50):
            self.request(ident, b"%d" % ident)
        self.assertEqual(self.answers(49), {ident: b"%d" % ident for ident in range(1, 50)})

    def test_whatever_is_raised_is_an_answer(self):
        self.threads("def handle(event, context): raise eval(event.body)", many=1)
        with contextlib.redirect_stderr(io.StringIO()):
            for ident, name in enumerate(("SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException"), 1):
                self.request(ident, name.encode())
                self.assertIn(name, self.answers(1)[ident].decode())

    def test_the_end_of_the_socket_is_the_end_of_everything(self):
        near, far = socket.socketpair()
        function = self.function("def handle(event, context): return event.body")
        worker = threading.Thread(target=ThreadedWorker(function, ch.Channel(far), 3).run)
        worker.start()
        self.channel = ch.Channel(near)
        self.channel.read()
        self.request(1, b"half of a body", flags=0)
        near.close()
        worker.join(30)
        far.close()
        self.assertFalse(worker.is_alive())


class LineStreamTest(unittest.TestCase):
    def test_lines_of_threads_are_not_mixed(self):
        out = io.StringIO()
        stream = LineStream(out)
        turn = threading.Barrier(2)

        def write(letter):
            for _ in range(100):
                for _ in range(3):
                    stream.write(letter)
                    turn.wait()
                stream.write("\n")

        threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(out.getvalue().split()), ["aaa"] * 100 + ["bbb"] * 100)

    def test_what_is_no_line_comes_with_a_flush_or_when_it_is_long(self):
        out = io.StringIO()
        stream = LineStream(CallIDStream(out))
        stream.write("begin")
        self.assertEqual(out.getvalue(), "")
        stream.flush()
        self.assertEqual(out.getvalue(), "begin")
        stream.write("x" * 100_000)
        self.assertEqual(len(out.getvalue()), 100_005)

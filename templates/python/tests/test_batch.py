import contextlib
import io
import os
import select

from graphene_function import channel as ch
from graphene_function.async_worker import AsyncWorker
from graphene_function.loading import LoadError

from .test_worker import WorkerTestCase

DOUBLE = """
def handle(event, context): return b'one ' + event.body
def handle_batch(events, context):
    return [b'%d of %d' % (i + 1, len(events)) for i, _ in enumerate(events)]
"""


class BatchCase(WorkerTestCase):
    """A test with batches."""

    def batch(self, *bodies, first=1, **meta):
        self.channel.send(ch.BATCH, 0, ch.credit(len(bodies)))
        for ident, body in enumerate(bodies, first):
            self.request(ident, body, **meta)

    def answers(self, count):
        """Return body or error message by id."""
        found = {}
        for _ in range(count):
            kind, ident, payload = self.channel.read()
            found[ident] = (
                ch.parse_document(payload)["message"].encode() if kind == ch.ERROR else ch.parse_answer(payload)[2]
            )
        return found


class BatchTest(BatchCase):
    def test_a_batch_is_one_call_and_many_answers(self):
        self.start(DOUBLE, batch=True)
        self.batch(b"a", b"b", b"c")
        self.assertEqual(self.answers(3), {1: b"1 of 3", 2: b"2 of 3", 3: b"3 of 3"})
        self.request(4, b"alone")
        self.assertEqual(self.answers(1), {4: b"one alone"})

    def test_an_exception_among_the_answers_fails_its_event_alone(self):
        self.start(
            "def handle(event, context): pass\n"
            "def handle_batch(events): return [ValueError('bad') if e.body == b'bad' else e.body for e in events]",
            batch=True,
        )
        with contextlib.redirect_stderr(io.StringIO()) as log:
            self.batch(b"good", b"bad")
            self.assertEqual(
                self.answers(2), {1: b"good", 2: b"the function raised ValueError; its log says more"}
            )
        self.assertIn("ValueError: bad", log.getvalue())

    def test_a_batch_that_fails_is_repeated_one_by_one(self):
        for batch in ("return [e.body[:1] + 1 for e in events]", "return []", "import sys; sys.exit(1)"):
            with self.subTest(batch), contextlib.redirect_stderr(io.StringIO()):
                self.start(
                    "def handle(event, context): return str(1 / int(event.body))\n"
                    f"def handle_batch(events, context): {batch}",
                    batch=True,
                )
                self.batch(b"1", b"0", b"2")
                message = b"the function raised ZeroDivisionError; its log says more"
                self.assertEqual(self.answers(3), {1: b"1.0", 2: message, 3: b"0.5"})

    def test_items_that_nobody_waits_for_are_dropped(self):
        self.start(DOUBLE, batch=True)
        self.channel.send(ch.BATCH, 0, ch.credit(3))
        self.request(1)
        self.request(2)
        self.channel.send(ch.CANCEL, 2)
        self.request(3)
        self.assertEqual(self.answers(3), {1: b"1 of 2", 2: b"cancelled", 3: b"2 of 2"})

    def test_answers_of_a_batch_may_be_large_and_may_stream(self):
        self.start(
            "def handle(event, context): pass\n"
            "def handle_batch(events): return [b'x' * 200_000, (str(i) for i in range(3))]",
            batch=True,
        )
        self.batch(b"", b"")
        self.assertEqual(self.answer(1), (200, b"x" * 200_000, ch.END))
        self.assertEqual(self.answer(2), (200, b"012", ch.END))

    def test_models_and_texts_are_given_as_to_handle(self):
        self.start(
            "def load(context): return 'm'\ndef handle(model, event, context): pass\n"
            "def handle_batch(model, events, context): return [model + e.body.decode() for e in events]",
            batch=True,
        )
        self.batch(b"a", b"b")
        self.assertEqual(self.answers(2), {1: b"ma", 2: b"mb"})
        self.start("def handle(req): pass\ndef handle_batch(reqs): return [r.upper() for r in reqs]", batch=True)
        self.batch(b"a", b"b")
        self.assertEqual(self.answers(2), {1: b"A", 2: b"B"})

    def test_contracts_that_cannot_be_kept_are_refused(self):
        for text, message in [
            ("async def handle(event, context): pass\nasync def handle_batch(a, b, c): pass", "takes 3 arguments"),
            ("def handle(event, context): pass\ndef handle_batch(a, b, c): pass", "takes 3 arguments"),
            ("def handle(req): pass\ndef handle_batch(a, b): pass", "takes 2 arguments"),
        ]:
            with self.subTest(text), self.assertRaisesRegex(LoadError, message):
                self.function(text)


class AsyncBatchTest(BatchCase):
    def test_either_handler_may_be_async(self):
        for handle, batch in (("async ", "async "), ("async ", ""), ("", "async ")):
            with self.subTest(handle=handle, batch=batch):
                self.start(
                    f"{handle}def handle(event, context): return b'one ' + event.body\n"
                    f"{batch}def handle_batch(events, context): return [e.body * len(events) for e in events]",
                    AsyncWorker,
                    batch=True,
                )
                self.request(9, b"a")
                self.assertEqual(self.answers(1), {9: b"one a"})
                self.batch(b"a", b"b")
                self.assertEqual(self.answers(2), {1: b"aa", 2: b"bb"})

    def test_one_poisoned_event_fails_alone(self):
        for batch in ("raise ValueError('all of it')", "return [ValueError('bad')] + [e.body for e in events[1:]]"):
            with self.subTest(batch), contextlib.redirect_stderr(io.StringIO()):
                self.start(
                    "async def handle(event, context): return str(1 / int(event.body))\n"
                    f"async def handle_batch(events): {batch}",
                    AsyncWorker,
                    batch=True,
                )
                self.batch(b"0", b"1")
                found = self.answers(2)
                self.assertIn(b"the function raised", found[1])
                self.assertIn(found[2], (b"1", b"1.0"))

    def test_a_call_that_nobody_waits_for_is_not_in_the_batch(self):
        self.start(
            "async def handle(event, context): pass\n"
            "async def handle_batch(events): return [b'%d' % len(events) for e in events]",
            AsyncWorker,
            batch=True,
        )
        frames = ch.frame(ch.BATCH, 0, ch.credit(3))
        for ident in (1, 2, 3):
            head = ch.document({"method": "GET", "path": "/", "query": "", "headers": [], "call_id": ""})
            frames += ch.frame(ch.REQUEST, ident, ch.request(ch.LAST, 0, head, b""))
        self.channel.write(frames + ch.frame(ch.CANCEL, 2))
        self.assertEqual(self.answers(3), {1: b"2", 2: b"cancelled", 3: b"2"})

    def test_a_batch_ends_when_the_last_caller_has_left_and_not_before(self):
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.start(
            "import asyncio, os\nasync def handle(event, context): return 'next'\n"
            "async def handle_batch(events):\n"
            f"    os.write({write}, b'.')\n"
            "    try: await asyncio.sleep(1000)\n"
            f"    finally: os.write({write}, b'!')",
            AsyncWorker,
            batch=True,
        )
        self.batch(b"a", b"b")
        self.assertEqual(os.read(read, 1), b".")
        self.channel.send(ch.CANCEL, 1)
        self.request(3)
        self.assertEqual(self.answers(1), {3: b"next"})
        self.assertEqual(select.select([read], [], [], 0)[0], [])
        self.channel.send(ch.CANCEL, 2)
        self.assertEqual(self.answers(2), {1: b"cancelled", 2: b"cancelled"})
        self.assertEqual(os.read(read, 1), b"!")

    def test_batches_run_beside_each_other(self):
        self.start(
            "import asyncio\nbegun = []\nasync def handle(event, context): pass\n"
            "async def handle_batch(events):\n"
            "    begun.append(1)\n"
            "    while len(begun) < 2: await asyncio.sleep(0.001)\n"
            "    return [e.body for e in events]",
            AsyncWorker,
            batch=True,
            many=2,
        )
        self.batch(b"a", b"b")
        self.batch(b"c", b"d", first=3)
        self.assertEqual(self.answers(4), {1: b"a", 2: b"b", 3: b"c", 4: b"d"})


class CancelledTest(WorkerTestCase):
    def test_a_handler_may_ask_whether_anybody_waits(self):
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.start(
            "import os\ndef handle(event, context):\n"
            f"    os.write({write}, b'.')\n"
            "    while not context.cancelled: pass\n"
            "    return 'seen'"
        )
        for ident in (1, 2):
            self.request(ident)
            os.read(read, 1)
            self.channel.send(ch.CANCEL, ident)
            self.assertEqual(self.answer(ident)[1], b"seen")

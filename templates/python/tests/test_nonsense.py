import contextlib
import functools
import io
import random
import socket
import threading
import unittest

from graphene_function import channel as ch
from graphene_function.async_worker import AsyncWorker
from graphene_function.threaded_worker import ThreadedWorker
from graphene_function.worker import Worker

from .support import HandlerTestCase

KINDS = [ch.REQUEST, ch.DATA, ch.END, ch.CREDIT, ch.CANCEL, ch.BATCH, 0, 99]


def nonsense(source):
    """Return a stream of frames of which some are right, some cut, some anything."""
    request = ch.document({"method": "POST", "path": "/", "query": "", "headers": [["A", "b"]]})
    frames = []
    for _ in range(source.randrange(1, 8)):
        kind = source.choice(KINDS)
        payload = source.choice(
            [
                b"",
                ch.credit(source.randrange(4)),
                ch.request(source.randrange(2), 0, request, source.randbytes(source.randrange(50))),
                ch.request(ch.LAST, 5, source.choice([b"{}", b"[]", b"null", b"\xff", request[:9]]), b""),
                source.randbytes(source.randrange(40)),
            ]
        )
        frames.append(ch.frame(kind, source.randrange(3), payload))
    stream = b"".join(frames)
    return stream if source.random() < 0.7 else stream[: source.randrange(len(stream))] + source.randbytes(5)


class NonsenseTest(HandlerTestCase):
    def test_whatever_comes_a_worker_ends_with_its_socket(self):
        plain = "def handle(event, context): return event.body\n"
        batches = plain + "def handle_batch(events): return [e.body for e in events]"
        for name, worker, handler in (
            ("one call at a time", Worker, batches),
            ("many", AsyncWorker, "async " + plain),
            ("many batches", AsyncWorker, batches.replace("def ", "async def ")),
            ("threads", functools.partial(ThreadedWorker, many=3), batches),
        ):
            function = self.function(handler)
            for seed in range(150):
                with self.subTest(name, seed=seed), contextlib.redirect_stdout(io.StringIO()):
                    with contextlib.redirect_stderr(io.StringIO()):
                        self.feed(worker, function, nonsense(random.Random(seed)))

    def feed(self, worker, function, stream):
        raised = []

        def run():
            try:
                worker(function, ch.Channel(far)).run()
            except BaseException as err:
                raised.append(err)

        near, far = socket.socketpair()
        thread = threading.Thread(target=run, daemon=True)
        with near, far:
            thread.start()
            with contextlib.suppress(OSError):
                near.sendall(stream)
                near.shutdown(socket.SHUT_WR)
            thread.join(10)
        self.assertFalse(thread.is_alive())
        self.assertEqual(raised, [])


if __name__ == "__main__":
    unittest.main()

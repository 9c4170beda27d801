"""A worker that answers several calls at a time, each in a thread of its own.

The main thread reads the socket and sorts what comes by call; the others each
run a :class:`~graphene_function.worker.Worker` on what there is for them.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading

from . import channel as ch
from . import output
from .worker import Worker, greet, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from .loading import Function

    # The frames of one call or batch, in order; None is the end of the socket.
    Inbox = queue.SimpleQueue["tuple[int, int, bytes] | None"]

_LINE = 8 << 10  # characters of a line that are kept until it is whole


class ThreadedWorker:
    """Answers calls from a channel, so many at a time."""

    def __init__(self, function: Function, channel: ch.Channel, many: int) -> None:
        self._function = function
        self._channel = channel
        self._shared = _Shared()
        self._lanes = [_Lane(channel, self._shared) for _ in range(many)]

    def run(self) -> None:
        """Answer calls until the socket is closed."""
        sys.stdout, sys.stderr = LineStream(sys.stdout), LineStream(sys.stderr)
        threads = [
            threading.Thread(target=self._serve, args=(lane,), name=f"call-{i}")
            for i, lane in enumerate(self._lanes, 1)
        ]
        for thread in threads:
            thread.start()
        greet(self._channel, self._function, len(threads))
        try:
            self._sort()
        except ch.Closed:
            pass
        self._shared.closed = True
        for lane in self._lanes:
            lane.wake()
            self._shared.calls.put(None)
        for thread in threads:
            thread.join()

    def _sort(self) -> None:
        """Give every frame to the thread that waits for it."""
        batch: Inbox | None = None  # the batch that is arriving
        missing = 0  # how many of its calls are still to come
        while True:
            kind, ident, payload = frame = self._channel.read()
            if kind == ch.BATCH:
                batch, missing = queue.SimpleQueue(), ch.parse_credit(payload)
                batch.put(frame)
                self._shared.calls.put(batch)
            elif kind == ch.REQUEST:
                inbox: Inbox = queue.SimpleQueue() if missing == 0 or batch is None else batch
                self._shared.inboxes[ident] = inbox
                inbox.put(frame)
                if inbox is batch:
                    missing -= 1
                else:
                    self._shared.calls.put(inbox)
            else:
                found = self._shared.inboxes.get(ident)
                if found is not None:  # else it is over
                    found.put(frame)

    def _serve(self, lane: _Lane) -> None:
        try:
            Worker(self._function, lane).serve()
        except BaseException as err:  # not the handler's, which are answers: nobody would answer this thread's calls
            report(err)
            os._exit(1)
        # One that has read what cannot be read ends them all, as it would end a worker without threads.
        with contextlib.suppress(OSError):
            self._channel.sock.shutdown(socket.SHUT_RDWR)


class _Shared:
    """What the threads have in common."""

    def __init__(self) -> None:
        self.writing = threading.Lock()
        self.inboxes: dict[int, Inbox] = {}  # by call
        self.calls: queue.SimpleQueue[Inbox | None] = queue.SimpleQueue()  # that no thread has begun
        self.closed = False  # nothing more will come


class _Lane(ch.Channel):
    """What one thread sees of the socket: one call or batch after the other."""

    def __init__(self, channel: ch.Channel, shared: _Shared) -> None:
        super().__init__(channel.sock)
        self._shared = shared
        self._inbox: Inbox | None = None
        self._idents: list[int] = []  # of the calls in the inbox

    def wake(self) -> None:
        """Have the thread see that nothing more will come."""
        inbox = self._inbox
        if inbox is not None:
            inbox.put(None)

    def write(self, frames: bytes) -> None:
        with self._shared.writing:
            super().write(frames)

    def next_call(self) -> tuple[int, int, bytes]:
        for ident in self._idents:
            self._shared.inboxes.pop(ident, None)
        self._idents.clear()
        sys.stdout.flush()
        sys.stderr.flush()
        self._inbox = self._shared.calls.get()
        return self.read()

    def read(self) -> tuple[int, int, bytes]:
        # In this order: whoever sets closed afterwards finds the inbox and wakes us.
        inbox = self._inbox
        frame = inbox.get() if inbox is not None and not (self._shared.closed and inbox.empty()) else None
        if frame is None:
            raise ch.Closed("end of stream")
        if frame[0] == ch.REQUEST:
            self._idents.append(frame[1])
        return frame

    def holds(self) -> bool:
        return self.buffered()

    def buffered(self) -> bool:
        return self._inbox is not None and not self._inbox.empty()

    def incoming(self) -> bool:
        return self.buffered()


class LineStream(output.Wrapped):
    """A text stream that several threads may write to: each one's lines go out whole."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._begun = threading.local()

    def write(self, text: str, /) -> int:
        line = getattr(self._begun, "line", "") + text
        end = line.rfind("\n") + 1 if len(line) < _LINE else len(line)
        if end:
            self._stream.write(line[:end])
        self._begun.line = line[end:]
        return len(text)

    def flush(self) -> None:
        line = getattr(self._begun, "line", "")
        if line:
            self._begun.line = ""
            self._stream.write(line)
        super().flush()

"""A worker: one process that answers calls, one after the other.

It speaks with the watchdog alone, over a socket of its own, and ends when that
is closed. What a handler prints goes to standard output, never into frames.
"""

from __future__ import annotations

import functools
import os
import select
import sys
import time

from . import channel as ch
from .event import Context, Event
from .output import current_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .event import Body
    from .loading import Function
    from .response import Response


class Cancelled(Exception):
    """Nobody waits for the answer any more."""


class BodyLost(ConnectionError):
    """The rest of a request's body will not come, because the caller has left."""


class Worker:
    """Answers calls from a channel, strictly in order."""

    def __init__(self, function: Function, channel: ch.Channel) -> None:
        self._function = function
        self._channel = channel
        self._id = 0  # of the call being answered
        self._credit = 0  # bytes of the answer that may be sent
        self._arrived: list[bytes | None] = []  # pieces of the body not yet asked for; None is its end

    def run(self) -> None:
        """Answer calls until the socket is closed."""
        self._channel.send(ch.READY, 0, ch.document({"async": False, "pid": os.getpid()}))
        try:
            while True:
                kind, ident, payload = self._channel.read()
                # Everything else belongs to calls that are over.
                if kind == ch.REQUEST:
                    self._serve(ident, payload)
        except ch.Closed:
            return

    def _serve(self, ident: int, payload: bytes) -> None:
        flags, meta, first = ch.parse_message(payload)
        self._id, self._credit, self._arrived = ident, ch.WINDOW, []
        event, context = make_event(meta, first if flags & ch.LAST else _ArrivingBody(first, self._next_piece))
        current_call.set(context.call_id)
        try:
            response = self._function.respond(self._function.call(event, context))
            content = response.body
            if not isinstance(content, bytes):
                self._stream(response, content)
            elif len(content) <= ch.WHOLE:
                self._channel.send(ch.RESPONSE, ident, ch.message(ch.LAST, head(response), content))
            else:
                length = ("Content-Length", str(len(content)))
                response.headers = [h for h in response.headers if h[0].lower() != "content-length"] + [length]
                self._channel.send(ch.RESPONSE, ident, ch.message(0, head(response), b""))
                self._send_data(content)
                self._channel.send(ch.END, ident)
        except Cancelled:
            self._channel.send(ch.ERROR, ident, ch.document({"message": "cancelled"}))
        except ch.Closed:
            raise
        except BaseException as err:  # SystemExit too: a handler does not end its worker
            self._channel.send(ch.ERROR, ident, ch.document({"message": report(err)}))
        finally:
            current_call.set("")

    def _stream(self, response: Response, pieces: Any) -> None:
        if not hasattr(pieces, "__next__"):
            raise TypeError("an async iterator as a body needs an async handler")
        try:
            # The first piece goes along with the headers, so that a generator
            # that fails at its start is still an error and not half an answer.
            first = next(pieces, b"")
            early, late = first[: ch.WHOLE], first[ch.WHOLE :]
            self._channel.send(ch.RESPONSE, self._id, ch.message(0, head(response), early))
            self._send_data(late)
            for piece in pieces:
                self._send_data(piece)
        finally:
            pieces.close()
        self._channel.send(ch.END, self._id)

    def _send_data(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            while self._credit == 0 or self._incoming():
                self._take()
            piece = view[: min(ch.PIECE, self._credit)]
            self._channel.send(ch.DATA, self._id, bytes(piece))
            self._credit -= len(piece)
            view = view[len(piece) :]
        while self._incoming():
            self._take()

    def _incoming(self) -> bool:
        """Say whether a frame can be read without waiting for long."""
        return self._channel.buffered() or bool(select.select([self._channel], [], [], 0)[0])

    def _take(self) -> None:
        """Wait for a frame about the call being answered, and note what it says."""
        kind, ident, payload = self._channel.read()
        if ident != self._id:
            return
        if kind == ch.DATA:
            self._arrived.append(payload)
        elif kind == ch.END:
            self._arrived.append(None)
            if payload:
                raise BodyLost("the caller left before the request was whole")
        elif kind == ch.CREDIT:
            self._credit += ch.parse_credit(payload)
        elif kind == ch.CANCEL:
            raise Cancelled

    def _next_piece(self) -> bytes | None:
        """Return the next piece of the request's body, None at its end."""
        while not self._arrived:
            self._take()
        piece = self._arrived.pop(0)
        if piece is not None:
            self._channel.send(ch.CREDIT, self._id, ch.credit(len(piece)))
        return piece


class _ArrivingBody:
    """A body whose rest is still to come."""

    def __init__(self, first: bytes, next_piece: Any) -> None:
        self._data = first
        self._next_piece = next_piece
        self._whole = False
        self._streamed = False

    def read(self) -> bytes:
        if not self._whole:
            self._data = b"".join(self.chunks())
            self._whole = True
        return self._data

    def chunks(self) -> Iterator[bytes]:
        if self._whole:
            yield self._data
            return
        if self._streamed:
            raise RuntimeError("the body has been streamed already")
        self._streamed = True
        if self._data:
            yield self._data
        while True:
            piece = self._next_piece()
            if piece is None:
                return
            yield piece


def make_event(meta: dict[str, Any], body: bytes | Body) -> tuple[Event, Context]:
    """Make what a handler is given of what REQUEST says."""
    event = Event(body, meta["headers"], meta["method"], meta["query"], meta["path"])
    timeout = meta.get("timeout")
    deadline = None if timeout is None else time.time() + timeout
    return event, Context(meta.get("call_id", ""), deadline)


def head(response: Response) -> bytes:
    """Make what RESPONSE says of a response."""
    return _head(response.status, tuple(response.headers))


# Most answers of a function have the same head.
@functools.lru_cache(maxsize=64)
def _head(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    return ch.document({"status": status, "headers": headers})


def report(err: BaseException) -> str:
    """Log an exception of the handler; return what the caller may know of it."""
    import traceback

    sys.stderr.write("".join(traceback.format_exception(type(err), err, err.__traceback__)))
    sys.stderr.flush()
    return f"the function raised {type(err).__name__}; its log says more"

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
    from collections.abc import Callable, Iterator
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
        self._cut = False  # the end of the body is not its real end
        self._gone: set[int] = set()  # calls, this one or others of its batch, that nobody waits for

    def run(self) -> None:
        """Answer calls until the socket is closed."""
        ready = {"async": False, "batch": self._function.has_batch, "pid": os.getpid()}
        self._channel.send(ch.READY, 0, ch.document(ready))
        try:
            while True:
                kind, ident, payload = self._channel.read()
                # Everything else belongs to calls that are over.
                if kind == ch.REQUEST:
                    self._serve(ident, payload)
                elif kind == ch.BATCH:
                    self._serve_batch(ch.parse_credit(payload))
        except ch.Closed:
            return

    def _serve(self, ident: int, payload: bytes) -> None:
        flags, meta, first = ch.parse_message(payload)
        self._arrived, self._cut = [], False
        self._gone.clear()
        body = first if flags & ch.LAST else _ArrivingBody(first, self._next_piece)
        event, context = make_event(meta, body, self._cancelled)
        self._answer(ident, context.call_id, functools.partial(self._function.call, event, context))

    def _serve_batch(self, count: int) -> None:
        """Answer as many requests as follow, by one call of ``handle_batch``."""
        self._gone.clear()
        calls: dict[int, tuple[Event, Context]] = {}
        while len(calls) < count or self._incoming():
            kind, ident, payload = self._channel.read()
            if kind == ch.REQUEST:
                _, meta, body = ch.parse_message(payload)
                calls[ident] = make_event(meta, body, functools.partial(self._cancelled, ident))
            elif kind == ch.CANCEL:
                self._gone.add(ident)
        wanted = [ident for ident in calls if ident not in self._gone]
        values: dict[int, Any] = {}
        if len(wanted) > 1:
            ids = [calls[ident][1].call_id for ident in wanted]
            current_call.set(f"{ids[0]}+{len(ids) - 1}")
            deadlines = [calls[ident][1].deadline for ident in wanted]
            first = min((d for d in deadlines if d is not None), default=None)
            try:
                answers = self._function.call_batch([calls[ident][0] for ident in wanted], Context(deadline=first))
                values = dict(zip(wanted, answers))
            except BaseException as err:  # what remains is to find out whose fault it is, one by one
                report(err)
        for ident, (event, context) in calls.items():
            if ident in values:
                produce = functools.partial(_result, values[ident])
            else:
                produce = functools.partial(self._function.call, event, context)
            self._answer(ident, context.call_id, produce)

    def _answer(self, ident: int, call_id: str, produce: Callable[[], Any]) -> None:
        """Send what ``produce`` returns or raises as the answer of a call."""
        self._id, self._credit = ident, ch.WINDOW
        current_call.set(call_id)
        try:
            if ident in self._gone:
                raise Cancelled
            response = self._function.respond(produce())
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
                self._check()
            piece = view[: min(ch.PIECE, self._credit)]
            self._channel.send(ch.DATA, self._id, bytes(piece))
            self._credit -= len(piece)
            view = view[len(piece) :]
        while self._incoming():
            self._take()
            self._check()

    def _check(self) -> None:
        if self._id in self._gone:
            raise Cancelled

    def _cancelled(self, ident: int = 0) -> bool:
        """Say whether nobody waits for a call, by default the one being answered."""
        while self._incoming():
            self._take()
        return (ident or self._id) in self._gone

    def _incoming(self) -> bool:
        """Say whether a frame can be read without waiting for long."""
        return self._channel.buffered() or bool(select.select([self._channel], [], [], 0)[0])

    def _take(self) -> None:
        """Wait for a frame about the call being answered, and note what it says."""
        kind, ident, payload = self._channel.read()
        if kind == ch.CANCEL:
            self._gone.add(ident)
        elif ident != self._id:
            return
        elif kind == ch.DATA:
            self._arrived.append(payload)
        elif kind == ch.END:
            self._arrived.append(None)
            self._cut = bool(payload)
        elif kind == ch.CREDIT:
            self._credit += ch.parse_credit(payload)

    def _next_piece(self) -> bytes | None:
        """Return the next piece of the request's body, None at its end."""
        while not self._arrived:
            self._take()
            self._check()
        piece = self._arrived.pop(0)
        if piece is not None:
            self._channel.send(ch.CREDIT, self._id, ch.credit(len(piece)))
        elif self._cut:
            raise BodyLost("the caller left before the request was whole")
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


def make_event(meta: dict[str, Any], body: bytes | Body, cancelled: Callable[[], bool]) -> tuple[Event, Context]:
    """Make what a handler is given of what REQUEST says."""
    try:
        event = Event(body, meta["headers"], meta["method"], meta["query"], meta["path"])
    except (KeyError, TypeError) as err:
        raise ch.Closed(f"a request that cannot be read: {err!r}") from None
    timeout = meta.get("timeout")
    deadline = None if timeout is None else time.time() + timeout
    return event, Context(meta.get("call_id", ""), deadline, cancelled)


def _result(value: Any) -> Any:
    """Return what ``handle_batch`` answered for one event, or raise it."""
    if isinstance(value, BaseException):
        raise value
    return value


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

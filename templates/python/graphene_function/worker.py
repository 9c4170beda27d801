"""A worker: one process that answers calls, one after the other.

It speaks with the watchdog alone, over a socket of its own, and ends when that
is closed. What a handler prints goes to standard output, never into frames.
"""

from __future__ import annotations

import collections
import functools
import os
import sys
import time

from . import channel as ch
from .event import Context, Event
from .loading import batch_answers
from .output import current_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .event import Body
    from .loading import Function
    from .response import Response


# Seconds after which a look at what has come is too old to begin a call that has
# come before: it may have been cancelled, or recalled, which the watchdog relies on.
_STALE = 0.005


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
        self._begun = False  # the handler has been called with it, or is about to
        self._credit = 0  # bytes of the answer that may be sent
        self._arrived: list[bytes | None] = []  # pieces of the body not yet asked for; None is its end
        self._cut = False  # the end of the body is not its real end
        self._behind: collections.deque[tuple[int, bytes]] = collections.deque()  # calls that came meanwhile
        self._gone: set[int] = set()  # calls that nobody waits for here: this one, others of its batch, those behind
        self._held: list[bytes] | None = None  # answers of a batch that go out together

    def run(self) -> None:
        """Say that calls may come, and answer them until the socket is closed."""
        greet(self._channel, self._function, recall=True)
        self.serve()

    def serve(self) -> None:
        """Answer calls until the socket is closed."""
        channel, behind, gone = self._channel, self._behind, self._gone
        looked = 0.0  # at what has come
        try:
            while True:
                if behind:
                    ident, payload = behind.popleft()
                else:
                    gone.clear()
                    if not channel.holds():
                        looked = time.monotonic()
                    kind, ident, payload = channel.next_call()
                    if kind == ch.BATCH:
                        self._serve_batch(ch.parse_credit(payload))
                        continue
                    if kind != ch.REQUEST:
                        continue  # of a call that is over
                self._id, self._begun, self._arrived, self._cut = ident, False, [], False
                if channel.holds():
                    while channel.buffered():
                        self._take()
                now = time.monotonic()
                if now - looked > _STALE:
                    looked = now
                    self._notice()
                self._serve(ident, payload)
        except ch.Closed:
            return

    def _serve(self, ident: int, payload: bytes) -> None:
        if ident in self._gone:
            self._channel.send(ch.DROPPED, ident)
            return
        self._begun = True
        flags, milliseconds, head, first = ch.parse_request(payload)
        body = first if flags & ch.LAST else _ArrivingBody(first, self._next_piece)
        event = Event.arrived(head, body)
        deadline = time.time() + milliseconds / 1000 if milliseconds else None
        context = Context.of(event, deadline, self._cancelled)
        self._answer(ident, context, self._function.call, event, context)

    def _serve_batch(self, count: int) -> None:
        """Answer as many requests as follow, by one call of ``handle_batch``."""
        calls: dict[int, tuple[Event, Context]] = {}
        while len(calls) < count or self._channel.incoming():
            kind, ident, payload = self._channel.read()
            if kind == ch.REQUEST:
                calls[ident] = make_event(payload, functools.partial(self._cancelled, ident))
            elif kind == ch.CANCEL:
                self._gone.add(ident)
        wanted = [ident for ident in calls if ident not in self._gone]
        values: dict[int, Any] = {}
        if len(wanted) > 1:
            contexts = [calls[ident][1] for ident in wanted]
            current_call.set(Context(f"{contexts[0].call_id}+{len(contexts) - 1}"))
            try:
                answers = self._function.call_batch([calls[ident][0] for ident in wanted], together(contexts))
                values = dict(zip(wanted, batch_answers(answers, len(wanted))))
            except BaseException as err:  # what remains is to find out whose fault it is, one by one
                report(err)
        # What is known goes out together; what has to be found out may take long.
        self._held = []
        for ident, value in values.items():
            self._answer(ident, calls[ident][1], result, value)
        self._release()
        self._held = None
        for ident, (event, context) in calls.items():
            if ident not in values:
                self._answer(ident, context, self._function.call, event, context)

    def _answer(self, ident: int, context: Context, produce: Callable[..., Any], *arguments: Any) -> None:
        """Send what ``produce`` returns or raises as the answer of a call."""
        self._id, self._credit = ident, ch.WINDOW
        current_call.set(context)
        try:
            if ident in self._gone:
                raise Cancelled
            response = self._function.respond(produce(*arguments))
            content = response.body
            if not isinstance(content, bytes):
                self._stream(response, content)
            elif len(content) <= ch.WHOLE:
                self._send(ch.answer(ident, ch.LAST, head(response), content))
            else:
                length = ("Content-Length", str(len(content)))
                response.headers = [h for h in response.headers if h[0].lower() != "content-length"] + [length]
                self._send(ch.answer(ident, 0, head(response), b""))
                self._send_data(content)
                self._channel.send(ch.END, ident)
        except Cancelled:
            self._send(ch.frame(ch.ERROR, ident, ch.document({"message": "cancelled"})))
        except ch.Closed:
            raise
        except BaseException as err:  # SystemExit too: a handler does not end its worker
            self._send(ch.frame(ch.ERROR, ident, ch.document({"message": report(err)})))
        finally:
            current_call.set(None)

    def _send(self, frame: bytes) -> None:
        """Send a frame, or keep it for :meth:`_release`."""
        if self._held is None:
            self._channel.write(frame)
            return
        self._held.append(frame)
        if len(frame) > ch.PIECE:
            self._release()

    def _release(self) -> None:
        if self._held:
            self._channel.write(b"".join(self._held))
            self._held.clear()

    def _stream(self, response: Response, pieces: Any) -> None:
        if not hasattr(pieces, "__next__"):
            raise TypeError("an async iterator as a body needs an async handler")
        try:
            # The first piece goes along with the headers, so that a generator
            # that fails at its start is still an error and not half an answer.
            first = next(pieces, b"")
            early, late = first[: ch.WHOLE], first[ch.WHOLE :]
            self._send(ch.answer(self._id, 0, head(response), early))
            self._send_data(late)
            for piece in pieces:
                self._send_data(piece)
        finally:
            pieces.close()
        self._channel.send(ch.END, self._id)

    def _send_data(self, data: bytes) -> None:
        self._release()
        view = memoryview(data)
        while view:
            while self._credit == 0 or self._channel.incoming():
                self._take()
                self._check()
            piece = view[: min(ch.PIECE, self._credit)]
            self._channel.send(ch.DATA, self._id, bytes(piece))
            self._credit -= len(piece)
            view = view[len(piece) :]
        while self._channel.incoming():
            self._take()
            self._check()

    def _check(self) -> None:
        if self._id in self._gone:
            raise Cancelled

    def _cancelled(self, ident: int = 0) -> bool:
        """Say whether nobody waits for a call, by default the one being answered."""
        self._notice()
        return (ident or self._id) in self._gone

    def _notice(self) -> None:
        """Take what can be read without waiting for long."""
        while self._channel.incoming():
            self._take()

    def _take(self) -> None:
        """Wait for a frame about the call being answered or one behind it, and note what it says."""
        kind, ident, payload = self._channel.read()
        if kind == ch.REQUEST:
            self._behind.append((ident, payload))
        elif kind == ch.CANCEL:
            self._gone.add(ident)
        elif kind == ch.RECALL:
            if ident != self._id or not self._begun:
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


def greet(channel: ch.Channel, function: Function, many: int = 1, recall: bool = False) -> None:
    """Say that calls may come, so many at a time, and whether the worker keeps to the rule about RECALL."""
    said = {"async": function.is_async, "batch": function.has_batch, "many": many, "pid": os.getpid()}
    if recall:
        said["recall"] = True
    channel.send(ch.READY, 0, ch.document(said))


def make_event(payload: bytes, cancelled: Callable[[], bool]) -> tuple[Event, Context]:
    """Make what a handler is given of a REQUEST with a whole body."""
    _, milliseconds, head, body = ch.parse_request(payload)
    event = Event.arrived(head, body)
    return event, Context.of(event, time.time() + milliseconds / 1000 if milliseconds else None, cancelled)


def together(contexts: list[Context]) -> Context:
    """Return the context of a batch: its deadline is the earliest."""
    return Context(deadline=min((c.deadline for c in contexts if c.deadline is not None), default=None))


def result(value: Any) -> Any:
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

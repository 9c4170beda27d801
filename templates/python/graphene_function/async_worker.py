"""A worker for ``async def`` handlers: many calls, or some batches, at a time in one event loop."""

from __future__ import annotations

import asyncio
import functools
import time

from . import channel as ch
from .event import Context, Event
from .loading import batch_answers
from .output import current_call
from .worker import BodyLost, greet, head, report, result, together

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .loading import Function
    from .response import Response


class AsyncWorker:
    """Answers calls from a channel as they come."""

    def __init__(self, function: Function, channel: ch.Channel, many: int = 1) -> None:
        self._function = function
        self._channel = channel
        self._many = many  # batches at a time
        self._calls: dict[int, _Call] = {}
        self._batches: set[_Batch] = set()
        self._arriving: list[_Call] = []  # what has come of a batch
        self._missing = 0  # how many of its calls are still to come

    def run(self) -> None:
        """Answer calls until the socket is closed."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        greet(self._channel, self._function, self._many)
        reader, writer = await asyncio.open_unix_connection(sock=self._channel.sock, limit=ch.WHOLE * 4)
        try:
            while True:
                length, kind, ident = ch.parse_header(await reader.readexactly(ch.HEADER.size))
                self._take(kind, ident, await reader.readexactly(length) if length else b"", writer)
        except (asyncio.IncompleteReadError, ConnectionError, ch.Closed):
            return
        finally:
            for call in list(self._calls.values()):
                call.cancel()
            writer.close()

    def _take(self, kind: int, ident: int, payload: bytes, writer: asyncio.StreamWriter) -> None:
        if kind == ch.BATCH:
            self._arriving, self._missing = [], ch.parse_credit(payload)
            return
        if kind == ch.REQUEST:
            call = self._calls[ident] = _Call(self._function, ident, payload, writer)
            if self._missing == 0:
                self._start(call)
                return
            self._arriving.append(call)
            self._missing -= 1
            if self._missing == 0:
                self._start_batch(self._arriving)
            return
        found = self._calls.get(ident)
        if found is None:
            return  # it is over
        if kind == ch.DATA:
            found.arrived.append(payload)
            writer.write(ch.frame(ch.CREDIT, ident, ch.credit(len(payload))))
        elif kind == ch.END:
            found.lost = bool(payload)
            found.whole.set()
        elif kind == ch.CREDIT:
            found.credit += ch.parse_credit(payload)
            found.credited.set()
        elif kind == ch.CANCEL:
            found.cancel()

    def _start(self, call: _Call, produce: Callable[[], Any] | None = None) -> None:
        """Answer a call in a task of its own, by what ``produce`` returns or raises instead of the handler."""

        def end(task: asyncio.Task[None]) -> None:
            self._calls.pop(call.ident, None)
            if task.cancelled():  # before it had begun
                call.cancelled()

        call.task = asyncio.get_running_loop().create_task(call.serve(produce))
        call.task.add_done_callback(end)

    def _start_batch(self, calls: list[_Call]) -> None:
        batch = _Batch(self._function, calls)
        self._batches.add(batch)

        def end(_: asyncio.Task[None]) -> None:
            self._batches.discard(batch)
            for call in calls:
                call.batch = None
                if call.gone:
                    del self._calls[call.ident]
                    call.cancelled()
                elif call.ident in batch.values:
                    self._start(call, functools.partial(result, batch.values[call.ident]))
                else:
                    self._start(call)  # what remains is to find out whose fault it was

        batch.task.add_done_callback(end)


class _Batch:
    """Several calls that ``handle_batch`` is given together."""

    def __init__(self, function: Function, calls: list[_Call]) -> None:
        self._function = function
        self._calls = calls
        self.values: dict[int, Any] = {}  # what it has answered, by call
        for call in calls:
            call.batch = self
        self.task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        wanted = [call for call in self._calls if not call.gone]
        if len(wanted) < 2:
            return
        try:
            pairs = [call.event() for call in wanted]
            contexts = [context for _, context in pairs]
            current_call.set(Context(f"{contexts[0].call_id}+{len(contexts) - 1}"))
            answers = self._function.call_batch([event for event, _ in pairs], together(contexts))
            if hasattr(answers, "__await__"):
                answers = await answers
            self.values = dict(zip((call.ident for call in wanted), batch_answers(answers, len(wanted))))
        except BaseException as err:
            if not self._abandoned():
                report(err)

    def leave(self) -> None:
        """Note that nobody waits for one of the calls any more."""
        if self._abandoned():
            self.task.cancel()

    def _abandoned(self) -> bool:
        return all(call.gone for call in self._calls)


class _Call:
    """One call, in a task of its own once it is not part of a batch."""

    def __init__(self, function: Function, ident: int, payload: bytes, writer: asyncio.StreamWriter) -> None:
        self._function = function
        self.ident = ident
        self._payload = payload
        self._writer = writer
        self.arrived: list[bytes] = []
        self.whole = asyncio.Event()
        self.lost = False
        self.gone = False  # nobody waits for the answer
        self.credit = ch.WINDOW
        self.credited = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.batch: _Batch | None = None

    def cancel(self) -> None:
        """Note that nobody waits for the answer any more."""
        self.gone = True
        if self.task is not None:
            self.task.cancel()
        elif self.batch is not None:
            self.batch.leave()

    def event(self) -> tuple[Event, Context]:
        """Make what the handler is given, once the body is whole."""
        _, milliseconds, head, first = ch.parse_request(self._payload)
        event = Event.arrived(head, first + b"".join(self.arrived))
        deadline = time.time() + milliseconds / 1000 if milliseconds else None
        return event, Context.of(event, deadline, lambda: self.gone)

    async def serve(self, produce: Callable[[], Any] | None) -> None:
        """Send what ``produce``, or else the handler, returns or raises as the answer."""
        try:
            if not self._payload[0] & ch.LAST:
                await self.whole.wait()
                if self.lost:
                    raise BodyLost("the caller left before the request was whole")
            event, context = self.event()
            current_call.set(context)
            value = produce() if produce is not None else self._function.call(event, context)
            if hasattr(value, "__await__"):
                value = await value
            await self._respond(self._function.respond(value))
        except asyncio.CancelledError:
            self.cancelled()
        except BaseException as err:  # SystemExit too: a handler does not end its worker
            self._send(ch.ERROR, ch.document({"message": report(err)}))

    def cancelled(self) -> None:
        """Tell the watchdog that the call has been given up."""
        self._send(ch.ERROR, ch.document({"message": "cancelled"}))

    def _send(self, kind: int, payload: bytes = b"") -> None:
        self._writer.write(ch.frame(kind, self.ident, payload))

    async def _respond(self, response: Response) -> None:
        body: Any = response.body
        if isinstance(body, bytes):
            if len(body) <= ch.WHOLE:
                self._writer.write(ch.answer(self.ident, ch.LAST, head(response), body))
                return
            response.headers = [h for h in response.headers if h[0].lower() != "content-length"]
            response.headers.append(("Content-Length", str(len(body))))
            self._writer.write(ch.answer(self.ident, 0, head(response), b""))
            await self._send_data(body)
        else:
            await self._stream(response, body)
        self._send(ch.END)

    async def _stream(self, response: Response, pieces: Any) -> None:
        asynchronous = hasattr(pieces, "__anext__")
        try:
            begun = False
            while True:
                try:
                    piece = await pieces.__anext__() if asynchronous else next(pieces)
                except (StopIteration, StopAsyncIteration):
                    break
                if not begun:
                    self._writer.write(ch.answer(self.ident, 0, head(response), b""))
                    begun = True
                await self._send_data(piece)
                await asyncio.sleep(0)  # an iterator that never waits must not keep the others waiting
            if not begun:
                self._writer.write(ch.answer(self.ident, 0, head(response), b""))
        finally:
            if asynchronous:
                await pieces.aclose()
            else:
                pieces.close()

    async def _send_data(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            while self.credit == 0:
                self.credited.clear()
                await self.credited.wait()
            piece = view[: min(ch.PIECE, self.credit)]
            self._send(ch.DATA, bytes(piece))
            self.credit -= len(piece)
            view = view[len(piece) :]
        await self._writer.drain()

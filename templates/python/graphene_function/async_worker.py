"""A worker for ``async def`` handlers: many calls at a time in one event loop."""

from __future__ import annotations

import asyncio
import os
import time

from . import channel as ch
from .event import Context, Event
from .output import current_call
from .worker import BodyLost, head, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .loading import Function
    from .response import Response


class AsyncWorker:
    """Answers calls from a channel as they come."""

    def __init__(self, function: Function, channel: ch.Channel) -> None:
        self._function = function
        self._sock = channel.sock
        self._calls: dict[int, _Call] = {}

    def run(self) -> None:
        """Answer calls until the socket is closed."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=self._sock, limit=ch.WHOLE * 4)
        writer.write(ch.frame(ch.READY, 0, ch.document({"async": True, "pid": os.getpid()})))
        try:
            while True:
                length, kind, ident = ch.parse_header(await reader.readexactly(ch.HEADER.size))
                self._take(kind, ident, await reader.readexactly(length) if length else b"", writer)
        except (asyncio.IncompleteReadError, ConnectionError, ch.Closed):
            return
        finally:
            for call in list(self._calls.values()):
                call.task.cancel()
            writer.close()

    def _take(self, kind: int, ident: int, payload: bytes, writer: asyncio.StreamWriter) -> None:
        if kind == ch.REQUEST:
            call = _Call(self._function, ident, payload, writer)
            self._calls[ident] = call
            call.task.add_done_callback(lambda _: self._end(call))
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
            found.gone = True
            found.task.cancel()

    def _end(self, call: _Call) -> None:
        self._calls.pop(call.ident, None)
        if call.task.cancelled():  # before it had begun
            call.cancelled()


class _Call:
    """One call, in a task of its own."""

    def __init__(self, function: Function, ident: int, payload: bytes, writer: asyncio.StreamWriter) -> None:
        self._function = function
        self.ident = ident
        self._writer = writer
        self.arrived: list[bytes] = []
        self.whole = asyncio.Event()
        self.lost = False
        self.gone = False  # nobody waits for the answer
        self.credit = ch.WINDOW
        self.credited = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._serve(payload))

    async def _serve(self, payload: bytes) -> None:
        try:
            flags, milliseconds, head, first = ch.parse_request(payload)
            if not flags & ch.LAST:
                await self.whole.wait()
                if self.lost:
                    raise BodyLost("the caller left before the request was whole")
                first += b"".join(self.arrived)
            event = Event.arrived(head, first)
            context = Context.of(event, time.time() + milliseconds / 1000 if milliseconds else None, lambda: self.gone)
            current_call.set(context)
            value = self._function.call(event, context)
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

"""Standard output and error of workers."""

from __future__ import annotations

import contextvars
import io
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from .event import Context

#: The context of the call that this code runs for; None outside of calls.
current_call: contextvars.ContextVar[Context | None] = contextvars.ContextVar("current_call", default=None)


def prepare(log_call_id: bool) -> None:
    """Send lines out whole, and with the id of their call if that is wanted."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
            if log_call_id:
                setattr(sys, name, CallIDStream(stream))


class Wrapped(io.TextIOBase):
    """A text stream in front of another one, which it is like but for how it writes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def buffer(self) -> object:
        return self._stream.buffer


class CallIDStream(Wrapped):
    """A text stream that ends each line with the id of the call that wrote it."""

    def write(self, text: str, /) -> int:
        context = current_call.get()
        call = context.call_id if context is not None else ""
        self._stream.write(text.replace("\n", f" [{call}]\n") if call else text)
        return len(text)

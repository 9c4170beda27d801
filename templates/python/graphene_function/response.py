"""From what a handler returns to what goes out."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from typing import Any, Union

    # A body is all there, or comes in pieces.
    BodyType = Union[bytes, Iterator[bytes], AsyncIterator[bytes]]

_HTML = "text/html; charset=utf-8"  # Flask's choice for text, which handlers rely on
_JSON = "application/json"
_BINARY = "application/octet-stream"
_KEYS = frozenset(("statusCode", "headers", "body"))
_PIECE = 64 << 10


class Response:
    """A status, headers, and a body that is bytes or an iterator of bytes."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[str, str]], body: BodyType) -> None:
        self.status = status
        self.headers = headers
        self.body = body


def to_response(value: Any, structured: bool = True) -> Response:
    """Make a response of what a handler returned.

    A dictionary with any of ``statusCode``, ``headers`` and ``body`` says what
    it wants, if ``structured``; so does a tuple ``(body, status, headers)``.
    Everything else is a body: text and bytes are sent as they are, other
    dictionaries and lists as JSON, and iterators and files piece by piece.

    Raises :class:`TypeError` or :class:`ValueError` if it cannot be sent.
    """
    status: Any = 200
    headers: Any = None
    if isinstance(value, tuple) and 1 < len(value) < 4:
        value, *rest = value
        for part in rest:
            if isinstance(part, (dict, list)):
                headers = part
            else:
                status = part
    elif structured and isinstance(value, dict) and not _KEYS.isdisjoint(value):
        status = value.get("statusCode", 200)
        headers = value.get("headers")
        value = value.get("body")

    body, content_type = _encode(value)
    pairs = _pairs(headers)
    if content_type and not (pairs and any(name.lower() == "content-type" for name, _ in pairs)):
        pairs.append(("Content-Type", content_type))
    return Response(_status(status), pairs, body)


def _status(value: Any) -> int:
    status = int(value)
    if not 200 <= status <= 999:
        raise ValueError(f"the handler returned the status {value!r}")
    return status


def _pairs(headers: Any) -> list[tuple[str, str]]:
    if not headers:
        return []
    items: Iterable[Any] = headers.items() if hasattr(headers, "items") else headers
    pairs: list[tuple[str, str]] = []
    for name, value in items:
        values = value if isinstance(value, (list, tuple)) else (value,)
        pairs.extend((str(name), str(one)) for one in values)
    return pairs


def _encode(value: Any) -> tuple[BodyType, str]:
    """Return a body and the content type it has if the handler names none."""
    if value is None:
        return b"", ""
    if isinstance(value, str):
        return value.encode(), _HTML
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), _BINARY
    if isinstance(value, (dict, list, tuple)) or hasattr(value, "tolist"):
        return json.dumps(value, default=_plain, ensure_ascii=False).encode() + b"\n", _JSON
    if hasattr(value, "read"):
        return _pieces_of(value), _BINARY
    if hasattr(value, "__next__"):
        return _pieces(value), _HTML
    if hasattr(value, "__anext__"):
        return _async_pieces(value), _HTML
    if hasattr(value, "__await__"):
        close = getattr(value, "close", None)  # it will not be awaited, and there is to be no warning of it
        if close is not None:
            close()
        raise TypeError("the handler returned something to be awaited: define it with async def")
    return str(value).encode(), _HTML


def _plain(value: Any) -> Any:
    """Make JSON's types of numpy's, by the method that all of them have."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _piece(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"a streamed body is made of text or bytes, not of {type(value).__name__}")


def _pieces(values: Iterator[Any]) -> Iterator[bytes]:
    try:
        for value in values:
            yield _piece(value)
    finally:
        close = getattr(values, "close", None)
        if close is not None:
            close()


async def _async_pieces(values: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    try:
        async for value in values:
            yield _piece(value)
    finally:
        close = getattr(values, "aclose", None)
        if close is not None:
            await close()


def _pieces_of(file: Any) -> Iterator[bytes]:
    try:
        while True:
            piece = _piece(file.read(_PIECE))
            if not piece:
                return
            yield piece
    finally:
        file.close()

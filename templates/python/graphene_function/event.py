"""What a handler is given: the event and the context.

Both work as they do in OpenFaaS' ``python3-http`` template, where they come
from Flask, so that handlers written for it run unchanged.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from urllib.parse import parse_qsl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Protocol

    class Body(Protocol):
        """A request's body that is still arriving."""

        def read(self) -> bytes:
            """Return the whole body. It may be called again."""

        def chunks(self) -> Iterator[bytes]:
            """Yield the body piece by piece, once."""


class Headers(Mapping[str, str]):
    """Headers of a request. Names compare without regard to case.

    A header that was sent more than once reads as its values joined by commas;
    :meth:`getlist` returns them one by one.
    """

    __slots__ = ("_pairs", "_values")

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._values: dict[str, tuple[str, list[str]]] | None = None

    def _index(self) -> dict[str, tuple[str, list[str]]]:
        # Most handlers look at few headers or none, so the index waits.
        if self._values is None:
            values: dict[str, tuple[str, list[str]]] = {}
            for name, value in self._pairs:
                values.setdefault(name.lower(), (name, []))[1].append(value)
            self._values = values
        return self._values

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._index()[name.lower()][1])

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._index().values())

    def __len__(self) -> int:
        return len(self._index())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._index()

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"

    def get(self, name: str, default: Any = None, type: Callable[[str], Any] | None = None) -> Any:
        """Return the value, or ``default`` if it is missing or ``type`` refuses it."""
        return _convert(self[name], default, type) if name in self else default

    def getlist(self, name: str) -> list[str]:
        """Return every value sent under this name."""
        found = self._index().get(name.lower())
        return list(found[1]) if found else []


class Query(Mapping[str, str]):
    """Parameters of the query string. A name reads as its first value."""

    __slots__ = ("_values",)

    def __init__(self, raw: str) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in parse_qsl(raw, keep_blank_values=True):
            self._values.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> str:
        return self._values[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Query({self._values!r})"

    def get(self, name: str, default: Any = None, type: Callable[[str], Any] | None = None) -> Any:
        """Return the first value, or ``default`` if it is missing or ``type`` refuses it."""
        return _convert(self[name], default, type) if name in self._values else default

    def getlist(self, name: str, type: Callable[[str], Any] | None = None) -> list[Any]:
        """Return every value, without those that ``type`` refuses."""
        values = self._values.get(name, [])
        if type is None:
            return list(values)
        refused = object()
        converted = [_convert(value, refused, type) for value in values]
        return [value for value in converted if value is not refused]

    def lists(self) -> Iterable[tuple[str, list[str]]]:
        """Return each name with all of its values."""
        return self._values.items()

    def to_dict(self, flat: bool = True) -> dict[str, Any]:
        """Return a plain dictionary of first values, or of lists if not ``flat``."""
        return dict(self) if flat else {name: list(values) for name, values in self._values.items()}


def _convert(value: str, default: Any, type: Callable[[str], Any] | None) -> Any:
    if type is None:
        return value
    try:
        return type(value)
    except (ValueError, TypeError):
        return default


# What of an event is read from REQUEST when it is asked for, and its name there.
_LATE = {"method": "method", "path": "path", "raw_query": "query", "_pairs": "headers", "_call_id": "call_id"}


class Event:
    """One request."""

    __slots__ = ("_body", "_call_id", "_head", "_headers", "_pairs", "_query", "method", "path", "raw_query")

    def __init__(
        self,
        body: bytes | Body = b"",
        headers: Iterable[tuple[str, str]] | Mapping[str, str] = (),
        method: str = "GET",
        query: str = "",
        path: str = "/",
    ) -> None:
        self._head = b""
        self._body: bytes | Body = body
        self._pairs = headers
        self._headers: Headers | None = None
        self._query: Query | None = None
        self._call_id = ""
        self.method = method
        self.path = path
        self.raw_query = query

    @classmethod
    def arrived(cls, head: bytes, body: bytes | Body) -> Event:
        """Make an event of what REQUEST says. Most handlers need the body and little else, so the rest waits."""
        event = cls.__new__(cls)
        event._head = head
        event._body = body
        event._headers = event._query = None
        return event

    if not TYPE_CHECKING:  # so that type checkers go on to report misspelt attributes

        def __getattr__(self, name: str) -> Any:
            if name not in _LATE:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            head = json.loads(str(self._head, "utf-8"))
            for attribute, key in _LATE.items():
                try:
                    object.__getattribute__(self, attribute)
                except AttributeError:
                    setattr(self, attribute, head[key])
            return object.__getattribute__(self, name)

    @property
    def body(self) -> bytes:
        """The whole body. Reading it waits until all of it has arrived."""
        return self._body if isinstance(self._body, bytes) else self._body.read()

    def stream(self) -> Iterator[bytes]:
        """Yield the body as it arrives, once, instead of keeping it in memory."""
        if isinstance(self._body, bytes):
            return iter([self._body] if self._body else [])
        return self._body.chunks()

    @property
    def headers(self) -> Headers:
        """The headers."""
        if self._headers is None:
            pairs = self._pairs
            self._headers = Headers(pairs.items() if isinstance(pairs, Mapping) else pairs)
        return self._headers

    @property
    def query(self) -> Query:
        """The parameters of the query string."""
        if self._query is None:
            self._query = Query(self.raw_query)
        return self._query


class Context:
    """Where and for whom a function runs."""

    __slots__ = ("_cancelled", "_event", "call_id", "deadline")

    def __init__(
        self, call_id: str = "", deadline: float | None = None, cancelled: Callable[[], bool] | None = None
    ) -> None:
        self._event: Event | None = None
        self._cancelled = cancelled
        #: The identity of this call in logs, from the header ``X-Call-Id``.
        self.call_id = call_id
        #: When the call will be ended, as ``time.time()`` counts; None for never.
        self.deadline = deadline

    @classmethod
    def of(cls, event: Event, deadline: float | None, cancelled: Callable[[], bool]) -> Context:
        """Make the context of an event that has arrived."""
        context = cls.__new__(cls)
        context._event = event
        context._cancelled = cancelled
        context.deadline = deadline
        return context

    if not TYPE_CHECKING:  # as for Event

        def __getattr__(self, name: str) -> Any:
            if name != "call_id":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self.call_id = self._event._call_id
            return self.call_id

    @property
    def hostname(self) -> str:
        """The name of the machine."""
        return os.environ.get("HOSTNAME") or socket.gethostname()

    @property
    def function(self) -> str:
        """The function's name; empty outside of the platform."""
        return os.environ.get("OPENFAAS_NAME", "")

    @property
    def namespace(self) -> str:
        """The function's namespace; empty outside of the platform."""
        return os.environ.get("OPENFAAS_NAMESPACE", "")

    @property
    def cancelled(self) -> bool:
        """Whether the caller has left, so that nobody waits for the answer any more."""
        return self._cancelled is not None and self._cancelled()

    def remaining(self) -> float | None:
        """Return how many seconds the call has left, or None for any number."""
        return None if self.deadline is None else self.deadline - time.time()

    def secret(self, name: str) -> str:
        """Return a secret's value, without a newline at its end.

        Raises :class:`KeyError` if this function was not given the secret.
        """
        if not name or "/" in name or name in (".", ".."):
            raise KeyError(f"{name!r} is not the name of a secret")
        directory = os.environ.get("SECRETS_DIR", "/var/openfaas/secrets")
        try:
            with open(os.path.join(directory, name), encoding="utf-8") as file:
                value = file.read()
        except FileNotFoundError:
            raise KeyError(f"no secret {name}: name it in the function's secrets") from None
        return value.removesuffix("\n")

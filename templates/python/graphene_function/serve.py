"""A development server: one function, one process, no platform."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from .event import Context, Event
from .loading import STYLES, LoadError, import_function
from .response import Response
from .worker import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from .loading import Function


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m graphene_function serve", description="Serve a handler for development."
    )
    parser.add_argument("handler", nargs="?", default="handler.py", help="handler.py, or the directory it is in")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 for any (%(default)s)")
    parser.add_argument(
        "--style", choices=sorted(STYLES), default="", help="contract of the handler (by its signature)"
    )
    arguments = list(arguments)
    if arguments[:1] == ["serve"]:
        del arguments[0]
    options = parser.parse_args(arguments)
    directory = options.handler if os.path.isdir(options.handler) else os.path.dirname(options.handler) or "."
    try:
        function = import_function(directory, options.style)
    except LoadError as err:
        print(f"graphene_function: {err}", file=sys.stderr)
        return 1
    function.load(Context())
    function.warmup()
    with make_server(function, (options.host, options.port)) as server:
        print(f"serving {directory} at http://{options.host}:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
    return 0


def make_server(function: Function, address: tuple[str, int]) -> ThreadingHTTPServer:
    """Return a server for the function that listens at the address.

    Connections have threads, since browsers keep theirs open; calls are made
    one after the other, as in a worker.
    """
    one_call = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            parts = urlsplit(self.path)
            event = Event(self.rfile.read(length), self.headers.items(), self.command, parts.query, parts.path)
            context = Context(self.headers.get("X-Call-Id", ""))
            with one_call:
                try:
                    response = _call(function, event, context)
                except Exception as err:
                    response = Response(500, [("Content-Type", "text/plain")], report(err).encode() + b"\n")
                self._send(response)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

        def _send(self, response: Response) -> None:
            body = response.body
            self.send_response(response.status)
            for name, value in response.headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            if isinstance(body, bytes):
                self.send_header("Content-Length", str(len(body)))
            else:
                # The end of the connection is the end of a streamed body.
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            if self.command == "HEAD":
                return
            pieces: Any = [body] if isinstance(body, bytes) else body
            for piece in _collect(pieces) if hasattr(pieces, "__anext__") else pieces:
                self.wfile.write(piece)

    return ThreadingHTTPServer(address, Handler)


def _call(function: Function, event: Event, context: Context) -> Response:
    value = function.call(event, context)
    if hasattr(value, "__await__"):

        async def wait() -> Any:
            return await value

        value = asyncio.run(wait())
    return function.respond(value)


def _collect(pieces: Any) -> Iterator[bytes]:
    """Run an async iterator to its end: good enough for development."""

    async def run() -> list[bytes]:
        return [piece async for piece in pieces]

    return iter(asyncio.run(run()))

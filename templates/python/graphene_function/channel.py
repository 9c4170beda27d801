"""Frames over a Unix socket, as docs/reference/pool-protocol.md describes them."""

from __future__ import annotations

import array
import json
import os
import select
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 2  # the version of everything below

HELLO, START, LOADED, FAILED, FORK, FORKED, EXITED, KILL, READY = range(1, 10)
REQUEST, RESPONSE, DATA, END, ERROR, CREDIT, CANCEL, BATCH, DROPPED, RECALL = range(16, 26)

LAST = 1  # flag of REQUEST and RESPONSE: the body is whole, no DATA follows

WINDOW = 128 << 10  # bytes of DATA that may be under way without CREDIT
PIECE = 32 << 10  # bytes in one DATA frame
WHOLE = 64 << 10  # bytes of a body that go along with REQUEST or RESPONSE
_LIMIT = 16 << 20  # bytes in any frame

# Sizes are written as numbers where every call comes along.
HEADER = struct.Struct(">IBI")  # length of the payload, type, id
_REQUEST = struct.Struct(">BII")  # flags, milliseconds left or 0, length of the JSON that follows
_RESPONSE = struct.Struct(">BI")  # flags, length of the JSON that follows
_ANSWER = struct.Struct(">IBIBI")  # the header of a frame and the beginning of RESPONSE
_COUNT = struct.Struct(">I")

_decode = json.JSONDecoder().raw_decode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Closed(Exception):
    """The other end has closed the socket."""


def frame(kind: int, ident: int, payload: bytes = b"") -> bytes:
    """Return a frame ready to be sent."""
    return HEADER.pack(len(payload), kind, ident) + payload


def answer(ident: int, flags: int, head: bytes, body: bytes) -> bytes:
    """Return the frame RESPONSE, whose head is a document, ready to be sent."""
    length = len(head)
    return _ANSWER.pack(_RESPONSE.size + length + len(body), RESPONSE, ident, flags, length) + head + body


def parse_answer(payload: bytes) -> tuple[int, dict[str, Any], bytes]:
    """Take apart the payload of RESPONSE."""
    flags, length = _RESPONSE.unpack_from(payload)
    end = _RESPONSE.size + length
    return flags, parse_document(payload[_RESPONSE.size : end]), payload[end:]


def request(flags: int, milliseconds: int, head: bytes, body: bytes) -> bytes:
    """Return the payload of REQUEST, whose head is a document."""
    return _REQUEST.pack(flags, milliseconds, len(head)) + head + body


def parse_request(payload: bytes) -> tuple[int, int, bytes, bytes]:
    """Take apart the payload of REQUEST: flags, milliseconds left or 0, head and body."""
    try:
        flags, milliseconds, length = _REQUEST.unpack_from(payload)
    except struct.error as err:
        raise Closed(f"a request that cannot be read: {err}") from None
    end = 9 + length
    return flags, milliseconds, payload[9:end], payload[end:]


def document(value: dict[str, Any]) -> bytes:
    """Return the payload of the frames that are JSON."""
    return _encode(value).encode()


def parse_document(payload: bytes) -> dict[str, Any]:
    """Read the payload of the frames that are JSON."""
    value: dict[str, Any] = _decode(str(payload, "utf-8"))[0]
    return value


def credit(count: int) -> bytes:
    """Return the payload of CREDIT or BATCH."""
    return _COUNT.pack(count)


def parse_credit(payload: bytes) -> int:
    """Read the payload of CREDIT or BATCH."""
    if len(payload) != _COUNT.size:
        raise Closed(f"a count of {len(payload)} bytes")
    count: int = _COUNT.unpack(payload)[0]
    return count


def parse_header(data: bytes) -> tuple[int, int, int]:
    """Read a frame's header: the payload's length, the type and the id."""
    length, kind, ident = HEADER.unpack_from(data)
    if length > _LIMIT:
        raise Closed(f"a frame of {length} bytes")
    return length, kind, ident


class Channel:
    """Reads and writes frames, blocking. Descriptors that come along are kept in order."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.descriptors: list[int] = []
        self._buffer = b""

    def fileno(self) -> int:
        """Return the socket's descriptor, for poll."""
        return self.sock.fileno()

    def send(self, kind: int, ident: int, payload: bytes = b"") -> None:
        """Send one frame."""
        self.write(frame(kind, ident, payload))

    def write(self, frames: bytes) -> None:
        """Send frames that are ready to be sent."""
        try:
            self.sock.sendall(frames)
        except OSError as err:
            raise Closed(str(err)) from None

    def holds(self) -> bool:
        """Say whether something has been received and not been read, perhaps half a frame."""
        return bool(self._buffer)

    def buffered(self) -> bool:
        """Say whether a whole frame has been received and not been read."""
        buffer = self._buffer
        return len(buffer) >= HEADER.size and len(buffer) >= HEADER.size + parse_header(buffer)[0]

    def incoming(self) -> bool:
        """Say whether a frame can be read without waiting for long."""
        return self.buffered() or bool(select.select([self.sock], [], [], 0)[0])

    def next_call(self) -> tuple[int, int, bytes]:
        """Wait for the first frame of a call, maybe behind others of calls that are over."""
        return self.read()

    def read(self) -> tuple[int, int, bytes]:
        """Wait for a frame; return its type, id and payload."""
        buffer = self._buffer or self._receive()
        while True:
            size = len(buffer)
            if size >= 9:
                length, kind, ident = parse_header(buffer)
                end = 9 + length
                if size >= end:
                    self._buffer = buffer[end:] if size > end else b""
                    return kind, ident, buffer[9:end]
                if length > WHOLE:
                    self._buffer = b""
                    return kind, ident, self._receive_large(buffer[9:], length)
            buffer += self._receive()

    def _receive_large(self, begin: bytes, length: int) -> bytes:
        """Receive a payload of which this is the beginning, without copying it for each piece."""
        pieces = [begin]
        missing = length - len(begin)
        while missing:
            try:
                pieces.append(self.sock.recv(missing))
            except OSError as err:
                raise Closed(str(err)) from None
            if not pieces[-1]:
                raise Closed("end of stream")
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def _receive(self) -> bytes:
        try:
            received = self.sock.recv(WHOLE)
        except OSError as err:
            raise Closed(str(err)) from None
        if not received:
            raise Closed("end of stream")
        return received


class ControlChannel(Channel):
    """A channel on which descriptors are received too."""

    def _receive(self) -> bytes:
        size = array.array("i").itemsize
        try:
            received, ancillary, _, _ = self.sock.recvmsg(WHOLE, socket.CMSG_SPACE(16 * size))
        except OSError as err:
            raise Closed(str(err)) from None
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found = array.array("i")
                found.frombytes(data[: len(data) - len(data) % size])
                for fd in found:
                    os.set_inheritable(fd, False)
                    self.descriptors.append(fd)
        if not received:
            raise Closed("end of stream")
        return received

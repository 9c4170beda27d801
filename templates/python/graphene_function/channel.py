"""Frames over a Unix socket, as docs/reference/pool-protocol.md describes them."""

from __future__ import annotations

import array
import json
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 1  # the version of everything below

HELLO, START, LOADED, FAILED, FORK, FORKED, EXITED, KILL, READY = range(1, 10)
REQUEST, RESPONSE, DATA, END, ERROR, CREDIT, CANCEL, BATCH = range(16, 24)

LAST = 1  # flag of REQUEST and RESPONSE: the body is whole, no DATA follows

WINDOW = 128 << 10  # bytes of DATA that may be under way without CREDIT
PIECE = 32 << 10  # bytes in one DATA frame
WHOLE = 64 << 10  # bytes of a body that go along with REQUEST or RESPONSE
_LIMIT = 16 << 20  # bytes in any frame

HEADER = struct.Struct(">IBI")  # length of the payload, type, id
_MESSAGE = struct.Struct(">BI")  # flags, length of the JSON that follows
_COUNT = struct.Struct(">I")

_decode = json.JSONDecoder().raw_decode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Closed(Exception):
    """The other end has closed the socket."""


def frame(kind: int, ident: int, payload: bytes = b"") -> bytes:
    """Return a frame ready to be sent."""
    return HEADER.pack(len(payload), kind, ident) + payload


def message(flags: int, head: bytes, body: bytes) -> bytes:
    """Return the payload of REQUEST or RESPONSE, whose head is a document."""
    return _MESSAGE.pack(flags, len(head)) + head + body


def parse_message(payload: bytes) -> tuple[int, dict[str, Any], bytes]:
    """Take apart the payload of REQUEST or RESPONSE."""
    try:
        flags, length = _MESSAGE.unpack_from(payload)
        end = _MESSAGE.size + length
        meta: dict[str, Any] = _decode(str(payload[_MESSAGE.size : end], "utf-8"))[0]
    except (struct.error, ValueError) as err:
        raise Closed(f"a message that cannot be read: {err}") from None
    return flags, meta, payload[end:]


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
        try:
            self.sock.sendall(frame(kind, ident, payload))
        except OSError as err:
            raise Closed(str(err)) from None

    def buffered(self) -> bool:
        """Say whether a whole frame has been received and not been read."""
        return len(self._buffer) >= HEADER.size and len(self._buffer) >= HEADER.size + parse_header(self._buffer)[0]

    def read(self) -> tuple[int, int, bytes]:
        """Wait for a frame; return its type, id and payload."""
        buffer = self._buffer
        while True:
            if len(buffer) >= HEADER.size:
                length, kind, ident = parse_header(buffer)
                end = HEADER.size + length
                if len(buffer) >= end:
                    self._buffer = buffer[end:]
                    return kind, ident, buffer[HEADER.size : end]
                if length > WHOLE:
                    self._buffer = b""
                    return kind, ident, self._receive_large(buffer[HEADER.size :], length)
            received = self._receive()
            buffer = buffer + received if buffer else received

    def _receive_large(self, begin: bytes, length: int) -> bytes:
        """Receive a payload of which this is the beginning, without copying it for each piece."""
        pieces = [begin]
        missing = length - len(begin)
        while missing:
            try:
                pieces.append(self._checked(self.sock.recv(missing)))
            except OSError as err:
                raise Closed(str(err)) from None
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def _receive(self) -> bytes:
        try:
            return self._checked(self.sock.recv(WHOLE))
        except OSError as err:
            raise Closed(str(err)) from None

    @staticmethod
    def _checked(received: bytes) -> bytes:
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
        return self._checked(received)

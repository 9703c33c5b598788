"""A client that says exactly the bytes it is told, on a real socket, and reads what comes back frame by frame."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import NamedTuple

import gevent.socket

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x12\x34\x56\x78"

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


class Response(NamedTuple):
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    set_cookies: list[str]


class Frame(NamedTuple):
    first: int
    payload: bytes

    @property
    def opcode(self) -> int:
        return self.first & 0x0F


def masked(data: bytes, key: bytes = MASK) -> bytes:
    """Octet by octet, as RFC 6455 section 5.3 writes it: the judge of faster ways."""
    return bytes(octet ^ key[index % 4] for index, octet in enumerate(data))


def frame(
    opcode: int, payload: bytes | str = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = MASK
) -> bytes:
    """One frame, right or wrong, as a client sends it (masked unless `mask` is None)."""
    data = payload.encode() if isinstance(payload, str) else payload
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0 if mask is None else 0x80
    if len(data) < 126:
        head = struct.pack("!BB", first, bit | len(data))
    elif len(data) < 65536:
        head = struct.pack("!BBH", first, bit | 126, len(data))
    else:
        head = struct.pack("!BBQ", first, bit | 127, len(data))
    return head + data if mask is None else head + mask + masked(data, mask)


def close_frame(code: int | None = None, reason: str = "") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


def request(path: str = "/", *, drop: tuple[str, ...] = (), **fields: str) -> bytes:
    """An opening handshake; `fields` (with _ for -) replace or add header fields, `drop` leaves some out."""
    headers = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    for name, value in fields.items():
        header = name.replace("_", "-")
        headers = {known: kept for known, kept in headers.items() if known.lower() != header.lower()}
        headers[header] = value
    lines = [f"{name}: {value}" for name, value in headers.items() if name not in drop]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")


class RawClient:
    """A TCP connection to the server under test, in the test's own hub."""

    def __init__(self, address: object, *, timeout: float = 10, socket: gevent.socket.socket | None = None) -> None:
        self.socket = socket or gevent.socket.create_connection(address, timeout=timeout)
        self.socket.settimeout(timeout)
        self.buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _fill(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"the server ended the connection; unread: {self.buffer[:80]!r}")
        self.buffer += data

    def read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._fill()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read_to_end(self) -> bytes:
        with suppress(EOFError):
            while True:
                self._fill()
        data, self.buffer = self.buffer, b""
        return data

    def read_response(self) -> Response:
        while b"\r\n\r\n" not in self.buffer:
            self._fill()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        cookies = [value for name, value in pairs if name.lower() == "set-cookie"]
        _, status, reason = status_line.split(" ", 2)
        if status_line.startswith("HTTP/1.0 ") and "content-length" not in headers:
            body = self.read_to_end()
        else:
            body = self.read(int(headers.get("content-length", 0)))
        return Response(int(status), reason, headers, body, cookies)

    def open(self, path: str = "/", **fields: str) -> Response:
        """Do the opening handshake, which has to succeed."""
        self.send(request(path, **fields))
        response = self.read_response()
        assert response.status == 101, response
        return response

    def read_frame(self) -> Frame:
        first, second = self.read(2)
        size = second & 0x7F
        assert not second & 0x80, "a server never masks"
        if size == 126:
            size = struct.unpack("!H", self.read(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self.read(8))[0]
        return Frame(first, self.read(size))

    def read_text(self) -> str:
        received = self.read_frame()
        assert received.opcode == TEXT, received
        return received.payload.decode()

    def read_close(self) -> int | None:
        """The code of the Close frame that comes next; None for one without."""
        received = self.read_frame()
        assert received.opcode == CLOSE, received
        return struct.unpack("!H", received.payload[:2])[0] if received.payload else None

    def at_end(self) -> bool:
        """Whether nothing more comes: the server has ended the stream, or reset it."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return True
        self.buffer += data
        return not self.buffer

    def close_handshake(self, code: int = 1000) -> int | None:
        """Close as a well-behaved client does; gives the code of the answer."""
        self.send(close_frame(code))
        answer = self.read_close()
        assert self.at_end()
        return answer

    def reset(self) -> None:
        """End TCP with a reset."""
        self.socket.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

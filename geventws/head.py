"""The head of a request: its line and its fields, understood as pywsgi and `http.client` do, for less; and the bytes it is in.

What is out of the ordinary is left to them, and what a field means for a WebSocket to `protocol.handshake`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from socket import MSG_PEEK
from typing import Any
from urllib.parse import unquote

from .native import Stream

__all__ = ["Head", "Incoming", "header_of", "read_head"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Above it pywsgi refuses.
_LONGEST_LINE = 8000
# Above it `http.client` counts; browsers send about twenty.
_MOST_FIELDS = 60
# So many names are remembered, and values, and no longer ones.
_MOST = 1000
_LONGEST_NAME = 64
_LONGEST_VALUE = 300
_LONGEST_NUMBER = 18

# What the connection has to be handled otherwise for.
_UNUSUAL = frozenset(["?", "HTTP_TRANSFER_ENCODING", "HTTP_EXPECT"])

# The key in an environ of a header field: made once for each name, and shared by the environs of all connections.
_keys: dict[str, str] = {}
# Fields that say the same for many: their values are shared, too, as a connection keeps its environ for as long as it lasts.
_ALIKE = frozenset(
    [
        "HTTP_ACCEPT",
        "HTTP_ACCEPT_ENCODING",
        "HTTP_ACCEPT_LANGUAGE",
        "HTTP_CACHE_CONTROL",
        "HTTP_CONNECTION",
        "HTTP_HOST",
        "HTTP_ORIGIN",
        "HTTP_PRAGMA",
        "HTTP_SEC_WEBSOCKET_EXTENSIONS",
        "HTTP_SEC_WEBSOCKET_VERSION",
        "HTTP_UPGRADE",
        "HTTP_USER_AGENT",
    ]
)
_values: dict[str, str] = {}


def environ_key(name: str) -> str:
    """A header field's key in the environ. "" if the environ is not to have it, "?" if it is no name that HTTP knows."""
    key = _keys.get(name)
    if key is None:
        key = _make_key(name)
        if len(name) <= _LONGEST_NAME:
            if len(_keys) >= _MOST:
                _keys.clear()
            _keys[name] = key
    return key


def _make_key(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        return "?"
    # A name with an underscore could pass for another one with a hyphen, which a proxy has checked.
    if "_" in name:
        return ""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def _shared(value: str) -> str:
    """The same text, as the same object for all that ask."""
    known = _values.get(value)
    if known is None:
        known = value
        if len(value) <= _LONGEST_VALUE:
            if len(_values) >= _MOST:
                _values.clear()
            _values[value] = value
    return known


def header_of(environ: Any) -> Callable[[str], str | None]:
    """Gives a header field's value by its lower-case name, from an environ."""

    def header(name: str) -> str | None:
        value: str | None = environ.get(environ_key(name))
        return value

    return header


class Head:
    """What a request says before its body."""

    __slots__ = (
        "_environ",
        "content_length",
        "fields",
        "line",
        "method",
        "path",
        "persistent",
        "size",
        "taken",
        "upgrade",
    )

    def __init__(self, size: int, line: str, method: str, path: str) -> None:
        self.size = size
        """How many bytes it takes, with the empty line at its end."""
        self.line = line
        self.method = method
        self.path = path
        self.fields: list[tuple[str, str]] = []
        """Names and values, as they came."""
        self.content_length: int | None = None
        self.persistent = True
        """Whether another request may follow on the connection."""
        self.upgrade = False
        """Whether pywsgi would leave what follows to the application."""
        self.taken = False
        """For the reader: whether its bytes have been read, so that what comes next is another one."""
        self._environ: dict[str, str] = {}

    def _add(self, name: str, value: str) -> bool:
        """Take a field. False if it takes more care than here is taken."""
        key = environ_key(name)
        if key in _UNUSUAL:
            return False
        self.fields.append((name, value))
        if not key:
            return True
        known = self._environ.get(key)
        if key == "CONTENT_TYPE":
            self._environ[key] = value if known is None else known
        elif key == "CONTENT_LENGTH":
            if known is not None or not (value.isascii() and value.isdecimal()) or len(value) > _LONGEST_NUMBER:
                return False
            self._environ[key] = value
            self.content_length = int(value)
        elif known is not None:
            self._environ[key] = _joined(key, known, value.strip())
        else:
            if key == "HTTP_CONNECTION":
                said = value.lower()
                self.persistent = said != "close"
                self.upgrade = self.upgrade or said == "upgrade"
            elif key == "HTTP_UPGRADE":
                self.upgrade = self.upgrade or value.lower() == "websocket"
            value = value.strip()
            self._environ[key] = _shared(value) if key in _ALIKE else value
        return True

    @property
    def upgrade_field(self) -> str | None:
        """The field Upgrade; None if there is none."""
        return self._environ.get("HTTP_UPGRADE")

    def fill(self, environ: Any, client_address: Any) -> None:
        """Put into a WSGI environ what PEP 3333 wants there of the request."""
        path, _, query = self.path.partition("?")
        environ["REQUEST_METHOD"] = self.method
        environ["SCRIPT_NAME"] = ""
        environ["PATH_INFO"] = unquote(path, "latin-1") if "%" in path else path
        environ["QUERY_STRING"] = query
        environ["SERVER_PROTOCOL"] = "HTTP/1.1"
        if isinstance(client_address, tuple):
            environ["REMOTE_ADDR"] = str(client_address[0])
            environ["REMOTE_PORT"] = str(client_address[1])
        for key, value in self._environ.items():
            if key in environ and key.startswith("HTTP_"):
                environ[key] = _joined(key, environ[key], value)
            else:
                environ[key] = value


def _joined(key: str, first: str, second: str) -> str:
    """One value for a field that came twice."""
    return first + ("; " if "COOKIE" in key else ",") + second


def read_head(octets: bytes) -> Head | None:
    """The head that `octets` begin with. None if it is not all there, or takes more care than here is taken."""
    end = octets.find(b"\r\n\r\n")
    if end < 0:
        return None
    text = octets[:end].decode("latin-1")
    lines = text.split("\r\n")
    if not len(lines) - 1 == text.count("\r") == text.count("\n") or not 1 < len(lines) <= _MOST_FIELDS:
        return None
    line = lines[0]
    words = line.split(" ")
    if len(words) != 3 or len(line) > _LONGEST_LINE or words[2] != "HTTP/1.1":
        return None
    method, path = words[0], words[1]
    if method != "GET" and not _TOKEN.fullmatch(method):
        return None
    if not (path and path.isascii() and path.isprintable()):
        return None
    head = Head(end + 4, line, method, path)
    for field in lines[1:]:
        name, colon, value = field.partition(":")
        if not colon or not head._add(name, value.lstrip("\t ")):
            return None
    return None if head.content_length and method == "HEAD" else head


class Incoming:
    """What there is to be read of a gevent socket, and has been looked at before: enough for a head that comes in one piece.

    It stands in for an `rfile` as long as no more than that is read of it.
    """

    __slots__ = ("_seen", "_socket", "closed")

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._seen = b""
        self.closed = False

    def peek(self, size: int = 0) -> bytes:
        """As a BufferedReader's: what is still to be read. Waits if that is nothing; b"" at the end of the stream."""
        if not self._seen:
            # Many may wait here, and nothing is kept ready for what they may send.
            self._socket.recv(1, MSG_PEEK)
        return self.peek_now()

    def peek_now(self) -> bytes:
        """The same without waiting, b"" if there is nothing yet. Only for sockets without TLS."""
        if not self._seen:
            self._seen = Stream(self._socket._sock).receive(io.DEFAULT_BUFFER_SIZE) or b""
        return self._seen

    def read1(self, size: int = -1) -> bytes:
        """Read of what `peek` has seen."""
        seen = self._seen
        if 0 <= size < len(seen):
            self._seen = seen[size:]
            return seen[:size]
        self._seen = b""
        return seen

    def buffered(self) -> io.BufferedReader:
        """An `rfile` for all that follows."""
        reader: io.BufferedReader[Any] = io.BufferedReader(_Raw(self._socket, self._seen))
        if self._seen:
            reader.peek(1)  # Whoever takes what is in its buffer gets all that has been read.
        return reader


class _Raw(io.RawIOBase):
    """What a buffered `rfile` reads from: as what a socket's `makefile` would make, with less in between."""

    def __init__(self, socket: Any, seen: bytes) -> None:
        self._socket = socket
        # Not more than its buffer holds.
        self._seen = seen

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        number: int = self._socket.fileno()
        return number

    def readinto(self, buffer: Any) -> int | None:
        seen, self._seen = self._seen, b""
        if seen:
            buffer[: len(seen)] = seen
            return len(seen)
        try:
            read: int = self._socket.recv_into(buffer)
        except BlockingIOError:
            return None  # The socket's timeout is 0, and nothing is there.
        return read

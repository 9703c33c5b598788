"""The head of a request as pywsgi wants it, read for less: the header fields, and what `rfile` reads from.

What is out of the ordinary is left to `http.client`, and what the fields mean to the handler.
"""

from __future__ import annotations

import io
import re
from functools import lru_cache
from typing import Any

from gevent.pywsgi import OldMessage

__all__ = ["Fields", "Incoming", "environ_key", "read_fields"]

# A line of a head as nearly all are. What has other characters in its name, is folded, or ends otherwise, does not fit.
_FIELD = re.compile(r"^([!#$%&'*+.^`|~0-9A-Za-z_-]{1,64}):[\t ]*([^\r\n]*)\r\n", re.MULTILINE)
# Above it `http.client` counts; browsers send about twenty.
_MOST_FIELDS = 60


def read_fields(head: str) -> list[tuple[str, str]] | None:
    """The header fields in these lines, as `http.client` reads them. None where it takes more care than here is taken."""
    fields = _FIELD.findall(head)
    return fields if 0 < len(fields) == head.count("\n") <= _MOST_FIELDS else None


@lru_cache(256)
def environ_key(name: str) -> str:
    """A header field's key in the environ: made once, and shared by the environs of all connections."""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


class Fields(OldMessage):
    """pywsgi's header fields, looked up faster as long as nobody changes them."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        super().__init__()
        self._headers = fields  # Where the parser would have put them.
        self._first: dict[str, str] | None = {name.lower(): value for name, value in reversed(fields)}

    def get(self, name: str, failobj: Any = None) -> Any:
        if self._first is None:
            return super().get(name, failobj)
        return self._first.get(name.lower(), failobj)

    def __setitem__(self, name: str, value: Any) -> None:
        self._first = None
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self._first = None
        super().__delitem__(name)

    def replace_header(self, name: str, value: Any) -> None:
        self._first = None
        super().replace_header(name, value)

    @property
    def untouched(self) -> bool:
        return self._first is not None

    def for_environ(self) -> list[tuple[str, str]]:
        # A name with an underscore could pass for another one with a hyphen, which a proxy has checked.
        return [
            (key, value.strip())
            for name, value in self._headers
            if "_" not in name and (key := environ_key(name)).startswith("HTTP_")
        ]


class Incoming(io.RawIOBase):
    """What `rfile` reads from: the socket. As what `makefile` would make, with less in between."""

    def __init__(self, socket: Any) -> None:
        self._sock = socket

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        number: int = self._sock.fileno()
        return number

    def readinto(self, buffer: Any) -> int | None:
        try:
            read: int = self._sock.recv_into(buffer)
        except BlockingIOError:
            return None  # The socket's timeout is 0, and nothing is there.
        return read

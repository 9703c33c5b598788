"""Name look-ups, by gevent's resolver inside a scope."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent.socket

from .dispatch import Replacement, dispatched_keywords

__all__ = ["replacements"]


def replacements() -> Iterator[Replacement]:
    for name in ("getaddrinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getnameinfo"):
        native = getattr(socket, name)
        yield Replacement(socket, name, dispatched_keywords(native, getattr(gevent.socket, name)))

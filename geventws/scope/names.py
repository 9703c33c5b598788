"""Name look-ups, by gevent's resolver inside a scope."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import BuiltinFunctionType

import gevent.socket

from .dispatch import Replacement, dispatched, dispatched_keywords

__all__ = ["replacements"]


def replacements() -> Iterator[Replacement]:
    for name in ("getaddrinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getnameinfo"):
        native = getattr(socket, name)
        dispatch = dispatched if isinstance(native, BuiltinFunctionType) else dispatched_keywords
        yield Replacement(socket, name, dispatch(native, getattr(gevent.socket, name)))

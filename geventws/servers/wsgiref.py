"""The standard library's `wsgiref.simple_server`, and servers made of it. Only how the connection is found, and given back."""

from __future__ import annotations

import socketserver
import sys
from typing import Any
from wsgiref.handlers import SimpleHandler

from .connection import ServerConnection, StartResponse, buffered

__all__ = ["find"]

_BLOCKED = (
    "this server handles one request after the other. Remedy: `class Server(ThreadingMixIn, WSGIServer): "
    "daemon_threads = True`, and make_server(..., server_class=Server)"
)
# Those that have something else do another request meanwhile; the second is not there on Windows.
_CONCURRENT = tuple(
    getattr(socketserver, name) for name in ("ThreadingMixIn", "ForkingMixIn") if hasattr(socketserver, name)
)


def find(environ: dict[str, Any], start_response: StartResponse) -> ServerConnection | None:
    """The connection, if it is this server that calls. It keeps it from applications: its insides have to be looked at."""
    handler: Any = getattr(start_response, "__self__", None)
    if not _serves(handler):
        handler = _caller()
    if handler is None:
        return None
    return _Connection(handler, None if isinstance(handler.request_handler.server, _CONCURRENT) else _BLOCKED)


def _serves(handler: Any) -> bool:
    """Whether this is one of those that serve a connection. Others of the same class do CGI."""
    request = getattr(handler, "request_handler", None)
    return isinstance(handler, SimpleHandler) and isinstance(request, socketserver.StreamRequestHandler)


def _caller() -> Any:
    """The handler that has called the application, where a middleware has a `start_response` of its own in between."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is SimpleHandler.run.__code__ and _serves(frame.f_locals.get("self")):
            return frame.f_locals["self"]
    return None


class _Connection(ServerConnection):
    def __init__(self, handler: Any, blocked: str | None) -> None:
        super().__init__(handler.request_handler.connection, blocked)
        self._handler = handler

    def read_ahead(self) -> bytes:
        return buffered(self._handler.request_handler.rfile)

    def hush(self, start_response: StartResponse, sent: int) -> None:
        self._handler.headers_sent = True
        self._handler.bytes_sent = sent

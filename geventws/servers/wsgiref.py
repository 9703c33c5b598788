"""The standard library's `wsgiref.simple_server`, and servers made of it. Only how the connection is found, and given back."""

from __future__ import annotations

import socketserver
from io import BufferedReader
from socket import SocketIO
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
    handler = getattr(start_response, "__self__", None)
    request = getattr(handler, "request_handler", None)
    if isinstance(handler, SimpleHandler) and isinstance(request, socketserver.StreamRequestHandler):
        blocked = None if isinstance(request.server, _CONCURRENT) else _BLOCKED
        return _Connection(request.connection, request.rfile, blocked)
    # A middleware has put a function of its own in between. What is read from is the server's all the same.
    reader = environ.get("wsgi.input")
    if isinstance(reader, BufferedReader) and isinstance(reader.raw, SocketIO):
        return _Connection(getattr(reader.raw, "_sock", None), reader, None)
    return None


class _Connection(ServerConnection):
    def __init__(self, socket: Any, reader: Any, blocked: str | None) -> None:
        super().__init__("wsgiref", socket, blocked)
        self._reader = reader

    def read_ahead(self) -> bytes:
        return buffered(self._reader)

    def answered(self, start_response: StartResponse, sent: int) -> None:
        super().answered(start_response, sent)
        handler: Any = getattr(start_response, "__self__", None)
        if hasattr(handler, "headers_sent"):
            handler.headers_sent = True
            handler.bytes_sent = sent

"""uWSGI, with its gevent loop, with threads, and behind its router. Only how the connection is found, and given back.

uWSGI's own functions for WebSockets are not used: they do not tell text from binary, know no close codes, and keep the
fragments of all connections in one place.

What a client sends before it has the 101, which RFC 6455 section 4.1 forbids, lies in uWSGI's own buffer: it is lost.
"""

from __future__ import annotations

import os
import socket as _socket
import sys
from typing import Any

from gevent.socket import socket as GeventSocket  # noqa: N812 (as a class is named)

from .connection import NotCarried, ServerConnection, StartResponse

__all__ = ["find"]

_BLOCKED = "this uWSGI process handles one request after the other. Remedy: start it with `--gevent 100`, or with `--threads 8`"
_TLS = (
    "uWSGI's https-socket keeps its TLS to itself, so that it cannot carry WebSockets. Have TLS done in front of it: by "
    "uWSGI's router (`--https ... --http-websockets`), or by nginx."
)


def find(environ: dict[str, Any], start_response: StartResponse) -> ServerConnection | None:
    """The connection, if it is this server that calls. Raises NotCarried if it cannot be used."""
    # uWSGI has the module made by itself: there is nothing to import elsewhere.
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or "uwsgi.version" not in environ:
        return None
    if environ.get("HTTPS") == "on" and any(name in uwsgi.opt for name in ("https-socket", b"https-socket")):
        raise NotCarried(_TLS)
    on_gevent = uwsgi.loop in ("gevent", b"gevent")
    concurrent = on_gevent or environ.get("wsgi.multithread")
    return _Connection(uwsgi.connection_fd(), on_gevent, None if concurrent else _BLOCKED)


class _Connection(ServerConnection):
    def __init__(self, descriptor: int, on_gevent: bool, blocked: str | None) -> None:
        self._descriptor = descriptor
        kind: Any = GeventSocket if on_gevent else _socket.socket
        super().__init__(kind(fileno=os.dup(descriptor)), blocked)

    def hush(self, start_response: StartResponse, sent: int) -> None:
        # The server sends its answer all the same, and complains if nobody takes it.
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.dup2(nowhere, self._descriptor, inheritable=False)
        finally:
            os.close(nowhere)

    def let_go(self) -> None:
        self.socket.close()

"""uWSGI, with its gevent loop, with threads, and behind its router. Only how the connection is found, and given back.

uWSGI's own functions for WebSockets are not used: they do not tell text from binary, know no close codes, and keep the
fragments of all connections in one place.
"""

from __future__ import annotations

import socket as _socket
import sys
from typing import Any

from gevent.socket import socket as GeventSocket  # noqa: N812 (as a class is named)

from .connection import ServerConnection, StartResponse

__all__ = ["find"]

_BLOCKED = "this uWSGI process handles one request after the other. Remedy: start it with `--gevent 100`, or with `--threads 8`"


def find(environ: dict[str, Any], start_response: StartResponse) -> ServerConnection | None:
    """The connection, if it is this server that calls."""
    # uWSGI has the module made by itself: there is nothing to import elsewhere.
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or "uwsgi.version" not in environ:
        return None
    on_gevent = getattr(uwsgi, "loop", None) in ("gevent", b"gevent")
    # A number of our own: uWSGI closes its one when the request has ended.
    descriptor = uwsgi.connection_fd()
    kind: Any = GeventSocket if on_gevent else _socket.socket
    concurrent = on_gevent or environ.get("wsgi.multithread")
    return _Connection("uWSGI", kind(fileno=_dup(descriptor)), None if concurrent else _BLOCKED)


def _dup(descriptor: int) -> int:
    with _socket.socket(fileno=descriptor) as borrowed:
        try:
            return borrowed.dup().detach()
        finally:
            borrowed.detach()


class _Connection(ServerConnection):
    def let_go(self) -> None:
        self.socket.close()

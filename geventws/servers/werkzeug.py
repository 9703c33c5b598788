"""werkzeug's development server: `flask run` and `app.run()`. Only how the connection is found, and given back."""

from __future__ import annotations

from typing import Any

from .connection import ServerConnection, StartResponse, buffered

__all__ = ["find"]

_BLOCKED = "werkzeug was started with threaded=False. Remedy: leave that out, or `flask run --with-threads`"


def find(environ: dict[str, Any], start_response: StartResponse) -> ServerConnection | None:
    """The connection, if it is this server that calls."""
    socket = environ.get("werkzeug.socket")
    if socket is None:
        return None
    concurrent = environ.get("wsgi.multithread") or environ.get("wsgi.multiprocess")
    return _Connection(socket, environ.get("wsgi.input"), None if concurrent else _BLOCKED)


class _Connection(ServerConnection):
    def __init__(self, socket: Any, reader: Any, blocked: str | None) -> None:
        super().__init__(socket, blocked)
        self._reader = reader

    def read_ahead(self) -> bytes:
        return buffered(self._reader)

"""gunicorn with threads, and its own gevent worker. Only how the connection is found, and given back.

The worker that is ours, and needs none of this, is in `gunicorn`.
"""

from __future__ import annotations

from typing import Any

from gevent.socket import socket as GeventSocket  # noqa: N812 (as a class is named)

from .connection import NotCarried, ServerConnection, StartResponse

__all__ = ["find"]

_REMEDY = (
    "gunicorn's sync worker cannot carry WebSockets: it handles one request at a time, and is killed when one takes long. "
    "Start gunicorn with `-k geventws.servers.gunicorn.GeventWebSocketWorker`, or with `--threads 8`."
)


def find(environ: dict[str, Any], start_response: StartResponse) -> ServerConnection | None:
    """The connection, if it is this server that calls. Raises NotCarried for a worker that cannot carry it."""
    socket = environ.get("gunicorn.socket")
    if socket is None:
        return None
    if not isinstance(socket, GeventSocket) and not environ.get("wsgi.multithread"):
        raise NotCarried(_REMEDY)
    return _Connection(socket, environ.get("wsgi.input"))


class _Connection(ServerConnection):
    def __init__(self, socket: Any, body: Any) -> None:
        super().__init__(socket)
        self._body = body

    def read_ahead(self) -> bytes:
        # The parser has read more than the head; the body, of which there is none, would have come from there.
        unreader = getattr(getattr(self._body, "reader", None), "unreader", None)
        buffer = getattr(unreader, "buf", None)
        return b"" if buffer is None else bytes(buffer.getvalue())

    def hush(self, start_response: StartResponse, sent: int) -> None:
        response: Any = getattr(start_response, "__self__", None)
        if hasattr(response, "force_close"):
            response.headers_sent = True
            response.chunked = False
            response.sent = sent
            response.force_close()

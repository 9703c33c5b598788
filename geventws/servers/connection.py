"""The TCP connection of an upgrade request, where a server other than `gevent.pywsgi` has it in its environ.

How it is found is each server's own module; what is done with it afterwards is the same for all, and here.
"""

from __future__ import annotations

import socket as _socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gevent.socket import socket as GeventSocket  # noqa: N812 (as a class is named)
from gevent.ssl import SSLSocket as GeventSSLSocket

from ..runtime import HubRuntime, Runtime
from ..threads import ThreadRuntime, ThreadTransport
from ..transport import GeventTransport, Listener, Transport

__all__ = ["NotCarried", "ServerConnection", "StartResponse"]

StartResponse = Callable[..., Callable[[bytes], object]]


class NotCarried(Exception):
    """A server that keeps its connection to itself, or cannot as it was started. The text tells its operator the remedy."""


class ServerConnection:
    """A connection that a server has accepted, and closes in the end. In between a WebSocket has it.

    Args:
        socket: the server's own: the standard library's or gevent's, plain or TLS.
        blocked: what else has to wait while one WebSocket is open, if so, and the remedy.
    """

    def __init__(self, socket: Any, blocked: str | None = None) -> None:
        self.socket = socket
        self.blocked = blocked
        on_gevent = isinstance(socket, GeventSocket)
        self.runtime: Runtime = HubRuntime.current() if on_gevent else ThreadRuntime()

    def tell_port(self, environ: dict[str, Any]) -> None:
        """Put the client's port into the environ, where the server does not, and the client is who is connected."""
        if "REMOTE_PORT" in environ:
            return
        with suppress(OSError):
            peer = self.socket.getpeername()
            if isinstance(peer, tuple) and environ.get("REMOTE_ADDR") == peer[0]:
                environ["REMOTE_PORT"] = str(peer[1])

    def take(self, listener: Listener) -> tuple[Transport, bytes]:
        """The connection as a transport, and the bytes that the server has read behind the request. Raises OSError."""
        # The server goes on to have its own, so that what it does with it in the end cannot hit another one's number. TLS
        # has a state that cannot be had twice: there it is lent.
        lent = isinstance(self.socket, ssl.SSLSocket | GeventSSLSocket)
        ours = self.socket if lent else self.socket.dup()
        transport: Transport
        if isinstance(self.runtime, ThreadRuntime):
            transport = ThreadTransport(ours, listener, self.runtime, lent=lent)
        else:
            transport = GeventTransport(ours, listener)
        # Only now, as nothing waits any more where there is nothing.
        return transport, self.read_ahead()

    def read_ahead(self) -> bytes:
        """What the server has read behind the request. For subclasses; called when the socket does not block."""
        return b""

    def end(self) -> None:
        """The WebSocket's TCP is closed. The server's own socket would keep it open until the application returns, and
        whatever the server still writes shall find nobody."""
        with suppress(OSError):
            self.socket.shutdown(_socket.SHUT_RDWR)

    def leave(self, start_response: StartResponse, sent: int) -> list[bytes]:
        """The WebSocket is over: what the server is given for an answer, so that it sends nothing and logs a 101."""
        self.end()
        # Before, so that nothing is sent; and after, where that has undone it.
        self.hush(start_response, sent)
        start_response("101 Switching Protocols", [])
        self.hush(start_response, sent)
        return []

    def hush(self, start_response: StartResponse, sent: int) -> None:
        """For subclasses that can tell their server that the answer has been sent. May be called again.

        Args:
            sent: how many bytes went to the peer, for the server's log.
        """

    def let_go(self) -> None:
        """For subclasses that have something of their own to give back, whatever has become of the request."""


def buffered(reader: Any) -> bytes:
    """What lies in a server's buffered reader."""
    peek = getattr(reader, "peek", None)
    if peek is None:
        return b""
    try:
        return bytes(peek(1))
    except OSError:
        return b""  # TLS has an error of its own for "nothing yet".

"""The WebSockets that a server has open: counted, limited, and closed together. One collection per server."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import gevent
from gevent.monkey import get_original

from .codes import CloseCode
from .exceptions import HandshakeError
from .options import WebSocketOptions
from .websocket import WebSocket

__all__ = ["OpenConnections"]

# Seconds: how often it is looked whether handlers have ended, and how long they have once they are killed.
_POLL = 0.01
_KILL = 1.0


class OpenConnections:
    """The open connections of one server, from the opening handshake on.

    `drain` is for greenlets of the server's thread; the rest also for native threads.
    """

    def __init__(self) -> None:
        # The real one: it is held for a moment only.
        self._lock = get_original("_thread", "allocate_lock")()
        self._handlers: dict[WebSocket, tuple[str, Any]] = {}
        self._per_address: dict[str, int] = {}
        self.idle: set[Any] = set()
        """Handlers that wait for a first or next request on their TCP connection."""
        self.draining = False
        """Whether new ones are refused, because the server is being stopped."""

    @classmethod
    def of(cls, server: Any) -> OpenConnections:
        """Those of `server`, which may be any `pywsgi.WSGIServer`."""
        connections = getattr(server, "websockets", None)
        if not isinstance(connections, cls):
            connections = server.websockets = cls()
        return connections

    def __len__(self) -> int:
        return len(self._handlers)

    def __iter__(self) -> Iterator[WebSocket]:
        return iter(list(self._handlers))

    def admit(self, address: str, options: WebSocketOptions) -> None:
        """Raises HandshakeError (503 or 429) if one more connection from `address` would be one too many."""
        self.check_draining()
        if options.max_connections is not None and len(self._handlers) >= options.max_connections:
            raise HandshakeError(
                "503 Service Unavailable",
                f"The server has as many WebSockets open as it may ({options.max_connections}).",
                [("Retry-After", "5")],
            )
        per_ip = options.max_connections_per_ip
        if per_ip is not None and self._per_address.get(address, 0) >= per_ip:
            raise HandshakeError(
                "429 Too Many Requests",
                f"{address} has as many WebSockets open as one address may ({per_ip}).",
                [("Retry-After", "5")],
            )

    def check_draining(self) -> None:
        """Raises HandshakeError (503) if the server is being stopped."""
        if self.draining:
            raise HandshakeError("503 Service Unavailable", "The server is being stopped.", [("Retry-After", "5")])

    def add(self, websocket: WebSocket, address: str, options: WebSocketOptions | None = None) -> None:
        """Count a connection, whose handler is the current greenlet.

        With `options` as `admit` does: where there are several threads no other one comes in between.
        """
        with self._lock:
            if options is not None:
                self.admit(address, options)
            self._handlers[websocket] = (address, gevent.getcurrent())
            self._per_address[address] = self._per_address.get(address, 0) + 1

    def remove(self, websocket: WebSocket) -> None:
        """Forget a connection. Nothing if it is not there."""
        if websocket not in self._handlers:
            return
        with self._lock:
            address, _ = self._handlers.pop(websocket, (None, None))
            if address is None:
                return
            left = self._per_address.pop(address) - 1
            if left:
                self._per_address[address] = left

    def drain(self, timeout: float, code: int = CloseCode.GOING_AWAY, reason: str = "") -> None:
        """Refuse new connections, close all with `code`, and wait for their handlers to end.

        TCP connections on which nothing is under way are closed, too.

        After `timeout` seconds TCP is closed on those peers that have not finished, and their handlers are killed.
        """
        self.draining = True
        handlers = {greenlet for _, greenlet in self._handlers.values()} - {gevent.getcurrent()}
        for handler in list(self.idle):
            with suppress(OSError):
                handler.socket.shutdown(socket.SHUT_RDWR)
        for websocket in self:
            websocket.start_closing(code, reason)
        _wait_for(handlers, timeout)
        for websocket in self:
            websocket.hang_up()
        gevent.killall([greenlet for greenlet in handlers if not greenlet.dead], block=False)
        # Not for ever: a handler may do what it likes with its end.
        _wait_for(handlers, _KILL)


def _wait_for(greenlets: Collection[Any], timeout: float) -> None:
    """Wait for greenlets, which may be raw ones that tell nobody of their end, at most `timeout` seconds."""
    until = monotonic() + timeout
    while monotonic() < until and not all(greenlet.dead for greenlet in greenlets):
        gevent.sleep(_POLL)

"""`BaseProtocol`, as in gevent-websocket: stands between a `WebSocketApplication` and its WebSocket's events."""

from __future__ import annotations

from typing import Any

__all__ = ["BaseProtocol"]


class BaseProtocol:
    """Hands the events of a connection to its application. A subclass may give them another shape on the way."""

    PROTOCOL_NAME = ""
    """The subprotocol that goes with it; empty for none."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def on_open(self) -> None:
        """The connection is there."""
        self.app.on_open()

    def on_message(self, message: str | bytes) -> None:
        """A message came in."""
        self.app.on_message(message)

    def on_close(self, reason: str | None = None) -> None:
        """The connection is closed."""
        self.app.on_close(reason)

    @property
    def app(self) -> Any:
        """The application. Raises RuntimeError if there is none."""
        if self._app is None:
            raise RuntimeError("this protocol belongs to no application")
        return self._app

    @property
    def server(self) -> Any:
        """The server that the connection is on; None while there is no connection."""
        handler = self.handler
        return None if handler is None else handler.server

    @property
    def handler(self) -> Any:
        """The handler of the connection's request; None while there is no connection."""
        ws = getattr(self.app, "ws", None)
        return None if ws is None else ws.handler

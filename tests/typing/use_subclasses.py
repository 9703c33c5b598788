"""How a program overrides what is there to be overridden, for mypy to accept; what is wrong is marked, so that a missing
error is one.
"""

from __future__ import annotations

from gevent.pywsgi import WSGIServer
from typing_extensions import assert_type

from geventws import WebSocket, WebSocketHandler, WebSocketOptions, WebSocketServer
from geventws.handler import Client
from geventws.websocket import Header


class Counting(WebSocket):
    """A WebSocket that counts pongs."""

    pongs = 0

    def handle_ping(self, header: Header, payload: bytes) -> None:
        assert_type(header.length, int)
        super().handle_ping(header, payload)

    def handle_pong(self, header: Header, payload: bytes) -> None:
        self.pongs += 1

    def handle_close(self, header: Header, payload: bytes) -> None:
        print(header.opcode, payload.decode("latin-1"))


class Wrong(WebSocket):
    def handle_pong(self, payload: bytes) -> None:  # type: ignore[override]
        pass


class Handler(WebSocketHandler):
    options = WebSocketOptions(max_message_size=2**24)
    websocket_class = Counting
    prevent_wsgi_call = True

    def run_application(self) -> None:
        super().run_application()
        assert_type(self.active_client, Client)
        assert_type(self.websocket, WebSocket | None)
        if self.websocket is not None:
            self.websocket.send("hello")


class WrongHandler(WebSocketHandler):
    options = {"max_message_size": 2**24}  # type: ignore[assignment] # noqa: RUF012
    websocket_class = Handler  # type: ignore[assignment]


class Server(WebSocketServer):
    handler_class = Handler

    def stop(self, timeout: float | None = None) -> None:
        print(len(self.clients))
        super().stop(timeout)


def main() -> None:
    assert_type(Handler.configured(compression=True), type[Handler])
    WSGIServer(("", 5000), handler_class=Handler.configured(compression=True)).serve_forever()
    Server(("", 5000)).serve_forever()

"""How a program for gevent-websocket is typed, for mypy to accept; what is wrong is marked, so that a missing error is one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from typing_extensions import assert_type

from geventws.exceptions import FrameTooLargeException, WebSocketError
from geventws.logging import create_logger
from geventws.protocols.base import BaseProtocol
from geventws.resource import Resource, WebSocketApplication
from geventws.server import WebSocketServer
from geventws.websocket import MSG_SOCKET_DEAD, WebSocket


class UpperCase(BaseProtocol):
    PROTOCOL_NAME = "upper-case"

    def on_message(self, message: str | bytes) -> None:
        super().on_message(message.upper())


class Chat(WebSocketApplication):
    protocol_class = UpperCase

    def on_open(self) -> None:
        assert_type(self.ws, WebSocket)
        self.ws.handler.active_client.nickname = "ada"
        self.ws.send("welcome")
        self.ws.send(5)  # type: ignore[arg-type]

    def on_message(self, message: str | bytes | None) -> None:
        if message is None:
            return
        try:
            self.ws.send_frame("", self.ws.OPCODE_PING)
            self.ws.send(message)
        except (WebSocketError, FrameTooLargeException):
            self.ws.close()

    def on_close(self, reason: str | None) -> None:
        print(reason == MSG_SOCKET_DEAD)


class Wrong(WebSocketApplication):
    protocol_class = Chat  # type: ignore[assignment]

    def on_message(self, message: int) -> None:  # type: ignore[override]
        pass


def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"page"]


def main() -> None:
    pairs = Resource([("^/chat", Chat), ("^/", page)])
    by_dict = Resource({"^/chat": Chat, "^/": page})
    ordered = Resource(OrderedDict([("^/chat", Chat)]))
    assert_type(pairs.app_protocol("/chat"), str)
    assert_type(Chat.protocol_name(), str)
    for resource in (pairs, by_dict, ordered, Resource(), Resource(None)):
        WebSocketServer(("", 5000), resource).serve_forever()
    Resource([("^/", 5)])  # type: ignore[list-item]
    Resource({5: page})  # type: ignore[dict-item]
    Resource("^/")  # type: ignore[arg-type]
    create_logger("chat", debug=True, format="%(message)s").info("ready")
    create_logger("chat", format=5)  # type: ignore[arg-type]

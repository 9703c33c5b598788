"""How a program runs a server of its own, for mypy to accept; what is wrong is marked, so that a missing error is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gevent.socket
import gevent.ssl
from typing_extensions import assert_type

from geventws import StreamServer, WebSocket, WebSocketHandler, WebSocketOptions, WebSocketServer
from geventws.handler import Client


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    for message in environ["wsgi.websocket"]:
        environ["wsgi.websocket"].send(message)
    return []


def only_pages(handler: WebSocketHandler) -> bool:
    return handler.client_address is None


def main() -> None:
    WebSocketServer(("", 5000), app).serve_forever()
    WebSocketServer(5000, app, max_message_size=2**24, ping_interval=None).serve_forever()
    WebSocketServer("127.0.0.1:0", app, options=WebSocketOptions(origins="*"), drain_timeout=5)
    WebSocketServer(gevent.socket.socket(), app, debug=True, pre_start_hook=only_pages, log=None)
    WebSocketServer(("", 5000), app, ssl_context=gevent.ssl.create_default_context())
    WebSocketServer(("", 5000), app, keyfile="key.pem", certfile="cert.pem")

    WebSocketServer()  # type: ignore[call-arg]
    WebSocketServer(("", 5000), app, options={"origins": "*"})  # type: ignore[arg-type]
    WebSocketServer(("", 5000), app, drain_timeout="5 s")  # type: ignore[arg-type]
    WebSocketServer(("", 5000), app, pre_start_hook=True)  # type: ignore[arg-type]


def use(server: WebSocketServer) -> None:
    server.start()
    for address, client in server.clients.items():
        assert_type(client, Client)
        client.ws.send(f"hello {address}")
        client.ws.send(address, 5)  # type: ignore[arg-type]
    server.stop()
    server.stop(timeout=1.5)
    server.stop("soon")  # type: ignore[arg-type]


def handle(ws: WebSocket) -> None:
    ws.send("hello")


def scripts() -> None:
    StreamServer(("", 5000), handle, max_message_size=2**24).serve_forever()
    StreamServer(("", 5000), lambda ws: ws.send(ws.path), drain_timeout=5).stop()

    StreamServer(("", 5000))  # type: ignore[call-arg]
    StreamServer(("", 5000), app)  # type: ignore[arg-type]

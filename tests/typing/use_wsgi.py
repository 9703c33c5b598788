"""How a WSGI program uses a WebSocket, for mypy to accept; what is wrong is marked, so that a missing error is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gevent.pywsgi import WSGIServer
from typing_extensions import assert_type

from geventws import (
    CloseCode,
    ConnectionClosed,
    HandshakeError,
    InvalidState,
    State,
    WebSocket,
    WebSocketError,
    WebSocketHandler,
    WebSocketOptions,
)

StartResponse = Callable[[str, list[tuple[str, str]]], Callable[[bytes], object]]


def echo(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    ws: WebSocket | None = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"page"]
    for message in ws:
        assert_type(message, str | bytes)
        ws.send(message)
    return []


def messages(ws: WebSocket) -> None:
    message = ws.receive()
    assert_type(message, str | bytes | None)
    ws.receive().upper()  # type: ignore[union-attr]  # None at the end, and bytes
    ws.receive(timeout=0.5)
    ws.receive(timeout="soon")  # type: ignore[arg-type]
    if isinstance(message, bytes):
        ws.send(message, binary=True)
    ws.send("text")
    ws.send(bytearray(b"binary"))
    ws.send(memoryview(b"binary"), binary=False)
    ws.send(5)  # type: ignore[arg-type]
    ws.send(None)  # type: ignore[arg-type]
    ws.send({"json": 1})  # type: ignore[arg-type]
    ws.send("text", binary="yes")  # type: ignore[arg-type]
    ws.send()  # type: ignore[call-arg]


def handshake(ws: WebSocket) -> None:
    ws.accept()
    ws.accept(subprotocol="chat.v1", headers=[("Set-Cookie", "a=b")])
    ws.accept(headers={"Set-Cookie": "a=b"})  # type: ignore[arg-type]
    ws.accept(headers=[("Content-Length", 5)])  # type: ignore[list-item]
    ws.accept(subprotocol=b"chat.v1")  # type: ignore[arg-type]
    assert_type(ws.subprotocol, str | None)
    assert_type(ws.options, WebSocketOptions)


def ending(ws: WebSocket) -> None:
    with ws as entered:
        assert_type(entered, WebSocket)
        entered.ping()
        entered.ping("payload")
        entered.ping(5)  # type: ignore[arg-type]
    ws.close()
    ws.close(4000, "enough")
    ws.close(CloseCode.GOING_AWAY, b"as in old programs")
    ws.close("enough")  # type: ignore[arg-type]
    assert_type(ws.closed, bool)
    assert_type(ws.close_code, int | None)
    assert_type(ws.close_reason, str)
    ws.closed = True  # type: ignore[misc]
    ws.close_code = 1000  # type: ignore[misc]


def properties(ws: WebSocket) -> None:
    assert_type(ws.state, State)
    assert_type(ws.path, str)
    assert_type(ws.origin, str | None)
    assert_type(ws.version, str)
    assert_type(ws.protocol, str | None)
    assert_type(ws.environ, dict[str, Any])
    assert_type(ws.id, str)
    assert_type(ws.latency, float | None)
    assert_type(ws.buffered_amount, int)
    address = ws.remote_address
    if isinstance(address, tuple):
        assert_type(address, tuple[str, int])
    print(ws.nothing)  # type: ignore[attr-defined]
    clients: dict[Any, Any] = ws.handler.server.clients
    clients.clear()


def errors(ws: WebSocket) -> int:
    try:
        ws.send("hello")
    except ConnectionClosed as error:
        assert_type(error.code, int)
        assert_type(error.reason, str)
        return error.code
    except (HandshakeError, InvalidState) as error:
        base: WebSocketError = error
        raise OSError from base
    except TimeoutError:
        pass
    raise HandshakeError("403 Forbidden", "not from here", [("Retry-After", "5")])


def refuse() -> None:
    raise HandshakeError(403, "not from here")  # type: ignore[arg-type]


def main() -> None:
    WSGIServer(("", 5000), echo, handler_class=WebSocketHandler).serve_forever()
    handler_class = WebSocketHandler.configured(max_message_size=2**24, compression=True)
    assert_type(handler_class, type[WebSocketHandler])
    WSGIServer(("", 5000), echo, handler_class=handler_class).serve_forever()
    WSGIServer(("", 5000), echo, handler_class=WebSocketHandler.configured(WebSocketOptions(ping_interval=None)))
    WebSocketHandler.configured(5)  # type: ignore[arg-type]

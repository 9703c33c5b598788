"""How a program uses the client, for mypy to accept; what is wrong is marked, so that a missing error is one."""

from __future__ import annotations

import ssl

from typing_extensions import assert_type

from geventws import HandshakeRefused, WebSocket, WebSocketOptions
from geventws.client import connect


def use() -> None:
    with connect("ws://example.com/") as ws:
        assert_type(ws, WebSocket)
        assert_type(ws.receive(), str | bytes | None)
    connect(
        "wss://example.com/",
        subprotocols=["chat.v1"],
        headers={"Cookie": "a=b"},
        origin="https://example.com",
        options=WebSocketOptions(compression=True),
        timeout=None,
        ssl_context=ssl.create_default_context(),
        proxy="http://name:password@proxy.example:3128",
        ping_interval=30.0,
    )
    connect("ws://example.com/", headers=[("Cookie", "a=b")], proxy=None)
    connect("ws://example.com/", "chat.v1")  # type: ignore[call-arg]
    connect("ws://example.com/", timeout="10")  # type: ignore[arg-type]
    try:
        connect("ws://example.com/")
    except HandshakeRefused as error:
        assert_type(error.status, str)
        assert_type(error.headers, list[tuple[str, str]])
        assert_type(error.body, bytes)

"""`WebSocketHandler`: what is HTTP about a WebSocket."""

from __future__ import annotations

from typing import Any

from rawclient import TEXT, frame


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"plain"]
    for message in ws:
        ws.send(message)
    return []


def test_a_message_is_echoed(serve: Any) -> None:
    with serve(echo).client("/") as client:
        client.send(frame(TEXT, "hello"))
        assert client.read_text() == "hello"
        assert client.close_handshake() == 1000

"""geventws on gevent's own WSGI server, with the options it has by default. `geventws_wsgi.py PORT echo|deflate|broadcast`"""

from __future__ import annotations

import sys
from typing import Any

from gevent.pywsgi import WSGIServer

import geventws
from geventws import ConnectionClosed, WebSocket, WebSocketHandler

connections: set[WebSocket] = set()


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


def broadcast(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    ws.accept()
    connections.add(ws)
    try:
        for message in ws:
            send_to_all(connections, message)
    finally:
        connections.discard(ws)
    return []


def send_one_by_one(websockets: set[WebSocket], message: str | bytes) -> None:
    for ws in list(websockets):
        try:  # noqa: SIM105  # `suppress` would be measured, too
            ws.send(message)
        except ConnectionClosed:
            pass


send_to_all = getattr(geventws, "broadcast", send_one_by_one)


def main() -> None:
    port, mode = int(sys.argv[1]), sys.argv[2]
    handler = WebSocketHandler.configured(compression=True) if mode == "deflate" else WebSocketHandler
    application = broadcast if mode == "broadcast" else echo
    WSGIServer(("127.0.0.1", port), application, handler_class=handler, log=None).serve_forever()


main()

"""gevent-websocket on gevent's WSGI server. `gevent_websocket.py PORT echo|broadcast`"""

from __future__ import annotations

import sys
from typing import Any

from gevent.pywsgi import WSGIServer
from geventwebsocket import WebSocketError
from geventwebsocket.handler import WebSocketHandler

connections: set[Any] = set()


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ.get("wsgi.websocket")
    while ws is not None:
        message = ws.receive()
        if message is None:
            break
        ws.send(message)
    return []


def broadcast(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ.get("wsgi.websocket")
    connections.add(ws)
    try:
        while ws is not None:
            message = ws.receive()
            if message is None:
                break
            for other in list(connections):
                try:  # noqa: SIM105  # `suppress` would be measured, too
                    other.send(message)
                except WebSocketError:
                    pass
    finally:
        connections.discard(ws)
    return []


application = broadcast if sys.argv[2] == "broadcast" else echo
WSGIServer(("127.0.0.1", int(sys.argv[1])), application, handler_class=WebSocketHandler, log=None).serve_forever()

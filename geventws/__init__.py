"""WebSockets for WSGI programs on gevent, and for Flask.

::

    from gevent.pywsgi import WSGIServer
    from geventws import WebSocketHandler

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        for message in ws:
            ws.send(message)
        return []

    WSGIServer(("", 5000), app, handler_class=WebSocketHandler).serve_forever()

For Flask see `geventws.flask`. Here are only names; where they come from is written in their own modules.
"""

from __future__ import annotations

from .twins import compiled  # First: it decides what the others are.

# isort: split
from .codes import CloseCode, Opcode
from .exceptions import (
    ConnectionClosed,
    HandshakeError,
    HandshakeRefused,
    InvalidPayload,
    InvalidState,
    MessageTooBig,
    ProtocolError,
    WebSocketError,
)
from .handler import WebSocketHandler
from .options import DeflateOptions, WebSocketOptions
from .protocol import State
from .resource import Resource, WebSocketApplication
from .server import StreamServer, WebSocketServer
from .websocket import WebSocket, broadcast

__all__ = [
    "CloseCode",
    "ConnectionClosed",
    "DeflateOptions",
    "HandshakeError",
    "HandshakeRefused",
    "InvalidPayload",
    "InvalidState",
    "MessageTooBig",
    "Opcode",
    "ProtocolError",
    "Resource",
    "State",
    "StreamServer",
    "WebSocket",
    "WebSocketApplication",
    "WebSocketError",
    "WebSocketHandler",
    "WebSocketOptions",
    "WebSocketServer",
    "broadcast",
    "compiled",
]

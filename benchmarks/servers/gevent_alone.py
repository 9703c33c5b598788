"""What gevent's part of a connection costs: its server, a greenlet and a socket, without WSGI. `gevent_alone.py PORT echo`

It understands just enough of a request and of a short frame, each of which has to come in one piece, to be measured.
"""

from __future__ import annotations

import sys
from base64 import b64encode
from contextlib import suppress
from hashlib import sha1
from typing import Any

from gevent.server import StreamServer

ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)


def accept(request: bytes) -> bytes:
    key = request.partition(b"Sec-WebSocket-Key: ")[2][:24]
    return ANSWER % b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def echo(frame: bytes) -> bytes:
    size = frame[1] & 127
    octets = bytes(octet ^ frame[2 + at % 4] for at, octet in enumerate(frame[6 : 6 + size]))
    return bytes((frame[0], size)) + octets


def serve(connection: Any, address: object) -> None:
    with suppress(ConnectionError):
        connection.sendall(accept(connection.recv(4096)))
        while frame := connection.recv(4096):
            connection.sendall(echo(frame))


StreamServer(("127.0.0.1", int(sys.argv[1])), serve, backlog=1024).serve_forever()

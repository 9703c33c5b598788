"""The program under test: an echo server, here of geventws, on a listening socket that it is given.

    python echo_server.py DESCRIPTOR '{"compression": true}'

The first argument is the socket's descriptor, the second holds the options of WebSocketHandler. It ends when its
standard input ends.
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gevent.os
from gevent.pywsgi import WSGIServer
from gevent.socket import socket

# In a checkout where the package is not installed.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from geventws.handler import WebSocketHandler


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


def main(descriptor: str, options: str) -> None:
    listener = socket(fileno=int(descriptor))
    handler_class = WebSocketHandler.configured(**json.loads(options))
    server = WSGIServer(listener, echo, handler_class=handler_class, log=None)
    server.start()
    # The runner holds the other end, so that a server never outlives it, however it ends.
    gevent.os.tp_read(sys.stdin.fileno(), 1)
    server.stop(timeout=0)


if __name__ == "__main__":
    main(*sys.argv[1:])

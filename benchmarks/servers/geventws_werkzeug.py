"""geventws on werkzeug's server, a native thread for each connection. `geventws_werkzeug.py PORT echo`"""

from __future__ import annotations

import logging
import sys
from typing import Any

from werkzeug.serving import run_simple

from geventws.middleware import WebSocketMiddleware


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


logging.getLogger("werkzeug").setLevel(logging.ERROR)
run_simple("127.0.0.1", int(sys.argv[1]), WebSocketMiddleware(echo), threaded=True)

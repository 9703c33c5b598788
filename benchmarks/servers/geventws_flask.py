"""geventws through a route of Flask. `geventws_flask.py PORT echo`"""

from __future__ import annotations

import sys

from flask import Flask
from gevent.pywsgi import WSGIServer

from geventws import WebSocket, WebSocketHandler
from geventws.flask import Sockets

app = Flask(__name__)
sockets = Sockets(app)


@sockets.route("/")
def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


WSGIServer(("127.0.0.1", int(sys.argv[1])), app, handler_class=WebSocketHandler, log=None).serve_forever()

"""flask-sock on gevent's WSGI server, patched as it asks for. `flask_sock_gevent.py PORT echo|deflate`

It agrees to permessage-deflate whenever a client offers it, so both modes are the same program.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from flask import Flask  # noqa: E402
from flask_sock import Sock  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402
from simple_websocket import Server  # noqa: E402

app = Flask(__name__)
sock = Sock(app)


@sock.route("/")
def echo(ws: Server) -> None:
    while True:
        ws.send(ws.receive())


WSGIServer(("127.0.0.1", int(sys.argv[1])), app, log=None).serve_forever()

"""The smallest server: a WSGI application that sends every message back, and answers ordinary requests beside it.

python examples/echo_wsgi.py
"""

import argparse
import signal

import gevent
from gevent.pywsgi import WSGIServer

from geventws.handler import WebSocketHandler

HELLO = b"""This server echoes. Open the developer tools of this very page (F12) and type into the console:

    ws = new WebSocket("ws://" + location.host)
    ws.onmessage = (event) => console.log(event.data)
    ws.onopen = () => ws.send("hello")
"""


def app(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:  # an ordinary request: answered as in any WSGI application
        start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        return [HELLO]
    for message in ws:  # str or bytes; ends when the peer closes
        ws.send(message)
    return []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    options = parser.parse_args()

    server = WSGIServer((options.host, options.port), app, handler_class=WebSocketHandler)
    server.start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(signum, server.stop)  # ends serve_forever() below, and so the program
    print(f"Echo on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

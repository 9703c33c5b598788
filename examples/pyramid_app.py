"""Pyramid: an echo, and one for those who know the word, beside an ordinary page.

python examples/pyramid_app.py
"""

import argparse
import signal

import gevent
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPUnauthorized
from pyramid.response import Response

from geventws.server import WebSocketServer

HELLO = """This server echoes. Open the developer tools of this very page (F12) and type into the console:

    ws = new WebSocket("ws://" + location.host + "/echo")
    ws.onmessage = (event) => console.log(event.data)
    ws.onopen = () => ws.send("hello")

Then try /private, which refuses the handshake, and /private?word=sesame.
"""


def page(request):
    return Response(HELLO, content_type="text/plain", charset="utf-8")


def echo(request):
    ws = request.environ.get("wsgi.websocket")
    if ws is None:
        fields = [("Upgrade", "websocket"), ("Content-Type", "text/plain; charset=utf-8")]
        return Response("This address speaks WebSocket.\n", status=426, headerlist=fields)
    for message in ws:
        ws.send(message)
    return Response()  # Pyramid insists on one. It goes nowhere: there is nobody left who waits for it.


def private(request):
    if request.params.get("word") != "sesame":
        raise HTTPUnauthorized("You do not know the word.")  # before the WebSocket is used: the answer to its handshake
    return echo(request)


with Configurator() as config:
    for path, view in (("/", page), ("/echo", echo), ("/private", private)):
        config.add_route(path, path)
        config.add_view(view, route_name=path)
    app = config.make_wsgi_app()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    options = parser.parse_args()

    server = WebSocketServer((options.host, options.port), app)
    server.start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(signum, server.stop)  # ends serve_forever() below, and so the program
    print(f"Pyramid on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

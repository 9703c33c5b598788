"""Falcon (as WSGI): an echo, and one for those who know the word, beside an ordinary page.

python examples/falcon_app.py
"""

import argparse
import signal

import falcon
import gevent

from geventws.exceptions import WebSocketError
from geventws.server import WebSocketServer

HELLO = """This server echoes. Open the developer tools of this very page (F12) and type into the console:

    ws = new WebSocket("ws://" + location.host + "/echo")
    ws.onmessage = (event) => console.log(event.data)
    ws.onopen = () => ws.send("hello")

Then try /private, which refuses the handshake, and /private?word=sesame.
"""


class Page:
    def on_get(self, req, resp):
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = HELLO


class Echo:
    def on_get(self, req, resp):
        ws = req.env.get("wsgi.websocket")
        if ws is None:
            raise falcon.HTTPError(
                falcon.HTTP_426, title="This address speaks WebSocket", headers={"Upgrade": "websocket"}
            )
        for message in ws:
            ws.send(message)
        # What is in `resp` goes nowhere: there is nobody left who waits for a response.


class Private(Echo):
    def on_get(self, req, resp):
        if req.get_param("word") != "sesame":
            # Before the WebSocket is used: the answer to its handshake.
            raise falcon.HTTPUnauthorized(title="You do not know the word")
        super().on_get(req, resp)


def leave_it_to_the_server(req, resp, error, params):
    """That a peer has left is no error, and a handshake that is refused has an answer of its own. Falcon would send a 500."""
    raise error


app = falcon.App()
app.add_error_handler(WebSocketError, leave_it_to_the_server)
app.add_route("/", Page())
app.add_route("/echo", Echo())
app.add_route("/private", Private())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    options = parser.parse_args()

    server = WebSocketServer((options.host, options.port), app)
    server.start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(signum, server.stop)  # ends serve_forever() below, and so the program
    print(f"Falcon on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

"""Bottle: an echo, and one for those who know the word, beside an ordinary page.

python examples/bottle_app.py
"""

import argparse
import signal

import bottle
import gevent

from geventws.server import WebSocketServer

HELLO = """This server echoes. Open the developer tools of this very page (F12) and type into the console:

    ws = new WebSocket("ws://" + location.host + "/echo")
    ws.onmessage = (event) => console.log(event.data)
    ws.onopen = () => ws.send("hello")

Then try /private, which refuses the handshake, and /private?word=sesame.
"""

app = bottle.Bottle()
# What goes wrong goes to the server, which knows how: it logs an exception once and closes the WebSocket with 1011, tells
# why a handshake is refused, and takes it for no error that a peer has left. Bottle would log all of it as an error.
app.catchall = False


@app.get("/")
def page():
    bottle.response.content_type = "text/plain; charset=utf-8"
    return HELLO


@app.get("/echo")
def echo():
    ws = bottle.request.environ.get("wsgi.websocket")
    if ws is None:
        raise bottle.HTTPResponse("This address speaks WebSocket.\n", 426, Upgrade="websocket")
    for message in ws:
        ws.send(message)
    # Bottle is content with None. Whatever is returned goes nowhere: there is nobody left who waits for a response.


@app.get("/private")
def private():
    if bottle.request.query.word != "sesame":
        bottle.abort(401, "You do not know the word.")  # before the WebSocket is used: the answer to its handshake
    return echo()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    options = parser.parse_args()

    server = WebSocketServer((options.host, options.port), app)
    server.start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(signum, server.stop)  # ends serve_forever() below, and so the program
    print(f"Bottle on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
